//! The table of causes.

use super::*;
use crate::pipeline::Pid;
use crate::pipeline::evidence::{Details, Holder};
use Descriptor::{Device, File, Other, Pipe, Socket};

fn call(name: &str, descriptor: Option<Descriptor>, args: [u64; 6]) -> ThreadFacts {
    let doing = Doing::Call {
        name: name.into(),
        fd: descriptor.map(|_| 3),
        descriptor,
        args,
    };
    ThreadFacts {
        state: 'S',
        doing,
        ..ThreadFacts::default()
    }
}

fn plain(name: &str, descriptor: Option<Descriptor>) -> ThreadFacts {
    call(name, descriptor, [0; 6])
}

fn at(function: &str, facts: ThreadFacts) -> ThreadFacts {
    ThreadFacts {
        kernel_function: Some(function.into()),
        ..facts
    }
}

fn frozen(facts: ThreadFacts) -> ThreadFacts {
    ThreadFacts {
        frozen: true,
        ..facts
    }
}

fn in_state(state: char, facts: ThreadFacts) -> ThreadFacts {
    ThreadFacts { state, ..facts }
}

const MS: u64 = 1_000_000;

fn times(run_ms: u64, wait_ms: u64) -> Scheduled {
    Scheduled {
        window_ns: 100 * MS,
        run_ns: run_ms * MS,
        wait_ns: wait_ms * MS,
        ..Scheduled::default()
    }
}

fn with(scheduled: Scheduled, facts: ThreadFacts) -> ThreadFacts {
    ThreadFacts {
        scheduled: Some(scheduled),
        ..facts
    }
}

fn running(run_ms: u64, wait_ms: u64) -> ThreadFacts {
    with(
        times(run_ms, wait_ms),
        ThreadFacts {
            state: 'R',
            doing: Doing::Running,
            ..ThreadFacts::default()
        },
    )
}

fn waits(facts: ThreadFacts) -> ThreadFacts {
    ThreadFacts {
        waits: true,
        ..facts
    }
}

fn in_own_poll(facts: ThreadFacts) -> ThreadFacts {
    ThreadFacts {
        in_own_poll: true,
        ..facts
    }
}

fn futex_on(word: Word, timeout: u64) -> ThreadFacts {
    ThreadFacts {
        word,
        ..call("futex", None, [0x7000, 0x189, 0, timeout, 0, 0])
    }
}

/// Woken again and again, while the other threads of the process run for that long.
fn napping(others_ms: u64, facts: ThreadFacts) -> ThreadFacts {
    let scheduled = Scheduled {
        slices: 19,
        others_ran_ns: Some(others_ms * MS),
        ..times(1, 1)
    };
    with(scheduled, facts)
}

/// Asleep all the time, while the other threads of the process run for that long.
fn asleep(others_ms: u64, facts: ThreadFacts) -> ThreadFacts {
    let scheduled = Scheduled {
        others_ran_ns: Some(others_ms * MS),
        ..times(0, 0)
    };
    with(scheduled, facts)
}

fn check(table: &[(ThreadFacts, CauseKind)]) {
    for (facts, expected) in table {
        assert_eq!(classify(facts).kind, *expected, "{facts:?}");
    }
}

#[test]
fn a_wait_for_a_child_is_what_the_record_says() {
    check(&[
        (waits(plain("wait4", None)), CauseKind::ChildWait),
        (waits(plain("waitid", None)), CauseKind::ChildWait),
        (waits(plain("poll", Some(Other))), CauseKind::ChildWait),
        (waits(plain("clock_nanosleep", None)), CauseKind::ChildWait),
        (
            waits(call("select", None, [0, 0, 0, 0, 0x7ffc, 0])),
            CauseKind::ChildWait,
        ),
        // Polling without naps.
        (waits(running(95, 0)), CauseKind::ChildWait),
        // Not a wait that ends with the child.
        (plain("wait4", None), CauseKind::Unknown),
    ]);
}

