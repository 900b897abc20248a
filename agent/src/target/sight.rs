//! A first look at a process: who it is and where its threads are, read once.

use std::io;

use super::scout::activity::Reading;
use crate::kernel::thread_call::{Found, found};
use crate::pipeline::family::Container;
use crate::pipeline::place::Place;
use crate::pipeline::{Pid, Tid};
use crate::proc;

/// A look at a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Which.
    pub pid: Pid,
    /// Its parent.
    pub parent: Pid,
    /// Its start in nanoseconds since boot, cut to hundredths of a second.
    pub coarse_start_ns: u64,
    /// Basename of its executable; empty if it could not be read.
    pub exe: String,
    /// Its number in its parent's PID namespace, if it could be told.
    pub ns_pid: Option<i32>,
    /// Where it runs; `None` if it could not be read.
    pub container: Option<Container>,
    /// What its cgroups tell of that; `None` if they could not be read.
    pub place: Option<Place>,
    /// Its threads and what they were found in; empty if it is not to be watched.
    pub threads: Vec<(Tid, Found)>,
    /// Its epoll descriptors; empty likewise.
    pub epolls: Vec<i32>,
}

/// Looks at a process; with `threads`, at its threads and descriptors too. `begins` is told what is read before it is.
pub fn look(pid: Pid, threads: bool, begins: &dyn Fn(Reading)) -> io::Result<Sighting> {
    begins(Reading::Stat);
    let stat = proc::stat(pid)?;
    begins(Reading::Exe);
    let exe = proc::exe_name(pid).unwrap_or_default();
    begins(Reading::Status);
    let ns_pid = number_for_parent(pid, stat.parent);
    begins(Reading::Container);
    let place = proc::place(pid).ok();
    let container = place
        .as_ref()
        .and_then(|place| proc::container(pid, place).ok());
    let mut sighting = Sighting {
        pid,
        parent: stat.parent,
        coarse_start_ns: proc::start_ns(&stat),
        exe,
        ns_pid,
        container,
        place,
        threads: Vec::new(),
        epolls: Vec::new(),
    };
    if threads {
        begins(Reading::Thread);
        for tid in proc::threads(pid)? {
            begins(Reading::Thread);
            sighting.threads.push((tid, found(pid, tid)));
        }
        begins(Reading::Descriptors);
        sighting.epolls = proc::epoll_descriptors(pid).unwrap_or_default();
    }
    Ok(sighting)
}

/// A process's number as its parent sees it: `NSpid` has one entry a level, and the parent's depth says which.
#[must_use]
pub fn number_for_parent(pid: Pid, parent: Pid) -> Option<i32> {
    let depth = proc::status(parent).ok()?.ns_pids.len();
    proc::status(pid)
        .ok()?
        .ns_pids
        .get(depth.checked_sub(1)?)
        .copied()
}
