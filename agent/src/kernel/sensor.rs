//! What the agent can ask of the kernel, whichever way the plan chose: one interface, two implementations.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::plan::Plan;
use super::registers::RegisterReader;
use crate::pipeline::event::{Beat, Connects, KernelEvent, Listener, Poller, Reading, WaitReading};
use crate::pipeline::{LoopTotals, Pid, Tid};

/// A process as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub pid: Pid,
    /// Its parent.
    pub parent: Pid,
    /// Its start, nanoseconds since boot.
    pub start_ns: u64,
}

/// How a thread's record starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adoption {
    /// The thread's process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// Its own poller, if it is known already.
    pub own: Option<Poller>,
    /// Where it was found.
    pub beat: Beat,
    /// The wait it was found in.
    pub wait: Option<WaitReading>,
    /// From which length on an iteration is reported, nanoseconds.
    pub stall_after_ns: u64,
}

/// Reads the counts of watched loops from any thread, without calls or locks on the rescue path.
pub trait Totals: Send + Sync + fmt::Debug {
    /// Counts of the loop with that slot number.
    fn totals(&self, slot: u32) -> Option<LoopTotals>;
}

/// The kernel, as far as the agent needs it. One owner: the rescue thread.
pub trait Sensor: Send + fmt::Debug {
    /// What was chosen, and why.
    fn plan(&self) -> &Plan;
    /// Becomes readable when events wait; `None` when there are none and only looking helps.
    fn events_fd(&self) -> Option<BorrowedFd<'_>>;
    /// Takes the waiting events.
    fn drain(&mut self, take: &mut dyn FnMut(KernelEvent));
    /// Makes a process known: its pollers if it is watched, its signals, exec and exit in any case.
    fn know(
        &mut self,
        pid: Pid,
        start_ns: u64,
        parent: Pid,
        watched: bool,
    ) -> Result<(), super::KernelError>;
    /// Forgets a process.
    fn forget(&mut self, pid: Pid);
    /// The start time under which a process is known and has not ended; the check that an id was not reused.
    fn alive(&self, pid: Pid) -> Option<u64>;
    /// Gives a thread a record; `None` if none is free (counted).
    fn adopt(&mut self, adoption: Adoption) -> Option<u32>;
    /// Takes the record from a thread. With `ignore` it is not reported again.
    fn release(&mut self, tid: Tid, ignore: bool);
    /// Sets from which length on an iteration is reported, nanoseconds.
    fn set_stall_after(&mut self, tid: Tid, nanoseconds: u64);
    /// Says which poller is a thread's own.
    fn set_own(&mut self, tid: Tid, own: Poller);
    /// Asks for an event at the thread's next entry to its own poller.
    fn notify(&mut self, tid: Tid);
    /// Looks at a thread's record.
    fn read(&mut self, tid: Tid) -> Option<Reading>;
    /// Reports who on this machine connects to that port from now on.
    fn watch_port(&mut self, listener: Listener) -> Result<(), super::KernelError> {
        let _ = listener;
        Err(super::KernelError::NoConnections)
    }
    /// Does so no more.
    fn forget_port(&mut self, listener: Listener) {
        let _ = listener;
    }
    /// From now on reports where known processes listen, and counts what watched ones connect to on their own machine.
    fn follow_engines(&mut self) -> Result<(), super::KernelError> {
        Err(super::KernelError::NoConnections)
    }
    /// Reports the first connection that a known process takes, or does so no more: it costs each read of a TCP connection.
    fn follow_reads(&mut self, wanted: bool) -> Result<(), super::KernelError> {
        let _ = wanted;
        Err(super::KernelError::NoConnections)
    }
    /// What watched processes connected to so far.
    fn connects(&mut self) -> Vec<Connects> {
        Vec::new()
    }
    /// Forgets one of these counts.
    fn forget_connects(&mut self, connects: &Connects) {
        let _ = connects;
    }
    /// A handle on the counts.
    fn totals(&self) -> Arc<dyn Totals>;
    /// Every process of the machine with its exact start; empty if the kernel cannot list them.
    fn list(&mut self) -> Vec<Listed>;
    /// Gives away what reads where threads are, once: it belongs on a thread that may wait. Without BPF, one that has procfs.
    fn take_registers(&mut self) -> RegisterReader {
        RegisterReader::without_bpf()
    }
    /// What was lost so far, by name.
    fn lost(&self) -> Vec<(&'static str, u64)>;
}
