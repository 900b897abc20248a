//! Engines, and what stands between them and the loop, or outside of both.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{FLAG, children, looper::answer};
use crate::sys;

/// Does nothing until it is killed. Whoever started it made it deaf to SIGINT and SIGTERM, or did not.
pub(super) fn wedged() -> Result<()> {
    answer("ready");
    sys::pause_for_ever()
}

/// Does nothing for so many milliseconds, and ends.
pub(super) fn ends_after(ms: u64) {
    answer("ready");
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

/// An engine that closes a connection when it is told to end, and waits for the other end to take what was sent, which it
/// never does.
pub(super) fn lingers() -> Result<()> {
    let set = sys::block(&[libc::SIGINT])?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut database = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (_unread, _) = listener.accept()?;
    rustix::net::sockopt::set_socket_linger(&database, Some(std::time::Duration::from_mins(1)))?;
    database.set_nonblocking(true)?;
    while database.write(&[0; 4096]).is_ok() {}
    answer("ready");
    sys::take_signal(&set)?;
    // It has other things to do first, as engines have: a moment in which its socket can be seen.
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(database);
    Ok(())
}

/// An engine whose main thread ends when it is told to, while another thread goes on: its process has not ended, its
/// leader is a zombie without `/proc/PID/exe`.
pub(super) fn leader_ends() -> Result<()> {
    let set = sys::block(&[libc::SIGUSR1])?;
    std::thread::spawn(|| sys::pause_for_ever());
    answer("ready");
    sys::take_signal(&set)?;
    sys::end_thread();
    Ok(())
}

/// A shell in between: starts the engine and waits for it.
pub(super) fn wrapper(engine: &str, part: &[&str]) -> Result<()> {
    let kind = match part {
        ["listens", port, after] => format!("late-{port}-{after}"),
        _ => "engine".to_owned(),
    };
    let engine = children::spawn(&kind, engine)?;
    answer(&format!("ready {engine}"));
    sys::wait4(engine, 0)?;
    Ok(())
}

/// Starts an engine and ends: the engine becomes the child of another. Its id is left in a file beside the program.
pub(super) fn orphan(engine: &str) -> Result<()> {
    let id = abandoned(engine)?;
    let note = Path::new(engine).with_file_name(format!("{}.orphan", std::process::id()));
    std::fs::write(&note, id.to_string())
        .with_context(|| format!("cannot write {}", note.display()))?;
    answer("ready");
    Ok(())
}

/// The same in a container; its id is told.
pub(super) fn leaves(engine: &str) -> Result<()> {
    let id = abandoned(engine)?;
    answer(&format!("ready\nleft {id}"));
    Ok(())
}

/// A deaf engine that outlives this process.
fn abandoned(engine: &str) -> Result<u32> {
    let mut command = Command::new(engine);
    command
        .args([FLAG, "engine"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: the closure only makes system calls.
    unsafe {
        command.pre_exec(|| {
            sys::ignore(libc::SIGINT)?;
            sys::ignore(libc::SIGTERM)
        });
    }
    let child = command.spawn();
    Ok(child
        .with_context(|| format!("cannot start {engine}"))?
        .id())
}

/// A debugger: traces the process, and never looks at it.
pub(super) fn tracer(pid: i32) -> Result<()> {
    sys::ptrace_seize(pid).with_context(|| format!("cannot trace {pid}"))?;
    answer("ready");
    sys::pause_for_ever()
}

/// Starts a loop in a PID namespace of its own, tells its id out here, and ends with it.
pub(super) fn nest(poller: &str) -> Result<()> {
    sys::unshare(libc::CLONE_NEWPID).context("cannot make a PID namespace")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([FLAG, "loop", poller]);
    // It may be stuck for good when its test ends.
    // SAFETY: the closure only makes a system call.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut child = command.spawn().context("cannot start the loop")?;
    answer(&format!("nested {}", child.id()));
    child.wait()?;
    Ok(())
}
