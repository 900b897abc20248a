//! A quick look at a stalled thread: files of procfs that never block on the process's memory or file systems.

use super::accounts::{Accounts, Wanted};
use super::loops::Loop;
use crate::kernel::syscalls;
use crate::kernel::thread_call::{ThreadCall, thread_call};
use crate::pipeline::classify::{Descriptor, Doing, ThreadFacts};
use crate::pipeline::event::{Beat, Reading};
use crate::pipeline::evidence::Details;
use crate::pipeline::interpreter::Word;
use crate::pipeline::{ChildCause, LoopId, Mono, Pid};
use crate::proc;
use crate::target::cgroup::CpuStat;
use crate::target::freezer::Freezer;

/// What is known of a loop beside what procfs shows.
pub(super) struct Known<'a> {
    /// The child it waits for.
    pub(super) child: Option<ChildCause>,
    /// Who sent its process the signal that stopped it.
    pub(super) stopped_by: Option<Pid>,
    /// Its cgroup's CPU accounts.
    pub(super) cpu_stat: Option<&'a CpuStat>,
    /// Tells whether its cgroup is frozen.
    pub(super) freezer: &'a Freezer,
    /// Whose word an address in its memory is.
    pub(super) word: &'a dyn Fn(u64) -> Word,
}

/// Looks at the thread, and at its accounts since `before`.
pub(super) fn look(
    id: LoopId,
    reading: &Reading,
    before: Option<&Accounts>,
    known: Known<'_>,
    now: Mono,
) -> (ThreadFacts, Accounts) {
    let (pid, tid) = (id.process.pid, id.tid);
    let kernel_function = proc::kernel_function(pid, tid);
    let doing = doing(id, reading, kernel_function.as_deref());
    let stat = proc::thread_stat(pid, tid).ok();
    let state = stat.map_or('?', |stat| stat.state);
    let running = doing == Doing::Running;
    let (word, others) = match &doing {
        Doing::Call { name, args, .. } if name == "futex" => ((known.word)(args[0]), args[3] != 0),
        _ => (Word::Unknown, false),
    };
    let wanted = Wanted {
        running,
        major_faults: stat.map_or(0, |stat| stat.major_faults),
        throttling: known
            .cpu_stat
            .filter(|_| running)
            .and_then(CpuStat::throttling),
        others,
    };
    let mut accounts = Accounts::read(id, wanted, now);
    let scheduled = before.and_then(|before| accounts.since(before));
    let computes = scheduled.is_some_and(|times| times.run_ns > times.window_ns / 2);
    let in_own_poll = matches!(reading.beat, Beat::Polling { .. }) && may_poll(&doing);
    let facts = ThreadFacts {
        state,
        waits: still_waits(reading, &doing, now, computes) || polls_pidfd(reading, &known),
        doing,
        frozen: known.freezer.holds(id, state, kernel_function.as_deref()),
        kernel_function,
        child: known.child,
        in_own_poll,
        word,
        scheduled,
        stopper: match state {
            'T' => known.stopped_by.filter(|sender| sender.0 != 0),
            't' => proc::tracer(pid, tid),
            _ => None,
        },
        details: Details::default(),
    };
    (facts, accounts)
}

fn polls_pidfd(reading: &Reading, known: &Known<'_>) -> bool {
    reading.wait.is_none() && reading.nested.is_some() && known.child.is_some()
}

/// In a wait call, or between two of several: one look with WNOHANG is no wait.
pub(super) fn waits(reading: &Reading) -> bool {
    reading
        .wait
        .is_some_and(|wait| wait.calls > 1 || (wait.call.is_some() && !wait.options.polls()))
}

