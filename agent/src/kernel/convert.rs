//! Bytes of the kernel half into the pipeline's types. What makes no sense gives nothing and is counted by the caller.

use std::time::Duration;

use loopwarden_abi::{
    BUCKETS, CLASS_EPOLL, CLASS_POLL, CLASS_SELECT, ConnectCount, ConnectKey, Event, EventKind,
    FAMILY_V4, FAMILY_V6, LoopRecord, NO_DEADLINE, PROBE_ANSWERED, PROBE_GIVEN_UP, PROBE_REFUSED,
    PollKey, STATE_BUSY, STATE_POLLING, TASK_WATCHED, WAIT_ANY, WAIT_END_FAILED, WAIT_END_OTHER,
    WAIT_END_POLLED, WAIT_END_REAPED, WAIT_GROUP, WAIT_PID, WAIT_PIDFD, bucket_bound,
};

use crate::pipeline::event::{
    Awaited, Beat, Connects, KernelEvent, Listener, NestedReading, Peer, Place, PollClass, Poller,
    ProbeEnd, Reading, WaitEnd, WaitOptions, WaitReading, What,
};
use crate::pipeline::{Histogram, LoopTotals, Mono, Pid, Tid};

/// A poll key; `None` for none.
pub fn poller(key: PollKey) -> Option<Poller> {
    let class = match key.class {
        CLASS_EPOLL => PollClass::Epoll,
        CLASS_POLL => PollClass::Poll,
        CLASS_SELECT => PollClass::Select,
        _ => return None,
    };
    Some(Poller { class, fd: key.fd })
}

/// The key of a poller, or of none.
pub fn poll_key(poller: Option<Poller>) -> PollKey {
    match poller {
        None => PollKey { class: 0, fd: -1 },
        Some(Poller { class, fd }) => {
            let class = match class {
                PollClass::Epoll => CLASS_EPOLL,
                PollClass::Poll => CLASS_POLL,
                PollClass::Select => CLASS_SELECT,
            };
            PollKey { class, fd }
        }
    }
}

fn awaited(which: u32, id: i32) -> Option<Awaited> {
    Some(match which {
        WAIT_ANY => Awaited::Any,
        WAIT_PID => Awaited::Process(id),
        WAIT_GROUP => Awaited::Group(id),
        WAIT_PIDFD => Awaited::PidFd(id),
        _ => return None,
    })
}

/// `WAIT_*` and number of what is awaited.
pub fn wait_key(awaited: Awaited) -> (u32, i32) {
    match awaited {
        Awaited::Any => (WAIT_ANY, 0),
        Awaited::Process(id) => (WAIT_PID, id),
        Awaited::Group(id) => (WAIT_GROUP, id),
        Awaited::PidFd(fd) => (WAIT_PIDFD, fd),
    }
}

/// An event; `None` if it makes no sense.
pub fn event(event: &Event) -> Option<KernelEvent> {
    let what = what(event)?;
    Some(KernelEvent {
        at: Mono(event.time),
        pid: Pid(event.tgid),
        tid: Tid(event.tid),
        what,
    })
}

fn what(event: &Event) -> Option<What> {
    let is = |kind: EventKind| event.kind == kind as u32;
    let since = Mono(event.since);
    Some(if is(EventKind::PollerSeen) {
        What::PollerSeen {
            poller: poller(event.key)?,
            syscall: event.extra,
        }
    } else if is(EventKind::WaitBegan) {
        let options = WaitOptions {
            bits: event.extra,
            waitid: event.flags != 0,
        };
        What::WaitBegan {
            start: since,
            awaited: awaited(event.arg, event.id)?,
            options,
        }
    } else if is(EventKind::WaitEnded) {
        let how = match event.arg {
            WAIT_END_REAPED => WaitEnd::Reaped,
            WAIT_END_FAILED => WaitEnd::Failed,
            WAIT_END_POLLED => WaitEnd::Polled,
            WAIT_END_OTHER => WaitEnd::Other,
            _ => return None,
        };
        What::WaitEnded { start: since, how }
    } else if is(EventKind::NestedPoll) {
        What::NestedPoll {
            start: since,
            poller: poller(event.key)?,
        }
    } else if is(EventKind::LoopPolled) {
        What::LoopPolled { since }
    } else if is(EventKind::PollOverran) {
        What::PollOverran { deadline: since }
    } else if is(EventKind::Forked) {
        let ns_pid = (event.id > 0).then_some(event.id);
        let watched = event.extra & TASK_WATCHED != 0;
        What::Forked {
            parent: Pid(event.arg),
            ns_pid,
            start_ns: event.since,
            watched,
        }
    } else if is(EventKind::Execed) {
        let end = event
            .exe
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(event.exe.len());
        let exe = String::from_utf8_lossy(&event.exe[..end]).into_owned();
        What::Execed {
            parent: Pid(event.arg),
            start_ns: event.since,
            exe,
        }
    } else if is(EventKind::Exited) {
        What::Exited {
            start_ns: event.since,
            status: event.id,
        }
    } else if is(EventKind::ThreadEnded) {
        What::ThreadEnded
    } else if is(EventKind::Signalled) {
        What::Signalled {
            sender: Pid(event.arg),
            signal: event.id,
        }
    } else {
        return connection(event);
    })
}

