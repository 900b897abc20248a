//! A loop whose process makes other processes at a high rate from a second thread, and knows how many events that was.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::super::sys::mono_ns;
use super::{Order, Poller, report};

/// What it did: each is one event of the kernel half.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::measure) struct Stormed {
    pub(in crate::measure) forks: u64,
    pub(in crate::measure) execs: u64,
    pub(in crate::measure) exits: u64,
    pub(in crate::measure) signals: u64,
    pub(in crate::measure) lasted_ns: u64,
}

impl Stormed {
    pub(in crate::measure) fn events(&self) -> u64 {
        self.forks + self.execs + self.exits + self.signals
    }
}

/// Reports when the storm is over, and nothing at the end.
pub(super) fn run(processes: u64, per_second: u64, exec_every: u64) -> Result<()> {
    let poller = Poller::start()?;
    while poller.order()? == Order::Go {
        let storm = move || report(&storm(processes, per_second, exec_every)?);
        std::thread::spawn(move || {
            if let Err(error) = storm() {
                eprintln!("the storm failed: {error:#}");
                std::process::exit(1);
            }
        });
    }
    Ok(())
}

fn storm(processes: u64, per_second: u64, exec_every: u64) -> Result<Stormed> {
    let start = mono_ns();
    let mut done = Stormed::default();
    for number in 0..processes {
        let due_ns = number * 1_000_000_000 / per_second.max(1);
        if let Some(early) = due_ns
            .checked_sub(mono_ns() - start)
            .filter(|early| *early > 1_000_000)
        {
            std::thread::sleep(Duration::from_nanos(early));
        }
        if exec_every > 0 && number % exec_every == 0 {
            let status = Command::new("/bin/true").stdin(Stdio::null()).status();
            status.context("cannot run /bin/true")?;
            done.execs += 1;
        } else {
            make_and_reap()?;
        }
        done.forks += 1;
        done.exits += 1;
        // To itself, because nobody else is sure to be alive still; it is running already, so nothing comes of it.
        super::super::sys::signal_child(std::process::id(), Signal::CONT)?;
        done.signals += 1;
    }
    done.lasted_ns = mono_ns() - start;
    Ok(done)
}

fn make_and_reap() -> Result<()> {
    // SAFETY: the child makes one system call and ends; it touches no lock that another thread may hold.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(0) };
    }
    if pid < 0 {
        return Err(std::io::Error::last_os_error()).context("fork failed");
    }
    let mut status = 0;
    // SAFETY: the child is ours and `status` is alive.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        bail!("waitpid({pid}) failed: {}", std::io::Error::last_os_error());
    }
    Ok(())
}
