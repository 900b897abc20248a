//! The parts this program plays when a test starts it again: loops, engines, and what stands around them.
//!
//! A loop is told what to do over its standard input, a command a line, and answers on its standard output. Everything
//! dies with the process that started it.

use anyhow::{Result, bail};

mod calls;
mod children;
mod engine;
mod looper;
mod podded;
mod prober;
mod recorder;
mod server;
mod stalls;
mod threads;
mod waits;

/// First argument of a victim.
pub(crate) const FLAG: &str = "--victim";

/// Plays the part that the arguments after [`FLAG`] name.
pub(crate) fn play(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    children::connect()?;
    match words.as_slice() {
        ["loop", poller, rest @ ..] => looper::run(poller, rest),
        ["engine"] => engine::wedged(),
        ["ends-after", ms] => {
            engine::ends_after(ms.parse()?);
            Ok(())
        }
        ["recorder", pid, mode, grace, engine] => recorder::run(pid, mode, grace, engine),
        ["podded", pid, uid, container, engine] => {
            let known = podded::Known {
                uid,
                container,
                engine,
            };
            podded::run(pid, &known)
        }
        ["kubelet", port, probe] => prober::probes(port.parse()?, probe),
        ["client", port] => prober::comes_often(port.parse()?),
        ["listens", port, after] => server::listens(port.parse()?, after),
        ["leader-ends"] => engine::leader_ends(),
        ["wrapper", engine, part @ ..] => engine::wrapper(engine, part),
        ["orphan", engine] => engine::orphan(engine),
        ["leaves", engine] => engine::leaves(engine),
        ["tracer", pid] => engine::tracer(pid.parse()?),
        ["nest", poller] => engine::nest(poller),
        ["keeper"] => children::keeper(),
        ["lingers"] => engine::lingers(),
        ["holds", end] => stalls::holds(end),
        ["locks", way, path, end] => stalls::locks(way, path, end),
        ["calls", way] => calls::run(way),
        ["burner"] => threads::burn(),
        ["pool"] => threads::pool(),
        ["polls-once"] => threads::polls_once(),
        ["exits", status] => {
            looper::answer(&format!("leaving with {status}"));
            std::process::exit(status.parse()?)
        }
        _ => bail!("no such part: {words:?}"),
    }
}
