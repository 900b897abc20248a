//! One signal to one child.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::pipeline::{Outcome, PidKey, Refusal, Signal};

/// A child held by a pidfd: its id cannot come to mean another process.
#[derive(Debug)]
pub struct Child {
    /// Who it is.
    pub key: PidKey,
    pidfd: OwnedFd,
}

impl Child {
    /// Opens a process. What was open before the caller's own check of identity is what the check is about.
    pub fn open(key: PidKey) -> Result<Self, Errno> {
        let raw = i32::try_from(key.pid.0).map_err(|_| Errno::SRCH)?;
        let pid = rustix::process::Pid::from_raw(raw).ok_or(Errno::SRCH)?;
        Ok(Self {
            key,
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        })
    }

    /// Whether it has ended: a zombie counts as ended, whatever signals it still takes.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(ready) if ready > 0)
    }

    fn send(&self, signal: Signal) -> Result<(), Errno> {
        let signal = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that signals, after re-verification"
        )]
        rustix::process::pidfd_send_signal(&self.pidfd, signal)
    }
}

/// Opens the child, lets the caller verify everything once more while the pidfd pins it, and only then signals.
///
/// Returns what became of it, the child if it was signalled, and the error of the call if one failed.
pub fn strike(
    key: PidKey,
    signal: Signal,
    verify: impl FnOnce() -> Result<(), Refusal>,
) -> (Outcome, Option<Child>, Option<String>) {
    let child = match Child::open(key) {
        Ok(child) => child,
        Err(Errno::SRCH) => return (Outcome::Gone, None, None),
        Err(error) => {
            return (
                Outcome::Failed,
                None,
                Some(format!("pidfd_open({}) failed: {error}", key.pid)),
            );
        }
    };
    if let Err(refusal) = verify() {
        return (Outcome::Refused(refusal), None, None);
    }
    if child.has_ended() {
        return (Outcome::Gone, None, None);
    }
    match child.send(signal) {
        Ok(()) => (Outcome::Sent, Some(child), None),
        Err(Errno::SRCH) => (Outcome::Gone, None, None),
        Err(Errno::PERM) => {
            let why = format!(
                "pidfd_send_signal({}) was refused: the agent needs CAP_KILL",
                key.pid
            );
            (Outcome::Refused(Refusal::NoPermission), None, Some(why))
        }
        Err(error) => {
            let why = format!(
                "pidfd_send_signal({}, {}) failed: {error}",
                key.pid,
                signal.name()
            );
            (Outcome::Failed, None, Some(why))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::{Child as Process, Command};

    use super::*;
    use crate::pipeline::Pid;

    fn sleeper() -> Process {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn key(process: &Process) -> PidKey {
        PidKey {
            pid: Pid(process.id()),
            start_ns: 1,
        }
    }

    #[test]
    fn the_pidfd_tells_the_end() {
        let mut process = sleeper();
        let (outcome, child, _) = strike(key(&process), Signal::Kill, || Ok(()));
        assert_eq!(outcome, Outcome::Sent);
        let child = child.unwrap();
        // A zombie until it is reaped, and ended all the same.
        while !child.has_ended() {
            std::thread::yield_now();
        }
        assert_eq!(strike(child.key, Signal::Kill, || Ok(())).0, Outcome::Gone);
        process.wait().unwrap();
        assert_eq!(strike(child.key, Signal::Kill, || Ok(())).0, Outcome::Gone);
    }

    #[test]
    fn a_failed_verification_signals_nobody() {
        let mut process = sleeper();
        let asked = Cell::new(false);
        let (outcome, child, _) = strike(key(&process), Signal::Kill, || {
            asked.set(true);
            Err(Refusal::WaitOver)
        });
        assert_eq!(outcome, Outcome::Refused(Refusal::WaitOver));
        assert!(asked.get() && child.is_none());
        assert!(
            process.try_wait().unwrap().is_none(),
            "the process must live"
        );
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
