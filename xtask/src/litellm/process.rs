//! Processes that a run starts, and their children: found, signalled by identity, and always ended.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::cmd;

/// A child process in a process group of its own (Ctrl-C in a terminal does not reach it); ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    /// How it is asked to end, and how long it then has.
    ask: Signal,
    patience: Duration,
    /// Not ended when dropped.
    left: bool,
}

impl Process {
    /// Starts a command. It dies with this process, whatever way this process ends.
    ///
    /// To be called from the main thread: the kernel binds the death signal to the thread that forks.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        Self::start_lasting(name, command)
    }

    /// Starts a command that may outlive this process: see `leave`.
    pub(crate) fn start_lasting(name: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}: `{}`", cmd::shown(command)))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            ask: Signal::TERM,
            patience: Duration::from_secs(10),
            left: false,
        })
    }

    /// Lets it run on.
    pub(crate) fn leave(mut self) {
        self.left = true;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Changes how `end` asks.
    pub(crate) fn ends_by(mut self, ask: Signal, patience: Duration) -> Self {
        self.ask = ask;
        self.patience = patience;
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, if it has.
    pub(crate) fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot ask for the state of {}", self.name))
    }

    /// Asks it to end, waits, and kills what is left; its own children too.
    pub(crate) fn end(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let children = children(self.pid());
        let _ = signal(self.pid(), self.ask);
        let end = cmd::now() + self.patience;
        while matches!(self.child.try_wait(), Ok(None)) && cmd::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        for child in children
            .iter()
            .filter(|child| child.is_child_of(self.pid()))
        {
            child.signal(Signal::KILL);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.left {
            self.end();
        }
    }
}

/// Signals a process that is known to be there: our own child that has not been reaped, or one whose parent is stopped.
#[expect(
    clippy::disallowed_methods,
    reason = "only ever a child of our own that nobody else reaps, so its id cannot be reused"
)]
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = known(pid).context("process 0 is nobody's child")?;
    rustix::process::kill_process(pid, signal)
        .with_context(|| format!("cannot send {signal:?} to process {pid:?}"))
}

/// Another process's child, held by a pidfd: a reused id cannot be mistaken for it.
#[derive(Debug)]
pub(crate) struct Descendant {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

impl Descendant {
    /// Sends a signal; a process that is gone needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_held(&self.pidfd, signal);
    }

    pub(crate) fn into_held(self) -> OwnedFd {
        self.pidfd
    }

    pub(crate) fn is_child_of(&self, parent: u32) -> bool {
        parent_of(self.pid) == Some(parent)
    }
}

/// Signals the process that a pidfd holds; one that is gone needs no signal.
#[expect(
    clippy::disallowed_methods,
    reason = "a process that a run of this task started, held by a pidfd"
)]
pub(crate) fn signal_held(pidfd: &OwnedFd, signal: Signal) {
    let _ = rustix::process::pidfd_send_signal(pidfd, signal);
}

/// A hold on whatever process has this id now.
pub(crate) fn hold(pid: u32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(known(pid)?, PidfdFlags::empty()).ok()
}

/// The ids of all processes.
pub(crate) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// The children a process has now.
pub(crate) fn children(parent: u32) -> Vec<Descendant> {
    all()
        .into_iter()
        .filter(|pid| parent_of(*pid) == Some(parent))
        .filter_map(|pid| {
            let child = Descendant {
                pid,
                pidfd: hold(pid)?,
            };
            // Only now is it certain that the pidfd is the process whose parent was read.
            child.is_child_of(parent).then_some(child)
        })
        .collect()
}

/// A file for a process's output.
pub(crate) fn log_file(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

fn known(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The fourth field; the second, the name, may itself hold blanks and parentheses.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_a_hostile_name() {
        assert_eq!(parent_in("12 (a) R 9 (b) S 34 12 12 0"), Some(34));
        assert_eq!(parent_in("12 (sh"), None);
    }

    #[test]
    fn a_dropped_process_is_gone_with_its_children() {
        let shell = Process::start(
            "sh",
            Command::new("sh").args(["-c", "trap '' TERM; sleep 1000 & wait; wait"]),
        )
        .unwrap()
        .ends_by(Signal::TERM, Duration::from_millis(200));
        let pid = shell.pid();
        let end = cmd::now() + Duration::from_secs(20);
        while children(pid).is_empty() {
            assert!(cmd::now() < end, "the shell never started its child");
            std::thread::sleep(Duration::from_millis(10));
        }
        let child = children(pid).remove(0);
        drop(shell);
        assert_eq!(parent_of(pid), None);
        assert!(!child.is_child_of(pid));
    }
}
