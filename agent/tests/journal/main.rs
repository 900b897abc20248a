//! The journal against kill -9, rotation, a hostile disk, its readers, and a collector that is away: the real thread, real files, the real command.
//!
//! This program is the test, and started again by itself it is the agent that is killed while it writes, or while nobody takes its
//! events.

mod agent;
mod collector;
mod command;
mod disk;
#[path = "../export_support/mod.rs"]
mod export_support;
mod kill;
mod late;
mod writer;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if let Some(dir) = std::env::var_os(writer::DIR) {
        if let Ok(collector) = std::env::var(agent::COLLECTOR) {
            agent::run(dir.as_ref(), &collector);
        }
        writer::write(dir.as_ref());
    }
    let trials = vec![
        Trial::test("killed_at_any_moment", || {
            kill::killed_at_any_moment();
            Ok(())
        }),
        Trial::test("rotation_under_fire", || {
            kill::rotation_under_fire();
            Ok(())
        }),
        Trial::test("a_full_disk", || {
            disk::a_full_disk();
            Ok(())
        }),
        Trial::test("two_agents", || {
            disk::two_agents();
            Ok(())
        }),
        Trial::test("shows_and_filters", || {
            command::shows_and_filters();
            Ok(())
        }),
        Trial::test("what_cannot_be_read_is_told", || {
            command::what_cannot_be_read_is_told();
            Ok(())
        }),
        Trial::test("after_an_outage", || {
            late::after_an_outage();
            Ok(())
        }),
        Trial::test("after_a_restart", || {
            late::after_a_restart();
            Ok(())
        }),
        Trial::test("a_collector_that_refuses", || {
            late::a_collector_that_refuses();
            Ok(())
        }),
        Trial::test("more_than_the_exporters_hold", || {
            late::more_than_the_exporters_hold();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
