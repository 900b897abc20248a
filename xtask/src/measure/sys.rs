//! The clock of the lines, and what procfs says of a process that a measurement started.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the agent's `mono_ns`.
pub(crate) fn mono_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// Milliseconds from one moment to another, negative if it came earlier.
#[expect(
    clippy::cast_precision_loss,
    reason = "differences of seconds, shown as fractions of milliseconds"
)]
pub(crate) fn ms_between(from_ns: u64, to_ns: u64) -> f64 {
    if to_ns >= from_ns {
        (to_ns - from_ns) as f64 / 1e6
    } else {
        -((from_ns - to_ns) as f64 / 1e6)
    }
}

/// What the threads of a process have used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Times that a thread gave up the processor to wait: each ends with a wake-up.
    pub(super) waits: u64,
    /// Time on a processor.
    pub(super) run_ns: u64,
    /// Memory of the process that is in RAM.
    pub(super) resident_kib: u64,
}

impl Usage {
    /// Adds up the threads that the process has now.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let mut sum = Self::default();
        let tasks = format!("/proc/{pid}/task");
        let threads = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
        for thread in threads {
            let path = thread.context("cannot list the agent's threads")?.path();
            let read = |name: &str| {
                fs::read_to_string(path.join(name))
                    .with_context(|| format!("cannot read {name} below {}", path.display()))
            };
            let status = read("status")?;
            sum.waits += field(&status, "voluntary_ctxt_switches:")
                .context("no voluntary_ctxt_switches in a thread's status")?;
            let accounts = read("schedstat")?;
            let run = accounts.split_whitespace().next();
            sum.run_ns += run
                .and_then(|word| word.parse::<u64>().ok())
                .context("a thread's schedstat has no number")?;
            sum.resident_kib = field(&status, "VmRSS:").context("no VmRSS in status")?;
        }
        Ok(sum)
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The load averages, as `uptime` shows them.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A count as a figure of the table.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(super) fn figure(count: u64) -> f64 {
    count as f64
}

/// Signals a child of this process that has not been reaped, so that its id cannot be another's.
#[expect(
    clippy::disallowed_methods,
    reason = "only ever a child of this process that nobody else reaps"
)]
pub(crate) fn signal_child(pid: u32, signal: Signal) -> Result<()> {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let known = known.with_context(|| format!("{pid} is no process id"))?;
    rustix::process::kill_process(known, signal)
        .with_context(|| format!("cannot send {signal:?} to process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_voluntary_switches_are_not_the_involuntary_ones() {
        let status = "Name:\tx\nVmRSS:\t   5124 kB\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(12));
        assert_eq!(field(status, "VmRSS:"), Some(5124));
        assert_eq!(field(status, "nothing:"), None);
    }

    #[test]
    fn a_difference_has_a_sign() {
        assert!((ms_between(1_000_000, 3_500_000) - 2.5).abs() < 1e-9);
        assert!((ms_between(3_500_000, 1_000_000) + 2.5).abs() < 1e-9);
    }
}
