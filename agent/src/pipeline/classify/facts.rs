//! The facts of one quick look at a stalled thread.

use crate::pipeline::cause::ChildCause;
use crate::pipeline::evidence::Details;
use crate::pipeline::ids::Pid;
use crate::pipeline::interpreter::Word;

/// What the thread does in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Doing {
    /// On a CPU or waiting for one.
    Running,
    /// Asleep in this system call.
    Call {
        /// Its name.
        name: String,
        /// The descriptor that it is about, where it is about one.
        fd: Option<i32>,
        /// What that refers to.
        descriptor: Option<Descriptor>,
        /// Its arguments.
        args: [u64; 6],
    },
    /// Asleep, and not in a system call.
    Elsewhere,
    /// It could not be read.
    #[default]
    Unreadable,
}

/// Kind of file behind a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptor {
    /// A socket.
    Socket,
    /// A pipe.
    Pipe,
    /// A file with a path.
    File,
    /// A device, which may be a terminal or a disk.
    Device,
    /// Something else (eventfd, epoll, …).
    Other,
}

/// The facts of one look.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ThreadFacts {
    /// State letter of the thread.
    pub state: char,
    /// What it does.
    pub doing: Doing,
    /// Where in the kernel it sleeps, if it sleeps and that may be read.
    pub kernel_function: Option<String>,
    /// It is parked in the freezer of its cgroup.
    pub frozen: bool,
    /// The child it waits for, if it waits for one that is known.
    pub child: Option<ChildCause>,
    /// It waits for children (in the call, or polling with naps).
    pub waits: bool,
    /// It is inside its own poller, which has overrun its timeout.
    pub in_own_poll: bool,
    /// Whose futex it sleeps on, if it is in futex.
    pub word: Word,
    /// What the accounts say of the time since the last look, if both looks could be taken.
    pub scheduled: Option<Scheduled>,
    /// Who stopped or traces it, if it is stopped and that is known.
    pub stopper: Option<Pid>,
    /// What was found out beside this look, about the same call.
    pub details: Details,
}

/// What the kernel's accounts say of the time between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scheduled {
    /// Length of the time.
    pub window_ns: u64,
    /// On a CPU.
    pub run_ns: u64,
    /// Runnable, and not given one.
    pub wait_ns: u64,
    /// How often it was given a CPU.
    pub slices: u64,
    /// Faults that had to wait for a page.
    pub major_faults: u64,
    /// On a CPU, all other threads of the process together.
    pub others_ran_ns: Option<u64>,
    /// How long its cgroup and those above were throttled; known late, at the end of each throttling.
    pub throttled_ns: Option<u64>,
    /// How often they were.
    pub throttlings: Option<u64>,
    /// Time in which CPUs of the machine had nothing to do, divided by their number.
    pub idle_ns: Option<u64>,
}

impl ThreadFacts {
    /// Whether two looks met the thread in the same wait: what was found out about one holds for the other.
    #[must_use]
    pub fn same_wait(&self, other: &Self) -> bool {
        match (&self.doing, &other.doing) {
            (
                Doing::Call {
                    name,
                    fd,
                    descriptor,
                    args,
                },
                Doing::Call {
                    name: other_name,
                    fd: other_fd,
                    descriptor: other_descriptor,
                    args: other_args,
                },
            ) => {
                let same = name == other_name && fd == other_fd && descriptor == other_descriptor;
                // The interpreter lock is taken in many short waits, on words that take turns.
                let interpreters = [self.word, other.word] == [Word::InterpreterLock; 2];
                // A nap between looks at a child is another thing than a sleep after them.
                let same = same && self.waits == other.waits;
                same && (name != "futex" || interpreters || args[0] == other_args[0])
            }
            (one, another) => one == another,
        }
    }
}

impl Scheduled {
    /// Whether a part is more than half of the time.
    pub(super) const fn is_most(&self, part_ns: u64) -> bool {
        part_ns.saturating_mul(2) > self.window_ns
    }

    /// Asleep.
    #[must_use]
    pub const fn blocked_ns(&self) -> u64 {
        self.window_ns
            .saturating_sub(self.run_ns)
            .saturating_sub(self.wait_ns)
    }
}