#[test]
fn a_lock_is_told_from_the_interpreters_own() {
    let scenes = [
        (futex_on(Word::Plain, 0), CauseKind::LockWait),
        (futex_on(Word::Plain, 1), CauseKind::LockWait),
        (futex_on(Word::InterpreterLock, 1), CauseKind::GilWait),
        // Its holder may sleep with it.
        (
            asleep(0, futex_on(Word::InterpreterLock, 0)),
            CauseKind::GilWait,
        ),
        (futex_on(Word::OfProgram, 0), CauseKind::LockWait),
        (futex_on(Word::OfProgram, 1), CauseKind::LockWait),
        // Another thread computes meanwhile: still a lock.
        (
            asleep(100, futex_on(Word::OfProgram, 0)),
            CauseKind::LockWait,
        ),
        (
            asleep(100, futex_on(Word::OfProgram, 1)),
            CauseKind::LockWait,
        ),
        (
            napping(0, futex_on(Word::OfProgram, 1)),
            CauseKind::LockWait,
        ),
        // The lock of an interpreter within, or a program that naps on a lock of its own.
        (
            napping(100, futex_on(Word::OfProgram, 1)),
            CauseKind::Unknown,
        ),
        // Where its data could not be read.
        (futex_on(Word::Interpreted, 0), CauseKind::LockWait),
        (futex_on(Word::Interpreted, 1), CauseKind::Unknown),
        (
            asleep(100, futex_on(Word::Interpreted, 1)),
            CauseKind::LockWait,
        ),
        (
            napping(100, futex_on(Word::Interpreted, 1)),
            CauseKind::GilWait,
        ),
        (
            napping(0, futex_on(Word::Interpreted, 1)),
            CauseKind::Unknown,
        ),
        (
            napping(100, futex_on(Word::Interpreted, 0)),
            CauseKind::LockWait,
        ),
        // Where nothing is known of the process.
        (futex_on(Word::Unknown, 0), CauseKind::LockWait),
        (futex_on(Word::Unknown, 1), CauseKind::Unknown),
        (napping(100, futex_on(Word::Unknown, 1)), CauseKind::Unknown),
        (asleep(0, futex_on(Word::Unknown, 1)), CauseKind::LockWait),
    ];
    check(&scenes);
}

#[test]
fn sockets_and_pipes_are_what_the_descriptor_is() {
    check(&[
        (plain("recvfrom", Some(Socket)), CauseKind::NetworkWait),
        (plain("connect", Some(Socket)), CauseKind::NetworkWait),
        (plain("sendmmsg", Some(Socket)), CauseKind::NetworkWait),
        (plain("read", Some(Socket)), CauseKind::NetworkWait),
        (plain("sendfile", Some(Socket)), CauseKind::NetworkWait),
        (
            call("poll", Some(Socket), [0x7ffc, 1, 1000, 0, 0, 0]),
            CauseKind::NetworkWait,
        ),
        (
            call("select", Some(Socket), [8, 0x7ffc, 0, 0, 0, 0]),
            CauseKind::NetworkWait,
        ),
        (
            call("poll", Some(File), [0x7ffc, 1, 1000, 0, 0, 0]),
            CauseKind::Unknown,
        ),
        // Several descriptors: none of them is named.
        (
            call("poll", None, [0x7ffc, 2, 1000, 0, 0, 0]),
            CauseKind::Unknown,
        ),
        (plain("read", Some(Pipe)), CauseKind::PipeWait),
        (plain("write", Some(Pipe)), CauseKind::PipeWait),
        (
            at("fifo_pipe_read", plain("read", Some(File))),
            CauseKind::PipeWait,
        ),
        (
            at("wait_for_partner", plain("openat", None)),
            CauseKind::PipeWait,
        ),
        (plain("read", None), CauseKind::Unknown),
        (plain("read", Some(Device)), CauseKind::Unknown),
        (plain("read", Some(Other)), CauseKind::Unknown),
        (plain("epoll_wait", Some(Other)), CauseKind::Unknown),
    ]);
}

