//! What a stalled thread is stuck on, from what procfs and its record show at one moment. Says `unknown` rather than guess.

use super::cause::{Cause, CauseKind, ChildCause};
use super::evidence::Details;

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
    /// A file or device.
    File,
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
    /// The child it waits for, if it waits for one that is known.
    pub child: Option<ChildCause>,
    /// It waits for children (in the call, or polling with naps).
    pub waits: bool,
    /// It is inside its own poller, which has overrun its timeout.
    pub in_own_poll: bool,
    /// Nanoseconds on a CPU and on the run queue since the last look, if both looks could be taken.
    pub scheduled: Option<Scheduled>,
    /// What was found out beside this look, about the same call.
    pub details: Details,
}

/// What the scheduler says of the time between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    /// Length of the time.
    pub window_ns: u64,
    /// On a CPU.
    pub run_ns: u64,
    /// Runnable, and not given one.
    pub wait_ns: u64,
}

const F_SETLKW: u64 = 7;
const F_OFD_SETLKW: u64 = 38;

/// Names the cause.
#[must_use]
pub fn classify(facts: &ThreadFacts) -> Cause {
    let syscall = match &facts.doing {
        Doing::Call { name, .. } => Some(name.clone()),
        _ => None,
    };
    let child = if facts.waits {
        facts.child.clone()
    } else {
        None
    };
    Cause {
        kind: kind(facts),
        syscall,
        child,
        peer: facts
            .details
            .socket
            .as_ref()
            .and_then(|socket| socket.peer.clone()),
        file: facts.details.file.clone(),
        holder_pid: facts.details.holder.as_ref().map(|holder| holder.pid),
    }
}

fn kind(facts: &ThreadFacts) -> CauseKind {
    if matches!(facts.state, 'T' | 't') {
        return CauseKind::Stopped;
    }
    if facts.waits {
        return CauseKind::ChildWait;
    }
    match &facts.doing {
        Doing::Running => cpu(facts),
        Doing::Call {
            name,
            descriptor,
            args,
            ..
        } if !facts.in_own_poll => call(name, *descriptor, args[1]),
        _ => CauseKind::Unknown,
    }
}

/// Running and waiting for a CPU look the same from outside; the scheduler's accounts tell them apart.
fn cpu(facts: &ThreadFacts) -> CauseKind {
    match facts.scheduled {
        Some(times) if times.run_ns.saturating_mul(2) > times.window_ns => CauseKind::CpuBusy,
        Some(times) if times.wait_ns.saturating_mul(2) > times.window_ns => CauseKind::CpuStarved,
        _ => CauseKind::Unknown,
    }
}

fn call(name: &str, descriptor: Option<Descriptor>, operation: u64) -> CauseKind {
    match (name, descriptor) {
        ("nanosleep" | "clock_nanosleep", _) => CauseKind::Sleep,
        ("flock", _) => CauseKind::FileLock,
        ("fcntl", _) if matches!(operation, F_SETLKW | F_OFD_SETLKW) => CauseKind::FileLock,
        ("fsync" | "fdatasync", _) => CauseKind::DiskWait,
        ("connect" | "recvfrom" | "recvmsg" | "sendto" | "sendmsg" | "accept" | "accept4", _) => {
            CauseKind::NetworkWait
        }
        (
            "read" | "write" | "readv" | "writev" | "pread64" | "pwrite64" | "poll" | "ppoll",
            Some(what),
        ) => match what {
            Descriptor::Socket => CauseKind::NetworkWait,
            Descriptor::Pipe => CauseKind::PipeWait,
            Descriptor::File if !name.contains("poll") => CauseKind::DiskWait,
            _ => CauseKind::Unknown,
        },
        // A futex is a lock, a condition or the interpreter's own lock: the last cannot be told from here.
        _ => CauseKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_call(name: &str, descriptor: Option<Descriptor>, operation: u64) -> ThreadFacts {
        let doing = Doing::Call {
            name: name.into(),
            fd: descriptor.map(|_| 3),
            descriptor,
            args: [0, operation, 0, 0, 0, 0],
        };
        ThreadFacts {
            state: 'S',
            doing,
            ..ThreadFacts::default()
        }
    }

    fn running(run_ns: u64, wait_ns: u64) -> ThreadFacts {
        let scheduled = Some(Scheduled {
            window_ns: 100,
            run_ns,
            wait_ns,
        });
        ThreadFacts {
            state: 'R',
            doing: Doing::Running,
            scheduled,
            ..ThreadFacts::default()
        }
    }

    #[test]
    fn causes_are_named_from_facts_and_never_guessed() {
        use Descriptor::{File, Pipe, Socket};
        let table = [
            (in_call("clock_nanosleep", None, 0), CauseKind::Sleep),
            (
                ThreadFacts {
                    waits: true,
                    ..in_call("clock_nanosleep", None, 0)
                },
                CauseKind::ChildWait,
            ),
            (
                ThreadFacts {
                    waits: true,
                    ..in_call("wait4", None, 0)
                },
                CauseKind::ChildWait,
            ),
            (
                ThreadFacts {
                    state: 'T',
                    ..in_call("epoll_wait", None, 0)
                },
                CauseKind::Stopped,
            ),
            (in_call("recvfrom", Some(Socket), 0), CauseKind::NetworkWait),
            (in_call("poll", Some(Socket), 0), CauseKind::NetworkWait),
            (in_call("poll", Some(File), 0), CauseKind::Unknown),
            (in_call("read", Some(Pipe), 0), CauseKind::PipeWait),
            (in_call("read", Some(File), 0), CauseKind::DiskWait),
            (in_call("read", None, 0), CauseKind::Unknown),
            (in_call("flock", Some(File), 6), CauseKind::FileLock),
            (in_call("fcntl", Some(File), 7), CauseKind::FileLock),
            (in_call("fcntl", Some(File), 3), CauseKind::Unknown),
            (in_call("futex", None, 0x89), CauseKind::Unknown),
            (running(90, 5), CauseKind::CpuBusy),
            (running(5, 90), CauseKind::CpuStarved),
            (running(40, 40), CauseKind::Unknown),
            (
                ThreadFacts {
                    doing: Doing::Running,
                    ..ThreadFacts::default()
                },
                CauseKind::Unknown,
            ),
            (
                ThreadFacts {
                    in_own_poll: true,
                    ..in_call("epoll_wait", None, 0)
                },
                CauseKind::Unknown,
            ),
            (
                ThreadFacts {
                    in_own_poll: true,
                    ..running(3, 97)
                },
                CauseKind::CpuStarved,
            ),
            (ThreadFacts::default(), CauseKind::Unknown),
        ];
        for (facts, expected) in table {
            assert_eq!(classify(&facts).kind, expected, "{facts:?}");
        }
    }
}
