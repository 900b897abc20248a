//! The ways in which a loop waits for a child.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::looper::answer;
use crate::sys::{self, PollCall, Waited};

/// Between two looks of a wait that naps, as in Python's `Popen.wait(timeout=…)`.
const NAP: Duration = Duration::from_millis(50);

/// Opens what the way of waiting needs beforehand.
pub(super) fn prepare(way: &str, pid: i32) -> Result<Option<OwnedFd>> {
    if !way.starts_with("pidfd") {
        return Ok(None);
    }
    let raw = Pid::from_raw(pid).context("no process id")?;
    pidfd_open(raw, PidfdFlags::empty())
        .map(Some)
        .with_context(|| format!("pidfd_open({pid}) failed"))
}

/// A poll on the pidfd of a process that need not be a child.
pub(super) fn watch(pid: i32) -> Result<()> {
    let pidfd = prepare("pidfd_poll", pid)?.context("no pidfd")?;
    answer(&format!("waiting {}", sys::mono_ns()));
    poll_pidfd(&pidfd)?;
    answer("waited");
    Ok(())
}

/// Waits until the child ends, in the way named.
pub(super) fn wait(way: &str, pid: i32, pidfd: Option<&OwnedFd>) -> Result<Waited> {
    let fd = || pidfd.context("no pidfd");
    let waited = match way {
        "wait4" => sys::wait4(pid, 0),
        "waitid" => sys::waitid(libc::P_PID, pid, libc::WEXITED),
        "pidfd_waitid" => sys::waitid(libc::P_PIDFD, fd()?.as_raw_fd(), libc::WEXITED),
        "pidfd_poll" => {
            poll_pidfd(fd()?)?;
            sys::wait4(pid, 0)
        }
        "naps" => nap(pid, None),
        // Gives up after some looks and leaves the child unreaped.
        "naps_10" => nap(pid, Some(10)),
        // What leaves the wait, and is stuck on something else until it is woken.
        "naps_then_sleeps" => nap(pid, Some(4)).and_then(|_| sleeps()),
        "looks_then_receives" => looks_then_receives(pid),
        "interrupted_then_sleeps" => sys::wait4_until_woken(pid).and_then(|()| sleeps()),
        "reaps_another_then_sleeps" => sys::reap_any_unasked().and_then(|()| sleeps()),
        // What ends here is not the child: no wait in the sense of the agent.
        "stopped_only" => sys::waitid(libc::P_PID, pid, libc::WSTOPPED),
        "leaves_zombie" => sys::waitid(libc::P_PID, pid, libc::WEXITED | libc::WNOWAIT),
        _ => bail!("no such way of waiting: {way}"),
    };
    match waited {
        // `stopped_only` ends so when the child has ended.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Waited::Nothing),
        waited => waited.with_context(|| format!("{way} on {pid} failed")),
    }
}

fn nap(pid: i32, looks: Option<u32>) -> io::Result<Waited> {
    let mut looked = 0;
    loop {
        let waited = sys::wait4(pid, libc::WNOHANG)?;
        looked += 1;
        if waited != Waited::Nothing || looks == Some(looked) {
            return Ok(waited);
        }
        std::thread::sleep(NAP);
    }
}

fn sleeps() -> io::Result<Waited> {
    answer("left");
    sys::nap().map(|()| Waited::Nothing)
}

/// Two looks in a row, as `send_signal` and `poll` of Python's `Popen` make, and then the network.
fn looks_then_receives(pid: i32) -> io::Result<Waited> {
    sys::be_wakeable()?;
    let (silent, _open) = UnixStream::pair()?;
    for _ in 0..2 {
        sys::wait4(pid, libc::WNOHANG)?;
    }
    answer("left");
    match rustix::net::recv(&silent, &mut [0; 1], rustix::net::RecvFlags::empty()) {
        Err(rustix::io::Errno::INTR) => Ok(Waited::Nothing),
        Err(error) => Err(error.into()),
        Ok(_) => Err(io::Error::other("nobody sends anything")),
    }
}

/// Blocks until the process behind the pidfd has ended.
pub(super) fn poll_pidfd(pidfd: &OwnedFd) -> io::Result<()> {
    while !sys::wait_readable(PollCall::Poll, None, pidfd.as_fd(), -1)? {}
    Ok(())
}