#[test]
fn files_and_their_locks() {
    check(&[
        (plain("flock", Some(File)), CauseKind::FileLock),
        (
            call("fcntl", Some(File), [3, 7, 0, 0, 0, 0]),
            CauseKind::FileLock,
        ),
        (
            call("fcntl", Some(File), [3, 38, 0, 0, 0, 0]),
            CauseKind::FileLock,
        ),
        (
            call("fcntl", Some(File), [3, 3, 0, 0, 0, 0]),
            CauseKind::Unknown,
        ),
        (plain("read", Some(File)), CauseKind::DiskWait),
        (plain("fsync", Some(File)), CauseKind::DiskWait),
        (
            in_state('D', at("folio_wait_bit_common", plain("read", None))),
            CauseKind::DiskWait,
        ),
        (
            in_state('D', at("io_schedule", plain("newfstatat", None))),
            CauseKind::DiskWait,
        ),
        (
            at("request_wait_answer", plain("openat", None)),
            CauseKind::DiskWait,
        ),
        (plain("openat", None), CauseKind::Unknown),
        (
            in_state('D', plain("read", Some(Device))),
            CauseKind::DiskWait,
        ),
    ]);
}

#[test]
fn sleeping_on_purpose() {
    check(&[
        (plain("clock_nanosleep", None), CauseKind::Sleep),
        (plain("nanosleep", None), CauseKind::Sleep),
        // How Python slept before 3.11.
        (
            call("select", None, [0, 0, 0, 0, 0x7ffc, 0]),
            CauseKind::Sleep,
        ),
        (
            call("pselect6", None, [0, 0, 0, 0, 0x7ffc, 0]),
            CauseKind::Sleep,
        ),
        (call("poll", None, [0, 0, 500, 0, 0, 0]), CauseKind::Sleep),
        // For ever is no sleep.
        (
            call("poll", None, [0, 0, 0xffff_ffff, 0, 0, 0]),
            CauseKind::Unknown,
        ),
    ]);
}

#[test]
fn computing_and_starving_are_what_most_of_the_time_was() {
    check(&[
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
        (in_own_poll(running(3, 97)), CauseKind::CpuStarved),
        (in_own_poll(plain("epoll_wait", None)), CauseKind::Unknown),
        // Met in a short call between computing.
        (
            with(times(90, 0), plain("read", Some(File))),
            CauseKind::CpuBusy,
        ),
        (
            with(times(10, 5), plain("recvfrom", Some(Socket))),
            CauseKind::NetworkWait,
        ),
    ]);
}

#[test]
fn who_starves_it_is_said_where_it_shows() {
    let starved = |throttled: Option<u64>, throttlings: Option<u64>, idle: u64, window: u64| {
        let scheduled = Scheduled {
            window_ns: window * MS,
            run_ns: 0,
            wait_ns: window * MS,
            throttled_ns: throttled.map(|ms| ms * MS),
            throttlings,
            idle_ns: Some(idle * MS),
            ..Scheduled::default()
        };
        classify(&with(scheduled, running(0, 0))).starved_by
    };
    let table = [
        (Some(95), Some(1), 80, 100, Some(StarvedBy::CgroupQuota)),
        // It goes on.
        (Some(0), Some(1), 0, 100, Some(StarvedBy::CgroupQuota)),
        (Some(0), Some(0), 0, 100, Some(StarvedBy::BusyMachine)),
        (Some(0), Some(0), 50, 100, Some(StarvedBy::Competition)),
        // A little throttled on a busy machine.
        (Some(5), Some(1), 0, 100, Some(StarvedBy::BusyMachine)),
        // Too short to know.
        (Some(0), Some(0), 0, 20, None),
        (None, None, 50, 100, None),
        (None, None, 0, 100, Some(StarvedBy::BusyMachine)),
    ];
    for (throttled, throttlings, idle, window, expected) in table {
        assert_eq!(
            starved(throttled, throttlings, idle, window),
            expected,
            "{throttled:?} {throttlings:?} {idle} {window}"
        );
    }
}

#[test]
fn memory_is_told_from_storage() {
    let elsewhere = ThreadFacts {
        state: 'D',
        doing: Doing::Elsewhere,
        ..ThreadFacts::default()
    };
    let faulting = with(
        Scheduled {
            major_faults: 12,
            ..times(10, 5)
        },
        running(0, 0),
    );
    let faulting = ThreadFacts {
        scheduled: Some(Scheduled {
            major_faults: 12,
            ..times(10, 5)
        }),
        ..faulting
    };
    check(&[
        (elsewhere.clone(), CauseKind::MemoryStall),
        (in_state('S', elsewhere.clone()), CauseKind::Unknown),
        (
            in_state('S', at("handle_userfault", elsewhere)),
            CauseKind::MemoryStall,
        ),
        (
            at(
                "__mem_cgroup_handle_over_high",
                in_state('D', plain("read", Some(File))),
            ),
            CauseKind::MemoryStall,
        ),
        (faulting, CauseKind::MemoryStall),
    ]);
}

