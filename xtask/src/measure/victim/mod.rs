//! `xtask victim`, hidden: what the measurements watch. One process, one epoll loop on its main thread.
//!
//! A victim prints `null` once its loop is about to run, does what its role does when its stdin says `go`, prints what it
//! recorded as one line of JSON, and ends when its stdin is closed. It tells times by `CLOCK_MONOTONIC`, as the agent does.

mod calls;
mod idle;
mod spin;
mod stall;
mod storm;
mod wedge;

use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll;
use serde::Serialize;

pub(super) use calls::Costs;
pub(super) use spin::Spun;
pub(super) use stall::Stall;
pub(super) use storm::Stormed;
pub(super) use wedge::Wedged;

/// What a victim does.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Role {
    /// Waits in `epoll_wait` without timeout, or polls so many times a second
    Idle {
        #[arg(default_value_t = 0)]
        polls_per_second: u64,
    },
    /// After `go`, sleeps in its loop now and then
    Stall { seed: u64 },
    /// At each `go`, sleeps in its loop
    Sleep { milliseconds: u64 },
    /// After `go`, iterates about so many times a second; 0: as often as it can
    Spin { per_second: u64 },
    /// After `go`, a second thread makes processes, one after the other, and signals; every so many-th runs a program
    Storm {
        processes: u64,
        per_second: u64,
        exec_every: u64,
    },
    /// Starts this program as an engine that ignores signals; after `go`, tells it to end and waits for it
    Wedge { engine: std::path::PathBuf },
    /// The engine of a wedge
    Engine,
    /// After each `go`, times so many calls
    Calls { count: u64 },
}

impl Role {
    /// The role as arguments.
    pub(super) fn words(&self) -> Vec<std::ffi::OsString> {
        let (name, numbers): (&str, &[u64]) = match self {
            Self::Idle { polls_per_second } => ("idle", &[*polls_per_second]),
            Self::Stall { seed } => ("stall", &[*seed]),
            Self::Sleep { milliseconds } => ("sleep", &[*milliseconds]),
            Self::Spin { per_second } => ("spin", &[*per_second]),
            Self::Storm {
                processes,
                per_second,
                exec_every,
            } => ("storm", &[*processes, *per_second, *exec_every]),
            Self::Wedge { engine } => return vec!["wedge".into(), engine.into()],
            Self::Engine => ("engine", &[]),
            Self::Calls { count } => ("calls", &[*count]),
        };
        let numbers = numbers.iter().map(|number| number.to_string().into());
        std::iter::once(name.into()).chain(numbers).collect()
    }
}

/// Plays a role until stdin is closed.
pub(crate) fn run(role: &Role) -> Result<()> {
    match role {
        Role::Idle { polls_per_second } => idle::run(*polls_per_second),
        Role::Stall { seed } => stall::run(*seed),
        Role::Sleep { milliseconds } => stall::when_told(Duration::from_millis(*milliseconds)),
        Role::Spin { per_second } => spin::run(*per_second),
        Role::Storm {
            processes,
            per_second,
            exec_every,
        } => storm::run(*processes, *per_second, *exec_every),
        Role::Wedge { engine } => wedge::run(engine),
        Role::Engine => wedge::engine(),
        Role::Calls { count } => calls::run(*count),
    }
}

/// What stdin says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Go,
    End,
}

/// An epoll descriptor that watches stdin.
#[derive(Debug)]
struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// Makes it and says that the loop is about to run.
    fn start() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .context("cannot make an epoll descriptor")?;
        epoll::add(
            &epoll,
            std::io::stdin(),
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )
        .context("cannot watch stdin")?;
        report(&())?;
        Ok(Self { epoll })
    }

    /// One `epoll_wait`, whatever happens: iterations are counted by calls. Milliseconds, -1 for no timeout.
    fn wait(&self, timeout_ms: i32) -> Result<bool> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: the descriptor is open, and the kernel writes at most the one event that there is room for.
        let ready =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, timeout_ms) };
        if ready < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error).context("epoll_wait failed");
            }
        }
        Ok(ready > 0)
    }

    /// Waits for what stdin says.
    fn order(&self) -> Result<Order> {
        while !self.wait(-1)? {}
        order()
    }
}

/// Reads stdin, which has something.
fn order() -> Result<Order> {
    let mut bytes = [0; 64];
    let count = std::io::stdin()
        .lock()
        .read(&mut bytes)
        .context("cannot read stdin")?;
    match &bytes[..count] {
        b"" => Ok(Order::End),
        b"go\n" => Ok(Order::Go),
        other => bail!(
            "stdin says {:?}, not \"go\"",
            String::from_utf8_lossy(other)
        ),
    }
}

/// Prints one line of JSON.
fn report(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).context("cannot write a report as JSON")?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&line)
        .and_then(|()| stdout.flush())
        .context("cannot print a report")
}
