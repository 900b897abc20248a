//! What procfs showed of the process in the middle of its stall: for people who ask why a name was wrong, not for the verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::truth::Truth;

/// From the beginning of the stall on.
pub(super) const AFTER: Duration = Duration::from_millis(700);
/// A second look at the scheduler's accounts comes so much later.
const APART: Duration = Duration::from_millis(100);
/// Threads shown.
const THREADS: usize = 12;

/// A thread.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Thread {
    tid: String,
    name: String,
    state: String,
    syscall: String,
    wchan: String,
    /// The kernel's stack, innermost first.
    stack: Vec<String>,
    /// Milliseconds on a processor and waiting for one, of 100.
    run_ms: f64,
    wait_ms: f64,
}

/// Looks at all threads of the process. None of these files can block on what the process does.
pub(super) fn look(pid: u32) -> Vec<Thread> {
    let tasks = format!("/proc/{pid}/task");
    let mut tids: Vec<String> = fs::read_dir(&tasks)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.to_owned()))
        .collect();
    tids.sort();
    tids.truncate(THREADS);
    let read = |tid: &str, file: &str| {
        fs::read_to_string(format!("{tasks}/{tid}/{file}")).unwrap_or_default()
    };
    let before: BTreeMap<&String, (f64, f64)> = tids
        .iter()
        .map(|tid| (tid, accounts(&read(tid, "schedstat"))))
        .collect();
    std::thread::sleep(APART);
    tids.iter()
        .map(|tid| {
            let (run, wait) = accounts(&read(tid, "schedstat"));
            let (run_before, wait_before) = before.get(tid).copied().unwrap_or_default();
            Thread {
                name: read(tid, "comm").trim().to_owned(),
                state: state(&read(tid, "stat")),
                syscall: read(tid, "syscall").trim().to_owned(),
                wchan: read(tid, "wchan"),
                stack: read(tid, "stack").lines().map(function).collect(),
                run_ms: run - run_before,
                wait_ms: wait - wait_before,
                tid: tid.clone(),
            }
        })
        .collect()
}

/// The threads as lines, the loop's own first.
pub(super) fn shown(truth: &Truth, threads: &[Thread]) -> String {
    let own = truth.pid.to_string();
    let mut sorted: Vec<&Thread> = threads.iter().collect();
    sorted.sort_by_key(|thread| thread.tid != own);
    let mut text = String::new();
    for thread in sorted {
        let _ = writeln!(
            text,
            "    {} {} {}: syscall {}, wchan {}, in 100 ms run {:.1} wait {:.1}, kernel stack {}",
            thread.tid,
            thread.name,
            thread.state,
            thread.syscall,
            thread.wchan,
            thread.run_ms,
            thread.wait_ms,
            thread.stack.join(" < ")
        );
    }
    text
}

fn state(stat: &str) -> String {
    let after_name = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after_name
        .split_whitespace()
        .next()
        .unwrap_or("?")
        .to_owned()
}

fn accounts(schedstat: &str) -> (f64, f64) {
    let mut ms = schedstat
        .split_whitespace()
        .map(|word| word.parse::<f64>().unwrap_or(0.0) / 1e6);
    (ms.next().unwrap_or(0.0), ms.next().unwrap_or(0.0))
}

/// `[<0>] do_wait+0x60/0xf0` without address and offset.
fn function(line: &str) -> String {
    let name = line.rsplit(' ').next().unwrap_or(line);
    name.split('+').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_procfs_are_read() {
        assert_eq!(state("12 (a) b) S 34 12"), "S");
        assert_eq!(function("[<0>] do_wait+0x60/0xf0"), "do_wait");
        let (run, wait) = accounts("2500000 500000 7");
        assert!((run - 2.5).abs() < 1e-9 && (wait - 0.5).abs() < 1e-9);
    }

    #[test]
    fn this_process_has_a_thread_that_looks() {
        let threads = look(std::process::id());
        assert!(
            threads.iter().any(|thread| thread.state == "R"),
            "{threads:?}"
        );
    }
}