/// An event about sockets.
fn connection(event: &Event) -> Option<What> {
    let is = |kind: EventKind| event.kind == kind as u32;
    let since = Mono(event.since);
    Some(if is(EventKind::ProbeBegan) {
        What::ProbeBegan {
            listener: listener(event)?,
            start: since,
            netns: event.extra,
        }
    } else if is(EventKind::ProbeEnded) {
        let how = match event.flags {
            PROBE_ANSWERED => ProbeEnd::Answered,
            PROBE_GIVEN_UP => ProbeEnd::GivenUp,
            PROBE_REFUSED => ProbeEnd::Refused,
            _ => return None,
        };
        What::ProbeEnded {
            listener: listener(event)?,
            start: since,
            netns: event.extra,
            how,
        }
    } else if is(EventKind::Listening) {
        What::Listening {
            listener: listener(event)?,
            place: Place {
                v6: event.flags == u32::from(FAMILY_V6),
                word: event.extra,
            },
        }
    } else if is(EventKind::Accepted) {
        What::Accepted {
            listener: listener(event)?,
        }
    } else {
        return None;
    })
}

/// How often a process connected somewhere.
pub fn connects(key: &ConnectKey, count: &ConnectCount) -> Connects {
    Connects {
        pid: Pid(key.tgid),
        peer: Peer {
            port: Listener {
                netns: key.netns,
                port: key.port,
            },
            place: Place {
                v6: key.family == FAMILY_V6,
                word: key.address,
            },
        },
        ok: count.ok,
        refused: count.refused,
        first_refused: (count.first_refused != 0).then_some(Mono(count.first_refused)),
        last: Mono(count.last),
    }
}

/// Under which name that is counted.
pub fn connect_key(connects: &Connects) -> ConnectKey {
    let Peer { port, place } = connects.peer;
    ConnectKey {
        tgid: connects.pid.0,
        netns: port.netns,
        port: port.port,
        family: if place.v6 { FAMILY_V6 } else { FAMILY_V4 },
        address: place.word,
    }
}

fn listener(event: &Event) -> Option<Listener> {
    let port = u16::try_from(event.id).ok()?;
    Some(Listener {
        netns: event.arg,
        port,
    })
}

/// A record as the pipeline reads it.
pub fn reading(record: &LoopRecord) -> Reading {
    let beat = match record.state {
        STATE_POLLING => {
            let deadline = (record.deadline != NO_DEADLINE).then_some(Mono(record.deadline));
            Beat::Polling {
                since: Mono(record.since),
                deadline,
            }
        }
        STATE_BUSY => Beat::Busy {
            since: Mono(record.since),
        },
        _ => Beat::Unknown,
    };
    let wait = (record.wait_start != 0)
        .then(|| awaited(record.wait_which, record.wait_id))
        .flatten()
        .map(|awaited| WaitReading {
            start: Mono(record.wait_start),
            call: (record.wait_call != 0).then_some(Mono(record.wait_call)),
            last: Mono(record.wait_last),
            gap: Duration::from_nanos(record.wait_gap),
            calls: record.wait_calls,
            awaited,
            options: WaitOptions {
                bits: record.wait_options,
                waitid: record.wait_waitid != 0,
            },
        });
    let nested = (record.nested_since != 0)
        .then(|| poller(record.nested_key))
        .flatten()
        .map(|poller| NestedReading {
            poller,
            first: Mono(record.nested_first),
        });
    let pollers = record
        .keys
        .iter()
        .filter_map(|entry| Some((poller(entry.key)?, entry.count)))
        .collect();
    Reading {
        beat,
        syscall: record.syscall,
        iterations: record.iterations,
        wait,
        nested,
        pollers,
    }
}

/// A record's counts.
pub fn totals(record: &LoopRecord) -> LoopTotals {
    LoopTotals {
        iterations: record.iterations,
        idle: Duration::from_nanos(record.idle_ns),
        busy: Duration::from_nanos(record.busy_ns),
        max: Duration::from_nanos(record.max_ns),
        histogram: Histogram {
            bounds: (0..BUCKETS).map(bucket_bound).collect(),
            counts: record.hist.to_vec(),
        },
    }
}
