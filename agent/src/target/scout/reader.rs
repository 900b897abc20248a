//! What the scout reads, behind a trait: tests read from something that hangs.

use std::io;

use super::activity::Reading;
use crate::pipeline::Pid;
use crate::pipeline::event::Listener;
use crate::pipeline::liveness::sharing::Hold;
use crate::pipeline::place::Place;
use crate::proc::{self, Stat};
use crate::sockets::{self, Doors};
use crate::target::cgroup::CpuStat;
use crate::target::sight::{self, Sighting};

pub(super) trait Reader: Send + Sync {
    fn processes(&self) -> io::Result<Vec<Pid>>;
    fn stat(&self, pid: Pid) -> io::Result<Stat>;
    fn exe_name(&self, pid: Pid) -> io::Result<String>;
    fn command_line(&self, pid: Pid) -> io::Result<String>;
    fn place(&self, pid: Pid) -> io::Result<Place>;
    /// `begins` is told of each file before it is read.
    fn look(&self, pid: Pid, threads: bool, begins: &dyn Fn(Reading)) -> io::Result<Sighting>;
    fn cpu_stat(&self, pid: Pid) -> Option<CpuStat>;
    fn holdings(&self, pid: Pid, port: Option<u16>) -> io::Result<Vec<(Listener, Hold)>>;
    fn doors(&self, pid: Pid) -> io::Result<Doors>;
}

pub(super) struct Procfs;

impl Reader for Procfs {
    fn processes(&self) -> io::Result<Vec<Pid>> {
        proc::processes()
    }

    fn stat(&self, pid: Pid) -> io::Result<Stat> {
        proc::stat(pid)
    }

    fn exe_name(&self, pid: Pid) -> io::Result<String> {
        proc::exe_name(pid)
    }

    fn command_line(&self, pid: Pid) -> io::Result<String> {
        proc::command_line(pid)
    }

    fn place(&self, pid: Pid) -> io::Result<Place> {
        proc::place(pid)
    }

    fn look(&self, pid: Pid, threads: bool, begins: &dyn Fn(Reading)) -> io::Result<Sighting> {
        sight::look(pid, threads, begins)
    }

    fn cpu_stat(&self, pid: Pid) -> Option<CpuStat> {
        CpuStat::open(pid)
    }

    fn holdings(&self, pid: Pid, port: Option<u16>) -> io::Result<Vec<(Listener, Hold)>> {
        sockets::holdings(pid, port)
    }

    fn doors(&self, pid: Pid) -> io::Result<Doors> {
        sockets::doors(pid)
    }
}
