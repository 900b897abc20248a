//! Connections to engines: having the kernel half report and count them, and taking the counts.

use std::time::Duration;

use crate::pipeline::event::Connects;
use crate::pipeline::{Mono, Pid, PidKey};
use crate::rescue::sentinel::Sentinel;

/// A place to which nobody has connected for so long is not counted any more, unless an engine is there.
const FORGET_AFTER: Duration = Duration::from_mins(10);

impl Sentinel {
    /// A process of a target with engines is watched.
    pub(in crate::rescue) fn follow_engines_of(&mut self, target: usize) {
        let target = self.settings.targets.get(target);
        let has_engines = target.is_some_and(|target| target.engine.is_some());
        if !has_engines || self.engines.counts.is_some() {
            return;
        }
        let followed = self.sensor.follow_engines();
        if let Err(error) = &followed {
            log::info!(
                "when engines listen is read from procfs, and connections that they refuse are not seen: {error}"
            );
        }
        self.engines.counts = Some(followed.is_ok());
    }

    /// Has first reads reported while an engine is expected to accept.
    pub(super) fn follow_reads(&mut self, now: Mono) {
        let until = self.engines.accepts_until().unwrap_or_default();
        self.engines.reads_until = self.engines.reads_until.max(until);
        let wanted = self.engines.reads_until > now;
        if self.engines.counts != Some(true) || wanted == self.engines.reads {
            return;
        }
        match self.sensor.follow_reads(wanted) {
            Ok(()) => self.engines.reads = wanted,
            Err(error) => {
                log::debug!("when engines accept their first connection is not seen: {error}");
            }
        }
    }

    pub(super) fn connects_of(&mut self, pid: Pid) -> Vec<Connects> {
        if self.engines.counts != Some(true) {
            return Vec::new();
        }
        let mut counts = self.sensor.connects();
        counts.retain(|count| count.pid == pid);
        counts
    }

    pub(super) fn count_connects_of(&mut self, key: PidKey, at: Mono) {
        let counts = self.connects_of(key.pid);
        let engines = self.engines.loops.get_mut(&key);
        if let Some(news) = engines.and_then(|engines| engines.counted(&counts, at)) {
            self.tell_engine_news(key, vec![news]);
        }
    }

    /// Tells what is new of connections, and forgets places where nobody connects any more.
    pub(in crate::rescue) fn count_connects(&mut self, now: Mono) {
        if self.engines.counts != Some(true) {
            return;
        }
        let counts = self.sensor.connects();
        let keys: Vec<PidKey> = self.engines.loops.keys().copied().collect();
        for key in keys {
            let own: Vec<Connects> = counts
                .iter()
                .filter(|count| count.pid == key.pid)
                .copied()
                .collect();
            let engines = self.engines.loops.get_mut(&key);
            if let Some(news) = engines.and_then(|engines| engines.counted(&own, now)) {
                self.tell_engine_news(key, vec![news]);
            }
        }
        for count in counts {
            let process = self.family.get(count.pid).map(|process| process.key);
            let engines = process.and_then(|key| self.engines.loops.get_mut(&key));
            let is_old = now.since(count.last) > FORGET_AFTER;
            let is_used = engines
                .as_ref()
                .is_some_and(|known| known.knows(count.peer.port));
            if process.is_none() || (is_old && !is_used) {
                self.sensor.forget_connects(&count);
                if let Some(engines) = engines {
                    engines.forget(&count.peer);
                }
            }
        }
    }
}