/// Whether a thread waits for children right now, and not only before in the same iteration: what a signal needs. Two witnesses:
/// the hooks, and procfs, because a hook that the kernel skips once would leave the thread in a wait for the rest of the iteration.
pub(super) fn waits_now(id: LoopId, reading: &Reading, now: Mono) -> bool {
    let doing = doing(id, reading, None);
    match (reading.wait, &doing) {
        (Some(wait), Doing::Call { name, .. }) if wait.blocks() => name.starts_with("wait"),
        // Not to be had without permission to trace: then the hooks stand alone.
        (Some(wait), Doing::Unreadable) if wait.blocks() => true,
        (Some(wait), _) => wait.looks_again(now) && is_between_looks(&doing),
        // A poll of a pidfd, or else there would be no episode.
        (None, Doing::Call { name, .. }) => {
            reading.nested.is_some() && (is_any_poll(name) || name == "restart_syscall")
        }
        (None, _) => reading.nested.is_some() && doing == Doing::Unreadable,
    }
}

/// Whether procfs agrees that a thread is in its poll: the exit may not have been seen.
fn may_poll(doing: &Doing) -> bool {
    match doing {
        Doing::Call { name, .. } => is_any_poll(name) || name == "restart_syscall",
        Doing::Running | Doing::Elsewhere | Doing::Unreadable => true,
    }
}

fn is_any_poll(name: &str) -> bool {
    name.contains("poll") || name.contains("select")
}

/// The same as a cause tells it.
fn still_waits(reading: &Reading, doing: &Doing, now: Mono, computes: bool) -> bool {
    let Some(wait) = reading.wait.filter(|_| waits(reading)) else {
        return false;
    };
    if wait.blocks() {
        // Its exit may not have been seen: then procfs shows another call.
        return !matches!(doing, Doing::Call { name, .. } if !name.starts_with("wait"));
    }
    // A thread that computes and looks now and then does not wait.
    let busy = *doing == Doing::Running && computes && !wait.never_naps();
    wait.looks_again(now) && is_between_looks(doing) && !busy
}

/// Whether a thread that looks without blocking may be about to look again.
fn is_between_looks(doing: &Doing) -> bool {
    match doing {
        Doing::Call { name, fd, .. } => {
            name.contains("nanosleep")
                || name.starts_with("wait")
                || (fd.is_none() && (name.contains("select") || name.contains("poll")))
        }
        Doing::Running | Doing::Elsewhere | Doing::Unreadable => true,
    }
}

/// The call a thread is in, if it is in one.
pub(super) fn doing(id: LoopId, reading: &Reading, kernel_function: Option<&str>) -> Doing {
    let pid = id.process.pid;
    match thread_call(pid, id.tid) {
        Ok(ThreadCall::Running) => Doing::Running,
        Ok(ThreadCall::Elsewhere) => Doing::Elsewhere,
        Ok(ThreadCall::In { number, args }) => {
            let name = resumed(syscalls::name(number), kernel_function);
            let fd = match reading.nested {
                // Its descriptors are in the process's memory; the hook has seen them.
                Some(nested) if is_poll(&name) => Some(nested.poller.fd).filter(|fd| *fd >= 0),
                _ if syscalls::is_about_descriptor(&name) => i32::try_from(args[0]).ok(),
                _ => None,
            };
            let link = fd.and_then(|fd| proc::descriptor(pid, fd).ok());
            Doing::Call {
                name,
                fd: fd.filter(|_| link.is_some()),
                descriptor: link.as_deref().map(descriptor),
                args,
            }
        }
        Err(_) => Doing::Unreadable,
    }
}

fn is_poll(name: &str) -> bool {
    matches!(name, "poll" | "ppoll" | "select" | "pselect6")
}

/// A call that a signal or the freezer interrupted goes on under another number, with its own arguments.
fn resumed(name: String, kernel_function: Option<&str>) -> String {
    if name != "restart_syscall" {
        return name;
    }
    let call = match kernel_function.unwrap_or_default() {
        "hrtimer_nanosleep" | "do_nanosleep" => "nanosleep",
        "futex_wait" | "futex_do_wait" | "futex_wait_queue" | "futex_wait_queue_me" => "futex",
        "poll_schedule_timeout" | "do_sys_poll" | "do_poll" => "poll",
        _ => return name,
    };
    call.to_owned()
}

