//! How a loop starts its children.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::FLAG;
use crate::sys;

/// Starts a child of a kind from a program (this one under another name), and returns when it runs and is deaf.
pub(super) fn spawn(kind: &str, program: &str) -> Result<i32> {
    match kind {
        "contained" => contained(program),
        "loop" => start(program, &["loop", "epoll_wait"], 0),
        "engine" | "leader-ends" => start(program, &[kind], 0),
        // Ends when it is told to.
        "polite" => start_with(program, &["engine"], 0, false),
        "wrapper" | "orphan" => {
            // The name of the engine behind it comes after a colon.
            let (outer, engine) = program.split_once(':').context("no engine named")?;
            start(outer, &[kind, engine], 0)
        }
        _ => bail!("no such kind of child: {kind}"),
    }
}

fn start(program: &str, part: &[&str], namespaces: i32) -> Result<i32> {
    start_with(program, part, namespaces, true)
}

fn start_with(program: &str, part: &[&str], namespaces: i32, deaf: bool) -> Result<i32> {
    let mut command = Command::new(program);
    command
        .arg(FLAG)
        .args(part)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // SAFETY: the closure only makes system calls.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // Before exec, so that no signal can come too early.
            if deaf {
                sys::ignore(libc::SIGINT)?;
                sys::ignore(libc::SIGTERM)?;
            }
            if namespaces != 0 {
                sys::unshare(namespaces)?;
            }
            Ok(())
        });
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut out = child.stdout.take().context("no output")?;
    let mut first = [0];
    out.read_exact(&mut first)
        .with_context(|| format!("{program} {part:?} did not get ready"))?;
    // Kept open: a child that answers later must not end because nobody listens.
    std::mem::forget(out);
    i32::try_from(child.id()).context("a process id beyond the kernel's own limit")
}

/// Starts an engine that has PID and mount namespaces of its own.
fn contained(program: &str) -> Result<i32> {
    let own = std::fs::File::open("/proc/self/ns/pid").context("cannot open the PID namespace")?;
    sys::unshare(libc::CLONE_NEWPID).context("cannot make a PID namespace")?;
    let child = start(program, &["engine"], libc::CLONE_NEWNS);
    // Later children are born here again.
    sys::setns(own.as_fd(), libc::CLONE_NEWPID).context("cannot come back to the PID namespace")?;
    child
}

/// Ends this process when the one that started it does.
pub(super) fn die_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(PR_SET_PDEATHSIG) failed")
}