#[test]
fn what_holds_it_is_named() {
    let table = [
        (in_state('T', plain("epoll_wait", None)), StoppedBy::Signal),
        (in_state('t', running(0, 0)), StoppedBy::Tracer),
        (
            frozen(in_own_poll(plain("epoll_wait", None))),
            StoppedBy::Freezer,
        ),
        (
            frozen(in_state('D', plain("read", Some(File)))),
            StoppedBy::Freezer,
        ),
    ];
    for (facts, by) in table {
        let cause = classify(&ThreadFacts {
            stopper: Some(Pid(77)),
            ..facts.clone()
        });
        assert_eq!(
            (cause.kind, cause.stopped_by, cause.holder_pid),
            (CauseKind::Stopped, Some(by), Some(Pid(77))),
            "{facts:?}"
        );
    }
}

fn socket(protocol: &str, peer: &str) -> SocketDetail {
    SocketDetail {
        protocol: protocol.into(),
        peer: Some(peer.into()),
        ..SocketDetail::default()
    }
}

#[test]
fn names_being_looked_up_are_told_apart() {
    let table = [
        ("udp", "10.0.0.10:53", true),
        ("tcp", "[fd00::a]:53", true),
        ("tcp", "10.0.0.5:5432", false),
        ("tcp", "10.0.0.5:5353", false),
        ("unix", "/run/systemd/resolve/io.systemd.Resolve", true),
        ("unix", "/var/run/nscd/socket", true),
        ("unix", "/tmp/app:53", false),
    ];
    for (protocol, peer, dns) in table {
        let facts = ThreadFacts {
            details: Details {
                socket: Some(socket(protocol, peer)),
                ..Details::default()
            },
            ..plain("recvfrom", Some(Socket))
        };
        let cause = classify(&facts);
        assert_eq!(
            (cause.peer.as_deref(), cause.dns),
            (Some(peer), dns),
            "{protocol} {peer}"
        );
    }
}

#[test]
fn details_belong_to_the_kind_that_they_are_about() {
    let details = Details {
        socket: Some(socket("tcp", "10.0.0.5:5432")),
        file: Some("/data/x".into()),
        holder: Some(Holder {
            pid: Pid(5),
            tid: None,
            exe: "postgres".into(),
        }),
    };
    let told = |facts: ThreadFacts| {
        let cause = classify(&ThreadFacts {
            details: details.clone(),
            ..facts
        });
        (
            cause.peer.is_some(),
            cause.file.is_some(),
            cause.holder_pid.is_some(),
        )
    };
    assert_eq!(told(plain("recvfrom", Some(Socket))), (true, false, true));
    assert_eq!(told(plain("flock", Some(File))), (false, true, true));
    assert_eq!(told(plain("clock_nanosleep", None)), (false, false, false));
    assert_eq!(told(running(90, 0)), (false, false, false));
}

#[test]
fn a_small_majority_changes_no_name() {
    use CauseKind::{ChildWait, CpuBusy, CpuStarved, GilWait, LockWait, Unknown};
    let table = [
        (running(60, 40), CpuStarved, CpuBusy, false),
        (running(40, 60), CpuBusy, CpuStarved, false),
        (running(20, 80), CpuBusy, CpuStarved, true),
        (running(40, 60), Unknown, CpuStarved, true),
        (running(10, 55), GilWait, CpuStarved, false),
        (
            with(times(45, 0), plain("futex", None)),
            CpuBusy,
            LockWait,
            false,
        ),
        (
            with(times(5, 5), plain("futex", None)),
            CpuBusy,
            LockWait,
            true,
        ),
        (
            waits(with(times(60, 0), plain("wait4", None))),
            CpuBusy,
            ChildWait,
            true,
        ),
        (plain("futex", None), CpuBusy, LockWait, true),
    ];
    for (facts, before, after, expected) in table {
        assert_eq!(
            is_clear(&facts, before, after),
            expected,
            "{before:?} {after:?} {facts:?}"
        );
    }
}