fn descriptor(link: &str) -> Descriptor {
    if link.starts_with("socket:") {
        Descriptor::Socket
    } else if link.starts_with("pipe:") {
        Descriptor::Pipe
    } else if link.starts_with("/dev/") && !link.starts_with("/dev/shm/") {
        Descriptor::Device
    } else if link.starts_with('/') {
        Descriptor::File
    } else {
        Descriptor::Other
    }
}

/// Since when a loop is away from its poller, if it is: busy, or in a poll that should have returned.
pub(super) fn away_since(watched: &Loop, reading: &Reading, now: Mono) -> Option<Mono> {
    let since = match reading.beat {
        Beat::Busy { since } => since,
        Beat::Polling {
            deadline: Some(deadline),
            ..
        } if deadline < now => deadline,
        _ => return None,
    };
    Some(
        watched
            .adopted_busy
            .map_or(since, |first_seen| first_seen.max(since)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::event::{Awaited, WaitOptions, WaitReading};

    const NOW: Mono = Mono(10_000_000_000);

    /// `calls` looks so far, the last one `ago_ms` before now and at most `gap_ms` between two of them.
    fn reading(calls: u32, in_call: bool, bits: u32, (gap_ms, ago_ms): (u64, u64)) -> Reading {
        let last = Mono(NOW.0 - ago_ms * 1_000_000);
        Reading {
            beat: Beat::Busy { since: Mono(1) },
            syscall: 0,
            iterations: 0,
            wait: Some(WaitReading {
                start: Mono(2),
                call: in_call.then_some(last),
                last,
                gap: std::time::Duration::from_millis(gap_ms),
                calls,
                awaited: Awaited::Any,
                options: WaitOptions {
                    bits,
                    waitid: false,
                },
            }),
            nested: None,
            pollers: Vec::new(),
        }
    }

    fn call(name: &str, fd: Option<i32>) -> Doing {
        Doing::Call {
            name: name.into(),
            fd,
            descriptor: None,
            args: [0; 6],
        }
    }

    #[test]
    fn naps_between_looks_are_a_wait_and_what_comes_after_is_not() {
        let nap = || call("clock_nanosleep", None);
        let table = [
            (reading(1, true, 0, (0, 5000)), call("wait4", None), true),
            // Interrupted, and not entered again.
            (reading(1, false, 0, (0, 1)), nap(), false),
            // One look is no wait.
            (reading(1, false, 1, (0, 1)), nap(), false),
            (reading(2, false, 1, (50, 60)), nap(), true),
            (reading(9, false, 1, (50, 120)), nap(), false),
            (reading(9, false, 1, (900, 990)), nap(), true),
            (reading(9, false, 1, (900, 1500)), nap(), false),
            (reading(2, false, 1, (50, 50)), call("select", None), true),
            (reading(2, false, 1, (50, 50)), call("poll", Some(5)), false),
            (
                reading(2, false, 1, (50, 1)),
                call("recvfrom", Some(5)),
                false,
            ),
            // Two looks in a row, and then a long sleep.
            (reading(2, false, 1, (0, 100)), nap(), false),
            (reading(900, false, 1, (1, 2)), Doing::Running, true),
            (reading(2, false, 1, (1, 100)), Doing::Running, false),
            // It computes, and looks now and then.
            (reading(9, false, 1, (200, 100)), Doing::Running, false),
        ];
        for (reading, doing, expected) in table {
            assert_eq!(
                still_waits(&reading, &doing, NOW, doing == Doing::Running),
                expected,
                "{:?} {doing:?}",
                reading.wait
            );
        }
    }

    #[test]
    fn an_interrupted_call_keeps_its_name() {
        let restart = || "restart_syscall".to_owned();
        assert_eq!(resumed(restart(), Some("hrtimer_nanosleep")), "nanosleep");
        assert_eq!(resumed(restart(), Some("futex_do_wait")), "futex");
        assert_eq!(resumed(restart(), None), "restart_syscall");
        assert_eq!(resumed("read".into(), Some("futex_do_wait")), "read");
    }
}
