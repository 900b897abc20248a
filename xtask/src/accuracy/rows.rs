//! The labelled stalls. A label says what is true, never what some version of the agent can tell.

use super::row::Row;
use super::row::Runtime::{Asyncio, Native, Node, Uvloop};
use super::row::Stage::{Freeze, MemoryLimit, OwnNameServer, Quota, SlowDevice, SlowFiles, Stop};

const NAP: &[&str] = &["nanosleep", "clock_nanosleep"];
const FUTEX: &[&str] = &["futex"];
const POLL: &[&str] = &["poll", "ppoll"];
const READ: &[&str] = &["read", "pread64", "readv", "preadv", "preadv2"];
const WAITID: &[&str] = &["waitid"];
const EPOLL: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2"];
/// Of a thread that runs, naps between two looks, or is asleep outside of any call.
const ANY: &[&str] = &[];

/// All of them.
pub(super) const ROWS: &[Row] = &[
    Row::new("child_wait", Asyncio, "child_pid", &["wait4"]).everywhere(),
    Row::new("child_wait", Uvloop, "child_any", &["wait4"]),
    Row::new("child_wait", Asyncio, "child_waitid", WAITID),
    Row::new("child_wait", Asyncio, "child_pidfd", POLL),
    Row::new("child_wait", Uvloop, "child_popen", &["wait4"]),
    Row::new("child_wait", Asyncio, "child_naps", ANY),
    Row::new("child_wait", Uvloop, "child_system", &["wait4"]),
    Row::new("child_wait", Native, "child_wait4", &["wait4"]),
    Row::new("child_wait", Node, "node_exec_sync", ANY),
    Row::new("lock_wait", Asyncio, "lock_future", FUTEX).everywhere(),
    Row::new("lock_wait", Uvloop, "lock_lock", FUTEX),
    Row::new("lock_wait", Asyncio, "lock_join", FUTEX),
    Row::new("lock_wait", Asyncio, "lock_condition", FUTEX),
    Row::new("lock_wait", Asyncio, "lock_beside_worker", FUTEX).alone(),
    Row::new("lock_wait", Uvloop, "lock_of_worker", FUTEX).alone(),
    Row::new("lock_wait", Native, "lock_mutex", FUTEX),
    Row::new("lock_wait", Native, "lock_mutex_busy", FUTEX).alone(),
    Row::new("lock_wait", Node, "node_atomics", FUTEX),
    Row::new("gil_wait", Asyncio, "gil_native", FUTEX)
        .alone()
        .everywhere(),
    Row::new("gil_wait", Uvloop, "gil_python", FUTEX).alone(),
    Row::new("gil_wait", Asyncio, "gil_convoy", ANY).alone(),
    Row::new("gil_wait", Asyncio, "gil_poll", FUTEX).alone(),
    Row::new("network_wait", Asyncio, "net_recv_timeout", POLL).everywhere(),
    Row::new("network_wait", Uvloop, "net_recv", &["recvfrom"]),
    Row::new("network_wait", Uvloop, "net_after_looks", &["recvfrom"]),
    Row::new(
        "network_wait",
        Asyncio,
        "net_select",
        &["select", "pselect6"],
    ),
    Row::new("network_wait", Asyncio, "net_connect", POLL),
    Row::new("network_wait", Asyncio, "net_http", POLL),
    Row::new("network_wait", Uvloop, "net_dns", POLL).stage(OwnNameServer),
    Row::new("network_wait", Native, "net_connect_c", &["connect"]),
    Row::new("network_wait", Native, "net_send", &["sendto"]),
    Row::new("network_wait", Native, "net_poll", POLL),
    Row::new("pipe_wait", Asyncio, "pipe_output", &["read"]).everywhere(),
    Row::new("pipe_wait", Uvloop, "pipe_communicate", POLL),
    Row::new("pipe_wait", Uvloop, "pipe_write", &["write"]),
    Row::new("pipe_wait", Native, "pipe_read", &["read"]),
    Row::new("pipe_wait", Node, "node_read_fifo", READ),
    Row::new("disk_wait", Asyncio, "disk_read", &["read"])
        .stage(SlowFiles)
        .everywhere(),
    Row::new("disk_wait", Asyncio, "disk_open", ANY).stage(SlowFiles),
    Row::new("disk_wait", Uvloop, "disk_fsync", &["fsync"]).stage(SlowDevice),
    Row::new("disk_wait", Asyncio, "disk_direct", READ).stage(SlowDevice),
    Row::new("disk_wait", Node, "node_read_slow", READ).stage(SlowFiles),
    Row::new("file_lock", Asyncio, "file_flock", &["flock"]).everywhere(),
    Row::new("file_lock", Uvloop, "file_posix", &["fcntl"]),
    Row::new("file_lock", Native, "file_ofd", &["fcntl"]),
    Row::new("sleep", Asyncio, "sleep", NAP).everywhere(),
    Row::new("sleep", Uvloop, "sleep_beside_wait", NAP),
    Row::new("sleep", Asyncio, "sleep_after_poll", NAP),
    Row::new("sleep", Asyncio, "sleep_after_wait", NAP),
    Row::new("sleep", Native, "sleep_c", NAP),
    Row::new("cpu_busy", Asyncio, "cpu_json", ANY).alone(),
    Row::new("cpu_busy", Uvloop, "cpu_regex", ANY)
        .alone()
        .everywhere(),
    Row::new("cpu_busy", Asyncio, "cpu_python", ANY).alone(),
    Row::new("cpu_busy", Native, "cpu_c", ANY).alone(),
    Row::new("cpu_busy", Node, "node_busy", ANY).alone(),
    Row::new("cpu_starved", Asyncio, "starved_quota", ANY)
        .stage(Quota { period_ms: 100 })
        .alone()
        .everywhere(),
    Row::new("cpu_starved", Uvloop, "starved_crowd", ANY).alone(),
    Row::new("cpu_starved", Asyncio, "starved_poll", ANY)
        .stage(Quota { period_ms: 1000 })
        .alone(),
    Row::new("memory_stall", Asyncio, "memory_limit", ANY)
        .stage(MemoryLimit)
        .everywhere(),
    Row::new("memory_stall", Native, "memory_fault", ANY),
    Row::new("stopped", Asyncio, "idle", ANY)
        .stage(Stop)
        .everywhere(),
    Row::new("stopped", Uvloop, "idle", ANY).stage(Freeze),
    Row::new("unknown", Asyncio, "unknown_signal", &["rt_sigtimedwait"]),
    Row::new("unknown", Uvloop, "unknown_eventfd", EPOLL).everywhere(),
    Row::new("unknown", Native, "unknown_nested", EPOLL),
    Row::new("unknown", Native, "unknown_eventfd_read", &["read"]),
    Row::new("unknown", Native, "unknown_msgrcv", &["msgrcv"]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::accuracy::row::{KINDS, Load, Stage};

    #[test]
    fn every_kind_has_rows_and_one_that_runs_everywhere() {
        for kind in KINDS {
            assert!(
                ROWS.iter().any(|row| row.kind == kind && row.everywhere),
                "{kind}"
            );
        }
        for row in ROWS {
            assert!(KINDS.contains(&row.kind), "{row:?}");
        }
    }

    #[test]
    fn no_row_is_there_twice_and_there_are_enough() {
        let names: BTreeSet<String> = ROWS
            .iter()
            .map(|row| format!("{} {:?}", row.name(), row.stage))
            .collect();
        assert_eq!(names.len(), ROWS.len());
        assert!(ROWS.len() >= 20);
    }

    #[test]
    fn rows_about_processors_run_alone() {
        for row in ROWS {
            let about = row.kind.starts_with("cpu_") || row.kind == "gil_wait";
            assert!(!about || row.load == Load::Alone, "{row:?}");
            assert!(
                !matches!(row.stage, Stage::Quota { .. }) || row.kind == "cpu_starved",
                "{row:?}"
            );
        }
    }
}
