//! What the kernel half reports and what its records show, in the pipeline's own terms.

use std::time::Duration;

use super::ids::{Mono, Pid, Tid};

/// Kind of a poll call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PollClass {
    /// `epoll_wait` and its variants.
    Epoll,
    /// `poll`, `ppoll`.
    Poll,
    /// `select`, `pselect6`.
    Select,
}

/// A port on which a process listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener {
    /// Inode of the network namespace.
    pub netns: u32,
    /// The port.
    pub port: u16,
}

/// An address of the own machine, as far as it is told apart: its kind and its last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// IPv6; an IPv4 address in an IPv6 socket is an IPv4 address.
    pub v6: bool,
    /// The last word; 0 is any address.
    pub word: u32,
}

impl Place {
    /// Whether who listens here is reached there. A socket for any IPv6 address takes IPv4 too.
    #[must_use]
    pub const fn takes(self, other: Place) -> bool {
        if self.word == 0 {
            return self.v6 || !other.v6;
        }
        self.v6 == other.v6 && self.word == other.word
    }
}

/// Where a process connects to on its own machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// The port.
    pub port: Listener,
    /// The address.
    pub place: Place,
}

/// How often a process connected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connects {
    /// By whom.
    pub pid: Pid,
    /// Where to.
    pub peer: Peer,
    /// Handshakes that were completed.
    pub ok: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// When the first of the last run of refused ones was, without a completed one between.
    pub first_refused: Option<Mono>,
    /// When the last of all was.
    pub last: Mono,
}

/// How a connection ended for who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeEnd {
    /// Something was sent back.
    Answered,
    /// Who asked closed it without an answer.
    GivenUp,
    /// The other side closed it without an answer.
    Refused,
}

/// What a thread polls: the epoll descriptor, or the first (lowest) descriptor of the set, which recurs from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Poller {
    /// Kind of call.
    pub class: PollClass,
    /// Descriptor, -1 for an empty set.
    pub fd: i32,
}

/// What a wait call waits for, as its arguments say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Awaited {
    /// Any child.
    Any,
    /// One process, by its number in the caller's PID namespace.
    Process(i32),
    /// A process group, likewise; 0 is the caller's own.
    Group(i32),
    /// The process behind a pidfd of the caller.
    PidFd(i32),
}

/// Options of wait4 and waitid.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct WaitOptions {
    /// The system call's bits.
    pub bits: u32,
    /// Whether it is waitid, which waits for an exit only when told so.
    pub waitid: bool,
}

impl WaitOptions {
    const NOHANG: u32 = 1;
    const EXITED: u32 = 4;
    const NOWAIT: u32 = 0x0100_0000;

    /// Returns at once when no child has ended.
    #[must_use]
    pub const fn polls(self) -> bool {
        self.bits & Self::NOHANG != 0
    }

    /// Whether the call ends when the child ends, and takes it: waitid without `WEXITED` or with `WNOWAIT` does not.
    #[must_use]
    pub const fn awaits_exit(self) -> bool {
        self.bits & Self::NOWAIT == 0 && (!self.waitid || self.bits & Self::EXITED != 0)
    }
}

/// How a wait episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitEnd {
    /// A child was reaped.
    Reaped,
    /// There was no such child.
    Failed,
    /// The thread polls again.
    Polled,
    /// The thread waits for something else.
    Other,
}

