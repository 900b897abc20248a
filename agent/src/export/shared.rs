//! What the tasks of the exporter share: the series, the sources and the counters.
//!
//! The lock is held for reading and writing memory only, never across a wait.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock;
use super::instruments::Instruments;
use super::ready::Readiness;
use super::registry::{Extent, Family, Now};
use super::sender::Lane;
use super::source::{AgentSource, HookVerdict, LoopSource};
use crate::pipeline::Notice;

pub(super) struct Shared {
    pub(super) instruments: Mutex<Instruments>,
    pub(super) loops: Arc<dyn LoopSource>,
    pub(super) agent: Arc<dyn AgentSource>,
    pub(super) metrics: Option<Arc<Lane>>,
    pub(super) logs: Option<Arc<Lane>>,
    pub(super) notices_dropped: AtomicU64,
    pub(super) page_failures: AtomicU64,
}

impl Shared {
    /// Takes a notice; true if it should be pushed at once.
    pub(super) fn notice(&self, notice: &Notice, now: Now) -> bool {
        self.instruments().notice(notice, now)
    }

    /// The text page's families, brought up to date.
    pub(super) fn page(&self) -> Vec<Family> {
        let (mut instruments, now) = self.collected();
        instruments.registry().page(now)
    }

    /// The families of a push; a push of all is brought up to date first.
    pub(super) fn push(&self, extent: Extent) -> Vec<Family> {
        let (mut instruments, now) = match extent {
            Extent::All => self.collected(),
            Extent::Changed => (self.instruments(), clock::now()),
        };
        instruments.registry().push(extent, now)
    }

    /// Whether loops have engines that accept.
    pub(super) fn engines_ready(&self) -> Vec<Readiness> {
        self.instruments().engines_ready()
    }

    pub(super) fn hooks(&self) -> Vec<HookVerdict> {
        self.agent.agent().hooks
    }

    fn collected(&self) -> (MutexGuard<'_, Instruments>, Now) {
        let (running, stats, own_use) = (self.loops.loops(), self.agent.agent(), clock::own_use());
        let mut exporters = vec![("page", self.page_failures.load(Ordering::Relaxed), 0)];
        for lane in [&self.metrics, &self.logs].into_iter().flatten() {
            exporters.push((
                lane.name,
                lane.failures.load(Ordering::Relaxed),
                lane.queue.dropped(),
            ));
        }
        let mut instruments = self.instruments();
        // Read under the lock, so that no task goes back in time.
        let now = clock::now();
        instruments.collect(&running, now);
        instruments.agent(&stats, own_use, now);
        instruments.exporters(
            &exporters,
            self.notices_dropped.load(Ordering::Relaxed),
            now,
        );
        (instruments, now)
    }

    fn instruments(&self) -> MutexGuard<'_, Instruments> {
        self.instruments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("metrics", &self.metrics)
            .field("logs", &self.logs)
            .finish_non_exhaustive()
    }
}
