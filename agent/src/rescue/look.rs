//! A quick look at a stalled thread: files of procfs that never block on the process's memory or file systems.

use super::loops::Loop;
use crate::kernel::syscalls;
use crate::kernel::thread_call::{ThreadCall, thread_call};
use crate::pipeline::classify::{Descriptor, Doing, Scheduled, ThreadFacts};
use crate::pipeline::event::{Beat, Reading};
use crate::pipeline::evidence::Details;
use crate::pipeline::{ChildCause, LoopId, Mono};
use crate::proc;

/// The scheduler's accounts of a thread at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accounts {
    at: Mono,
    run_ns: u64,
    wait_ns: u64,
}

/// Looks at the thread. `child` is what is known of the child it waits for.
pub(super) fn look(
    id: LoopId,
    reading: &Reading,
    before: Option<Accounts>,
    child: Option<ChildCause>,
    now: Mono,
) -> (ThreadFacts, Option<Accounts>) {
    let (pid, tid) = (id.process.pid, id.tid);
    let accounts = accounts(id, now);
    let facts = ThreadFacts {
        state: proc::thread_stat(pid, tid).map_or('?', |stat| stat.state),
        doing: doing(id, reading),
        waits: waits(reading) || child.is_some(),
        child,
        in_own_poll: matches!(reading.beat, Beat::Polling { .. }),
        scheduled: before.zip(accounts).map(|(before, after)| Scheduled {
            window_ns: after.at.0.saturating_sub(before.at.0),
            run_ns: after.run_ns.saturating_sub(before.run_ns),
            wait_ns: after.wait_ns.saturating_sub(before.wait_ns),
        }),
        details: Details::default(),
    };
    (facts, accounts)
}

/// In a wait call, or between two of several: one look with WNOHANG is no wait.
pub(super) fn waits(reading: &Reading) -> bool {
    reading
        .wait
        .is_some_and(|wait| wait.calls > 1 || (wait.call.is_some() && !wait.options.polls()))
}

/// The call a thread is in, if it is in one.
pub(super) fn doing(id: LoopId, reading: &Reading) -> Doing {
    let pid = id.process.pid;
    match thread_call(pid, id.tid) {
        Ok(ThreadCall::Running) => Doing::Running,
        Ok(ThreadCall::Elsewhere) => Doing::Elsewhere,
        Ok(ThreadCall::In { number, args }) => {
            let name = syscalls::name(number);
            let fd = match reading.nested {
                // Its descriptors are in the process's memory; the hook has seen them.
                Some(nested) if name.contains("poll") || name.contains("select") => {
                    Some(nested.poller.fd)
                }
                _ => i32::try_from(args[0]).ok(),
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

fn descriptor(link: &str) -> Descriptor {
    if link.starts_with("socket:") {
        Descriptor::Socket
    } else if link.starts_with("pipe:") {
        Descriptor::Pipe
    } else if link.starts_with('/') {
        Descriptor::File
    } else {
        Descriptor::Other
    }
}

fn accounts(id: LoopId, at: Mono) -> Option<Accounts> {
    let text = std::fs::read_to_string(format!(
        "/proc/{}/task/{}/schedstat",
        id.process.pid, id.tid
    ))
    .ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    Some(Accounts {
        at,
        run_ns: numbers.next()?.ok()?,
        wait_ns: numbers.next()?.ok()?,
    })
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
