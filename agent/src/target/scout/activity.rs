//! What a thread of the scout reads, and since when: written by it, read by the rescue thread, neither waits for the other.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::kernel::clock;
use crate::pipeline::{Mono, Pid};

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The list of all processes.
    Processes,
    /// `stat`
    Stat,
    /// The link `exe`.
    Exe,
    /// `status`, its own and its parent's.
    Status,
    /// `cgroup`, or the links `ns/pid` and `ns/mnt`.
    Container,
    /// What a thread is in.
    Thread,
    /// The links and information of descriptors.
    Descriptors,
    /// The tables of its network namespace, and the links of its descriptors.
    Sockets,
    /// `cmdline`
    CommandLine,
    /// `cpu.stat` of its cgroups.
    CpuStat,
}

impl Reading {
    const ALL: [Self; 10] = [
        Self::Processes,
        Self::Stat,
        Self::Exe,
        Self::Status,
        Self::Container,
        Self::Thread,
        Self::Descriptors,
        Self::Sockets,
        Self::CommandLine,
        Self::CpuStat,
    ];

    /// The file, as a sentence names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processes => "the list of processes",
            Self::Stat => "stat",
            Self::Exe => "exe",
            Self::Status => "status",
            Self::Container => "cgroup and namespaces",
            Self::Thread => "task/TID/syscall",
            Self::Descriptors => "fd and fdinfo",
            Self::Sockets => "net/tcp and fd",
            Self::CommandLine => "cmdline",
            Self::CpuStat => "cpu.stat of its cgroups",
        }
    }
}

/// What a thread does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doing {
    pub(super) since: Mono,
    pub(super) pid: Option<Pid>,
    pub(super) reading: Reading,
}

#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Since when, 0 between two questions.
    since: AtomicU64,
    pid: AtomicU32,
    reading: AtomicU8,
    /// It hung, and another thread works in its place; or nobody needs it any more.
    left: AtomicBool,
    /// In a read about which process.
    left_in: AtomicU32,
}

impl Activity {
    pub(super) fn begins(&self, pid: Option<Pid>, reading: Reading) {
        self.pid
            .store(pid.map_or(0, |pid| pid.0), Ordering::Relaxed);
        self.reading.store(reading as u8, Ordering::Relaxed);
        // Last: who sees the time of a read sees which one it is, or a later one.
        self.since.store(clock::now().0.max(1), Ordering::Release);
    }

    pub(super) fn rests(&self) {
        self.since.store(0, Ordering::Release);
    }

    pub(super) fn doing(&self) -> Option<Doing> {
        let since = self.since.load(Ordering::Acquire);
        let pid = self.pid.load(Ordering::Relaxed);
        let reading = usize::from(self.reading.load(Ordering::Relaxed));
        (since != 0).then(|| Doing {
            since: Mono(since),
            pid: (pid != 0).then_some(Pid(pid)),
            reading: Reading::ALL.get(reading).copied().unwrap_or(Reading::Stat),
        })
    }

    pub(super) fn leave(&self, pid: Option<Pid>) {
        self.left_in
            .store(pid.map_or(0, |pid| pid.0), Ordering::Relaxed);
        self.left.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// The process that is avoided since then.
    pub(super) fn left_in(&self) -> Option<Pid> {
        let pid = self.left_in.load(Ordering::Relaxed);
        (pid != 0).then_some(Pid(pid))
    }
}
