//! The incident in small: a loop tells its engine to end and waits for it; the engine does not end.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::super::sys::{mono_ns, signal_child};
use super::super::victims::die_with_us;
use super::{Order, Poller, report};

/// One wedge, as the loop saw it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::measure) struct Wedged {
    pub(in crate::measure) engine: u32,
    /// The engine was told to end, and the wait began.
    pub(in crate::measure) wait_ns: u64,
    /// The wait was over.
    pub(in crate::measure) reaped_ns: u64,
    /// The loop was about to poll.
    pub(in crate::measure) polled_ns: u64,
}

/// For each `go` one wedge and its report. A new engine is started after each, so that there is one when `go` comes.
pub(super) fn run(engine: &Path) -> Result<()> {
    let poller = Poller::start()?;
    let mut child = start(engine)?;
    while poller.order()? == Order::Go {
        let id = child.id();
        signal_child(id, Signal::INT)?;
        let wait_ns = mono_ns();
        child.wait().context("cannot wait for the engine")?;
        let reaped_ns = mono_ns();
        let polled_ns = mono_ns();
        poller.wait(0)?;
        report(&Wedged {
            engine: id,
            wait_ns,
            reaped_ns,
            polled_ns,
        })?;
        child = start(engine)?;
    }
    let _ = child.kill();
    let _ = child.wait();
    Ok(())
}

/// Starts an engine and waits until it ignores signals.
fn start(engine: &Path) -> Result<Child> {
    let mut command = Command::new(engine);
    command
        .args(["victim", "engine"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    die_with_us(&mut command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", engine.display()))?;
    let mut stdout = child.stdout.take().context("the engine has no stdout")?;
    stdout
        .read_exact(&mut [0])
        .context("the engine did not start")?;
    Ok(child)
}

/// The engine: ignores the signals that ask it to end, until one comes that does not ask.
pub(super) fn engine() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, std::sync::Arc::default())
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    std::io::stdout()
        .write_all(b".")
        .and_then(|()| std::io::stdout().flush())
        .context("nobody started this engine")?;
    loop {
        std::thread::park();
    }
}