/// One event from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEvent {
    /// When it happened.
    pub at: Mono,
    /// Process it is about.
    pub pid: Pid,
    /// Thread it is about.
    pub tid: Tid,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A thread of a watched process polled for the first time.
    PollerSeen {
        /// What it polls.
        poller: Poller,
        /// The system call's number.
        syscall: u32,
    },
    /// A loop thread began to wait for children.
    WaitBegan {
        /// First entry of the episode.
        start: Mono,
        /// For what.
        awaited: Awaited,
        /// How.
        options: WaitOptions,
    },
    /// The episode that began at `start` is over.
    WaitEnded {
        /// First entry of the episode.
        start: Mono,
        /// How.
        how: WaitEnd,
    },
    /// A loop thread polls one descriptor that is not its own poller.
    NestedPoll {
        /// First entry of the call.
        start: Mono,
        /// What it polls.
        poller: Poller,
    },
    /// A loop is back at its own poller after a long iteration, or after one that was asked about.
    LoopPolled {
        /// When the iteration began.
        since: Mono,
    },
    /// A poll returned later than its own timeout.
    PollOverran {
        /// When it should have returned.
        deadline: Mono,
    },
    /// A process was made.
    Forked {
        /// By whom (its parent).
        parent: Pid,
        /// Its number in the parent's PID namespace, if it could be read.
        ns_pid: Option<i32>,
        /// Its start, nanoseconds since boot.
        start_ns: u64,
        /// Whether it is watched from its first instant.
        watched: bool,
    },
    /// A process ran another program.
    Execed {
        /// Its parent.
        parent: Pid,
        /// Its start, nanoseconds since boot.
        start_ns: u64,
        /// Basename of the executable; empty if it could not be read.
        exe: String,
    },
    /// A process ended.
    Exited {
        /// Its start, nanoseconds since boot.
        start_ns: u64,
        /// Status as wait sees it.
        status: i32,
    },
    /// A thread that had a record ended.
    ThreadEnded,
    /// The process has a connection to a watched port: perhaps a probe.
    ProbeBegan {
        /// Where to.
        listener: Listener,
        /// When it was asked for.
        start: Mono,
        /// Network namespace from which.
        netns: u32,
    },
    /// That connection is over for who asked for it.
    ProbeEnded {
        /// Where to.
        listener: Listener,
        /// When it was asked for.
        start: Mono,
        /// Network namespace from which.
        netns: u32,
        /// How.
        how: ProbeEnd,
    },
    /// The process listens on a port from now on.
    Listening {
        /// Which.
        listener: Listener,
        /// On which address.
        place: Place,
    },
    /// The process has taken in what came over the first connection to a port.
    Accepted {
        /// Which.
        listener: Listener,
    },
    /// A signal was sent to the process.
    Signalled {
        /// By whom.
        sender: Pid,
        /// Which.
        signal: i32,
    },
}

/// Whether a loop is inside its own poller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// No poll was seen yet.
    Unknown,
    /// Inside its own poller.
    Polling {
        /// Since when.
        since: Mono,
        /// When the poll must return; `None` without timeout.
        deadline: Option<Mono>,
    },
    /// Away from its own poller.
    Busy {
        /// Since when.
        since: Mono,
    },
}

/// A wait episode as the record shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitReading {
    /// First entry.
    pub start: Mono,
    /// Entry of the call the thread is in, if it is in one.
    pub call: Option<Mono>,
    /// Entry of the last call.
    pub last: Mono,
    /// Longest time between two entries so far.
    pub gap: Duration,
    /// How many calls.
    pub calls: u32,
    /// For what.
    pub awaited: Awaited,
    /// How.
    pub options: WaitOptions,
}

/// Looks with WNOHANG that are further apart are no wait.
const NAPS_ARE_SHORTER: Duration = Duration::from_secs(1);
/// A thread that looks as often as it can may be kept from it for that long.
const LOOKS_ARE_RARER: Duration = Duration::from_millis(10);

impl WaitReading {
    /// The thread is in a call that blocks.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.call.is_some() && !self.options.polls()
    }

    /// The thread looks again and again without blocking, and is not late for its next look: it naps for as long as before,
    /// or up to twice as long. One that has left the wait for something else looks the same for that long.
    #[must_use]
    pub fn looks_again(&self, now: Mono) -> bool {
        let naps = (self.gap * 2).clamp(LOOKS_ARE_RARER, NAPS_ARE_SHORTER);
        self.options.polls() && self.calls > 1 && now.since(self.last) <= naps
    }

    /// It looks as often as it can, without naps.
    #[must_use]
    pub fn never_naps(&self) -> bool {
        self.gap <= LOOKS_ARE_RARER
    }
}

/// A poll of something else within an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NestedReading {
    /// What is polled.
    pub poller: Poller,
    /// First entry of the same call in this iteration.
    pub first: Mono,
}

/// One look at a loop's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Whether it polls.
    pub beat: Beat,
    /// Number of the system call it polls with, 0 if none was seen.
    pub syscall: u32,
    /// Finished iterations.
    pub iterations: u64,
    /// The wait episode, if there is one.
    pub wait: Option<WaitReading>,
    /// The nested poll it is in, if any.
    pub nested: Option<NestedReading>,
    /// Pollers it has used, with counts.
    pub pollers: Vec<(Poller, u64)>,
}
