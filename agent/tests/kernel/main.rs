//! Tests of the agent on a real kernel: real loops, real engines, the real `loopwarden watch`.
//!
//! One program that needs nothing but a kernel, the agent and a folder to write to, so that the same file runs on a
//! developer's machine and as the only program of a virtual one. Started again with [`victim::FLAG`] it plays a loop or an
//! engine for its own tests. Nothing is skipped inside a test: what cannot run somewhere is left out by name, and said.

use libtest_mimic::Arguments;

mod cases;
mod harness;
mod left_out;
mod sys;
mod victim;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((flag, part)) = words.split_first()
        && flag == victim::FLAG
    {
        if let Err(error) = victim::play(part) {
            eprintln!("victim {part:?}: {error:#}");
            std::process::exit(1);
        }
        return;
    }
    let mut arguments = Arguments::from_args();
    if let Err(error) = harness::make_programs().and_then(|()| harness::shared::make_keepers()) {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
    let cases = left_out::without(cases::all(), arguments.list);
    let trials = cases.into_iter().map(cases::Case::trial).collect();
    // Tests mostly wait for the kernel to attach and detach hooks, not for a processor.
    arguments.test_threads = arguments.test_threads.or(Some(8));
    let conclusion = libtest_mimic::run(&arguments, trials);
    let ended = harness::shared::end();
    harness::remove_programs();
    if let Err(error) = ended {
        eprintln!("ending the shared agents: {error:#}");
        std::process::exit(101);
    }
    conclusion.exit();
}
