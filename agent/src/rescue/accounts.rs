//! What the kernel's accounts say of a thread at one moment, and of the time between two.

use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};

use crate::pipeline::classify::Scheduled;
use crate::pipeline::{LoopId, Mono, Pid};
use crate::target::cgroup::Throttling;

/// The accounts of a thread at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accounts {
    at: Mono,
    schedule: Option<Schedule>,
    /// It was met on a CPU or waiting for one.
    running: bool,
    /// Waiting for a CPU that was shown before the kernel added it to its accounts, which it does when the wait ends.
    ahead_ns: u64,
    major_faults: u64,
    throttling: Option<Throttling>,
    idle_ns: Option<u64>,
    process_ns: Option<u64>,
}

/// `/proc/PID/task/TID/schedstat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Schedule {
    run_ns: u64,
    wait_ns: u64,
    slices: u64,
}

/// What is asked of the accounts of one moment: each has its price.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) running: bool,
    pub(super) major_faults: u64,
    pub(super) throttling: Option<Throttling>,
    /// The process's other threads.
    pub(super) others: bool,
}

impl Accounts {
    pub(super) fn read(id: LoopId, wanted: Wanted, at: Mono) -> Self {
        Self {
            at,
            schedule: schedule(id),
            running: wanted.running,
            ahead_ns: 0,
            major_faults: wanted.major_faults,
            throttling: wanted.throttling,
            idle_ns: wanted.running.then(idle_ns).flatten(),
            process_ns: wanted.others.then(|| process_ns(id.process.pid)).flatten(),
        }
    }

    /// The time from `before` to the end of a stall, as far as the scheduler's own accounts tell.
    pub(super) fn last(id: LoopId, before: &Accounts, at: Mono) -> Option<Scheduled> {
        let mut last = Self {
            at,
            schedule: schedule(id),
            running: false,
            ahead_ns: 0,
            throttling: None,
            idle_ns: None,
            process_ns: None,
            ..*before
        };
        last.since(before)
    }

    /// Its cgroup's accounts are others from now on: they do not continue those before.
    pub(super) fn forget_throttling(&mut self) {
        self.throttling = None;
    }

    /// The time since `before`. Notes what it shows ahead of the kernel's own accounts.
    pub(super) fn since(&mut self, before: &Accounts) -> Option<Scheduled> {
        let (then, now) = (before.schedule?, self.schedule?);
        let window_ns = self.at.0.saturating_sub(before.at.0);
        let run_ns = now.run_ns.saturating_sub(then.run_ns);
        let slices = now.slices.saturating_sub(then.slices);
        let accounted = now.wait_ns.saturating_sub(then.wait_ns);
        let wait_ns = if before.running && self.running && slices == 0 {
            // Runnable at both ends and never given a CPU in between, but for what it had: it has waited all the time.
            let waited = window_ns.saturating_sub(run_ns);
            self.ahead_ns = before.ahead_ns.saturating_add(waited);
            waited
        } else {
            accounted.saturating_sub(before.ahead_ns)
        };
        let both = |of: fn(&Accounts) -> Option<u64>| Some(of(self)?.saturating_sub(of(before)?));
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Some(Scheduled {
            window_ns,
            run_ns: run_ns.min(window_ns),
            wait_ns: wait_ns.min(window_ns.saturating_sub(run_ns)),
            slices,
            major_faults: self.major_faults.saturating_sub(before.major_faults),
            others_ran_ns: both(|accounts| accounts.process_ns)
                .map(|whole| whole.saturating_sub(run_ns)),
            throttled_ns: both(|accounts| {
                let time = accounts.throttling?.time;
                u64::try_from(time.as_nanos()).ok()
            }),
            throttlings: both(|accounts| Some(accounts.throttling?.count)),
            idle_ns: both(|accounts| accounts.idle_ns)
                .map(|idle| idle / u64::try_from(cpus).unwrap_or(1)),
        })
    }
}

fn schedule(id: LoopId) -> Option<Schedule> {
    let path = format!("/proc/{}/task/{}/schedstat", id.process.pid, id.tid);
    let text = std::fs::read_to_string(path).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    Some(Schedule {
        run_ns: numbers.next()?.ok()?,
        wait_ns: numbers.next()?.ok()?,
        slices: numbers.next()?.ok()?,
    })
}

/// Time in which the machine's CPUs had nothing to do, all together: one short line, where `/proc/stat` has one for each
/// CPU and interrupt.
fn idle_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = text.split_whitespace().nth(1)?.split_once('.')?;
    let [seconds, hundredths] = [seconds, hundredths].map(|word| word.parse::<u64>().ok());
    Some(
        seconds?
            .checked_mul(100)?
            .checked_add(hundredths?)?
            .saturating_mul(10_000_000),
    )
}

/// CPU time of a whole process.
fn process_ns(pid: Pid) -> Option<u64> {
    let raw = i32::try_from(pid.0).ok()?;
    let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(raw)).ok()?;
    let time = Duration::from(clock_gettime(clock).ok()?);
    u64::try_from(time.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(at_ms: u64, run_ms: u64, wait_ms: u64, slices: u64) -> Accounts {
        Accounts {
            at: Mono(at_ms * 1_000_000),
            schedule: Some(Schedule {
                run_ns: run_ms * 1_000_000,
                wait_ns: wait_ms * 1_000_000,
                slices,
            }),
            running: true,
            ahead_ns: 0,
            major_faults: 0,
            throttling: None,
            idle_ns: None,
            process_ns: None,
        }
    }

    /// Waiting is added to the accounts when it ends: a thread throttled for 80 ms shows nothing until then, and must
    /// not be shown to have waited for them twice.
    #[test]
    fn waiting_is_seen_while_it_lasts_and_counted_once() {
        let looks = [
            accounts(0, 10, 100, 5),
            accounts(20, 10, 100, 5),
            accounts(60, 10, 100, 5),
            accounts(100, 14, 180, 6),
            accounts(200, 114, 180, 6),
        ];
        let mut before = looks[0];
        let mut shown = Vec::new();
        for mut look in looks.into_iter().skip(1) {
            let times = look.since(&before).unwrap();
            shown.push((times.run_ns / 1_000_000, times.wait_ns / 1_000_000));
            before = look;
        }
        assert_eq!(shown, [(0, 20), (0, 40), (4, 20), (100, 0)]);
    }
}
