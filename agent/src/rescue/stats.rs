//! Figures of the rescue thread that others read without asking it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::pipeline::Histogram;

/// Upper bounds of the lateness histogram, nanoseconds: powers of two from 2^16 (65 µs) to 2^31 (2.1 s).
const BOUNDS: usize = 16;
const FIRST: u32 = 16;

/// Shared by the rescue thread, which writes, and the exporters, which read.
#[derive(Debug, Default)]
pub struct Stats {
    lateness: [AtomicU64; BOUNDS + 1],
    lateness_ns: AtomicU64,
    processes: AtomicU64,
    threads: AtomicU64,
    priority: Mutex<Option<String>>,
    lost: Mutex<Vec<(&'static str, u64)>>,
}

impl Stats {
    /// Counts how much later than due a look was.
    pub(super) fn late(&self, by: Duration) {
        let nanoseconds = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (0..BOUNDS)
            .find(|index| nanoseconds < bound(*index))
            .unwrap_or(BOUNDS);
        self.lateness[bucket].fetch_add(1, Ordering::Relaxed);
        self.lateness_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Tells how many processes and threads are known.
    pub(super) fn known(&self, processes: usize, threads: usize) {
        self.processes.store(
            u64::try_from(processes).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.threads.store(
            u64::try_from(threads).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Tells what was lost so far. Skipped while somebody reads: the next time will do.
    pub(super) fn lost_so_far(&self, lost: &[(&'static str, u64)]) {
        if let Ok(mut known) = self.lost.try_lock() {
            known.clear();
            known.extend_from_slice(lost);
        }
    }

    /// Tells why the thread does not run with real-time priority, if so.
    pub(super) fn without_priority(&self, reason: Option<String>) {
        *self.priority.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// How late looks were, and the sum of it.
    #[must_use]
    pub fn lateness(&self) -> (Histogram, Duration) {
        let counts = self
            .lateness
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let bounds = (0..BOUNDS).map(bound).chain([u64::MAX]).collect();
        (
            Histogram { bounds, counts },
            Duration::from_nanos(self.lateness_ns.load(Ordering::Relaxed)),
        )
    }

    /// Processes and threads known now.
    #[must_use]
    pub fn fill(&self) -> (u64, u64) {
        (
            self.processes.load(Ordering::Relaxed),
            self.threads.load(Ordering::Relaxed),
        )
    }

    /// What was lost so far, by name.
    #[must_use]
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why the thread does not run with real-time priority; `None` if it does.
    #[must_use]
    pub fn no_priority(&self) -> Option<String> {
        self.priority
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn bound(index: usize) -> u64 {
    1u64 << (FIRST + u32::try_from(index).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_falls_into_its_bucket() {
        let stats = Stats::default();
        for micros in [1, 100, 5_000, 10_000_000] {
            stats.late(Duration::from_micros(micros));
        }
        let (histogram, sum) = stats.lateness();
        assert_eq!(histogram.total(), 4);
        assert_eq!(
            (
                histogram.counts[0],
                histogram.counts[1],
                histogram.counts[16]
            ),
            (1, 1, 1)
        );
        assert_eq!(sum, Duration::from_micros(10_005_101));
    }
}
