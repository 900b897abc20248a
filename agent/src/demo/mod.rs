//! The self-contained demonstration: the incident twice, side by side, once with Loopwarden and once without.
//!
//! Two small single-threaded HTTP servers on epoll, each with an engine child, run as processes of their own (this binary
//! in other roles). Both are wedged in the same moment: the loop thread waits, without a time-out, for an engine that does
//! not react. A model of the kubelet probes and kills as the real one would; one of the two is guarded by a real
//! `loopwarden watch`. The demo must touch no process but its own, listen on 127.0.0.1 only, and leave nothing behind. All
//! that it shows is measured in this run.
//!
//! `kubelet`, `script`, `happening`, `story`, `text`, `picture`, `narrate` and `report` are pure; `stage` and `lane` hold the
//! processes, `prober` the clients, `show` the course of events.

mod clock;
mod engine;
mod guard;
mod happening;
pub mod kubelet;
mod lane;
mod narrate;
mod picture;
mod prober;
mod report;
mod role;
mod screen;
mod script;
mod server;
mod show;
mod stage;
mod story;
mod text;

use std::time::Duration;

use anyhow::Result;

use kubelet::ProbeSpec;
pub use role::{RoleArgs, role};

/// Arguments of `loopwarden demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// JSON lines on standard output: the servers, what the guard says, and the result as the last line
    #[arg(long)]
    pub json: bool,
    /// The kubelet's probe settings: PERIOD/TIMEOUT/FAILURES [default: 2s/1s/3]
    #[arg(long, value_name = "P/T/F")]
    pub probe: Option<ProbeSpec>,
    /// From the kubelet's SIGTERM to its SIGKILL (terminationGracePeriodSeconds)
    #[arg(long, value_name = "DUR", default_value = "3s", value_parser = crate::config::duration::parse)]
    pub termination_grace: Duration,
    /// How long the guard lets an engine be that was told to end
    #[arg(long, value_name = "DUR", default_value = "500ms", value_parser = crate::config::duration::parse)]
    pub grace: Duration,
    /// Only the unprotected half; needs no privileges
    #[arg(long)]
    pub unguarded: bool,
}

/// Runs the demo, and returns the exit status. Must be called from the main thread: the processes it starts end with the thread that started them.
pub fn run(args: &Args) -> Result<u8> {
    show::Show::open(args)?.play()
}
