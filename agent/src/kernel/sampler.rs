//! The sensor of last resort: no BPF, only `/proc/PID/task/TID/syscall`, read again and again.
//!
//! It sees what a thread is in at the moment of the look. Iterations shorter than the time between two looks are not
//! counted, and who signalled a child is not known. Identity is a pidfd, opened when a process is first known, with its
//! start time read before and after.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use loopwarden_abi::{BUCKETS, bucket_bound, bucket_of};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use super::clock;
use super::error::KernelError;
use super::plan::Plan;
use super::sensor::{Adoption, Listed, Sensor, Totals};
use super::thread_call::{Found, found};
use crate::pipeline::event::{Beat, KernelEvent, Poller, Reading, WaitReading};
use crate::pipeline::{Histogram, LoopTotals, Mono, Pid, Tid};

/// Samples procfs.
#[derive(Debug)]
pub struct Sampler {
    plan: Plan,
    processes: HashMap<Pid, Known>,
    threads: HashMap<Tid, Sampled>,
    counts: Arc<Counts>,
    next_slot: u32,
}

#[derive(Debug)]
struct Known {
    start_ns: u64,
    pidfd: OwnedFd,
}

#[derive(Debug)]
struct Sampled {
    pid: Pid,
    slot: u32,
    own: Option<Poller>,
    reading: Reading,
}

#[derive(Debug, Default)]
struct Counts(Mutex<HashMap<u32, LoopTotals>>);

impl Totals for Counts {
    fn totals(&self, slot: u32) -> Option<LoopTotals> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&slot)
            .cloned()
    }
}

impl Sampler {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            processes: HashMap::new(),
            threads: HashMap::new(),
            counts: Arc::new(Counts::default()),
            next_slot: 0,
        }
    }
}

impl Sensor for Sampler {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn drain(&mut self, _take: &mut dyn FnMut(KernelEvent)) {}

    fn know(
        &mut self,
        pid: Pid,
        start_ns: u64,
        _parent: Pid,
        _watched: bool,
    ) -> Result<(), KernelError> {
        if self.alive(pid) == Some(start_ns) {
            return Ok(());
        }
        let failed = |error: rustix::io::Errno| KernelError::Call {
            call: format!("pidfd_open({pid})"),
            error: error.into(),
        };
        let raw = i32::try_from(pid.0)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let raw = raw.ok_or(rustix::io::Errno::SRCH).map_err(failed)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(failed)?;
        // Read after the pidfd was opened: the same start time as before means that it is about the same process.
        if start_of(pid) != Some(start_ns) {
            return Err(failed(rustix::io::Errno::SRCH));
        }
        self.processes.insert(pid, Known { start_ns, pidfd });
        Ok(())
    }

    fn forget(&mut self, pid: Pid) {
        self.processes.remove(&pid);
    }

    fn alive(&self, pid: Pid) -> Option<u64> {
        let known = self.processes.get(&pid)?;
        let mut fds = [PollFd::new(&known.pidfd, PollFlags::IN)];
        let ended = matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(ready) if ready > 0);
        (!ended).then_some(known.start_ns)
    }

    fn adopt(&mut self, adoption: Adoption) -> Option<u32> {
        let slot = self.next_slot;
        self.next_slot = self.next_slot.wrapping_add(1);
        let reading = Reading {
            beat: adoption.beat,
            syscall: 0,
            iterations: 0,
            wait: adoption.wait,
            nested: None,
            pollers: Vec::new(),
        };
        let totals = LoopTotals {
            histogram: Histogram {
                bounds: (0..BUCKETS).map(bucket_bound).collect(),
                counts: vec![0; BUCKETS],
            },
            ..LoopTotals::default()
        };
        self.counts
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(slot, totals);
        self.threads.insert(
            adoption.tid,
            Sampled {
                pid: adoption.pid,
                slot,
                own: adoption.own,
                reading,
            },
        );
        Some(slot)
    }

    fn release(&mut self, tid: Tid, _ignore: bool) {
        if let Some(sampled) = self.threads.remove(&tid) {
            self.counts
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&sampled.slot);
        }
    }

    fn set_stall_after(&mut self, _tid: Tid, _nanoseconds: u64) {}

    fn set_own(&mut self, tid: Tid, own: Poller) {
        if let Some(sampled) = self.threads.get_mut(&tid) {
            sampled.own = Some(own);
        }
    }

    fn notify(&mut self, _tid: Tid) {}

    fn read(&mut self, tid: Tid) -> Option<Reading> {
        let sampled = self.threads.get_mut(&tid)?;
        let now = clock::now();
        let before = sampled.reading.beat;
        sampled.take(found(sampled.pid, tid), now);
        if let (Beat::Busy { since }, Beat::Polling { .. }) = (before, sampled.reading.beat) {
            let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(totals) = counts.get_mut(&sampled.slot) {
                count(totals, now, since);
            }
        }
        Some(sampled.reading.clone())
    }

    fn totals(&self) -> Arc<dyn Totals> {
        self.counts.clone()
    }

    fn list(&mut self) -> Vec<Listed> {
        Vec::new()
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

impl Sampled {
    fn take(&mut self, found: Found, now: Mono) {
        match found {
            Found::Polling(poller, timeout) if self.own.is_none_or(|own| own == poller) => {
                self.reading.wait = None;
                let same = matches!(self.reading.beat, Beat::Polling { .. });
                if !same {
                    let deadline = timeout.map(|span| Mono(now.0.saturating_add(span)));
                    self.reading.beat = Beat::Polling {
                        since: now,
                        deadline,
                    };
                }
                self.reading.iterations += u64::from(!same);
                // A deadline read from one look is that of an earlier call by the next: it cannot be overrun.
                if let Beat::Polling { since, .. } = self.reading.beat {
                    self.reading.beat = Beat::Polling {
                        since,
                        deadline: None,
                    };
                }
                match self
                    .reading
                    .pollers
                    .iter_mut()
                    .find(|(known, _)| *known == poller)
                {
                    Some((_, count)) => *count += 1,
                    None => self.reading.pollers.push((poller, 1)),
                }
            }
            other => {
                if !matches!(self.reading.beat, Beat::Busy { .. }) {
                    self.reading.beat = Beat::Busy { since: now };
                }
                self.reading.wait = match other {
                    Found::Waiting(awaited, options) => {
                        let same = self.reading.wait.filter(|wait| wait.awaited == awaited);
                        let start = same.map_or(now, |wait| wait.start);
                        Some(WaitReading {
                            start,
                            call: Some(now),
                            last: now,
                            gap: std::time::Duration::ZERO,
                            calls: 1,
                            awaited,
                            options,
                        })
                    }
                    _ => None,
                };
            }
        }
    }
}

fn count(totals: &mut LoopTotals, now: Mono, since: Mono) {
    let busy = now.since(since);
    totals.iterations += 1;
    totals.busy += busy;
    totals.max = totals.max.max(busy);
    let bucket = bucket_of(u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX));
    if let Some(count) = totals.histogram.counts.get_mut(bucket) {
        *count += 1;
    }
}

/// The start of a process, cut to hundredths of a second, which is all procfs knows.
fn start_of(pid: Pid) -> Option<u64> {
    let process = procfs::process::Process::new(i32::try_from(pid.0).ok()?).ok()?;
    let ticks = process.stat().ok()?.starttime;
    Some(ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}
