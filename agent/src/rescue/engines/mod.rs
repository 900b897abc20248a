//! Engines from birth to death: gathers what the kernel reports and procfs shows of each, for the one [`Engines`] of its loop's process.
//!
//! For telling only: nothing here decides about a signal. What is known of an engine is kept with it until its loop is recognised;
//! an engine may be older than that. `seen` fills that in, `connects` counts what its loop connected to; here both go to the loop's
//! process, and its news are told.

mod connects;
mod seen;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::sentinel::Sentinel;
use crate::kernel::clock;
use crate::pipeline::engines::{Birth, Ending, Engines, Listens, News, Why, Zombie};
use crate::pipeline::event::{KernelEvent, What};
use crate::pipeline::family::{Family, Process};
use crate::pipeline::{EndedBy, LoopInfo, Mono, Notice, Pid, PidKey};

/// What sees an accepted connection costs each read of a TCP connection on the machine: so long after its birth an engine is given
/// to listen, and after that again for its first connection.
const READS_FOR: Duration = Duration::from_mins(1);

/// What is known of engines.
#[derive(Debug, Default)]
pub(super) struct EngineWatch {
    /// By loop process.
    loops: HashMap<PidKey, Engines>,
    /// By engine.
    known: HashMap<Pid, Known>,
    /// Where processes listen of which it is not known whether they are engines, and when they accepted.
    heard: HashMap<Pid, (Listens, Option<Mono>)>,
    /// Whom we have signalled.
    struck: HashSet<Pid>,
    /// Connections are seen; not set before there is an engine to follow.
    counts: Option<bool>,
    /// First reads are reported.
    reads: bool,
    /// Until then. Also when the engine has accepted: to begin anew soon after the end makes this thread wait for all processors, and
    /// the first read of the next engine comes meanwhile.
    reads_until: Mono,
}

/// What is known of one engine.
#[derive(Debug, Clone)]
struct Known {
    birth: Birth,
    /// Its parent, and so on.
    ancestors: Vec<PidKey>,
    listens: Option<Listens>,
    /// When it accepted, and whether that is exact.
    accepts: Option<(Mono, bool)>,
    ended: Option<Ending>,
    /// The loop process it belongs to.
    owner: Option<PidKey>,
    asks: u32,
}

impl EngineWatch {
    /// An event that the family has not taken in yet: of a process that has ended it then knows nothing.
    pub(super) fn note_event(&mut self, family: &Family, event: &KernelEvent) {
        if let What::Exited { start_ns, status } = event.what {
            let key = PidKey {
                pid: event.pid,
                start_ns,
            };
            self.note_end(family, key, event.at, Some(status));
        }
    }

    /// The same for an end that was learnt of otherwise.
    fn note_end(&mut self, family: &Family, key: PidKey, at: Mono, status: Option<i32>) {
        let struck = self.struck.remove(&key.pid);
        let Some(known) = self.known.get_mut(&key.pid) else {
            return;
        };
        if known.ended.is_some() || !known.birth.key.matches(key) {
            return;
        }
        let process = family.get(key.pid);
        let why = if struck {
            Why::Killed
        } else if process.is_some_and(|process| is_planned(family, process, &known.ancestors)) {
            Why::Planned
        } else if status.is_some() {
            Why::Crashed
        } else {
            Why::Unknown
        };
        known.ended = Some(Ending { at, why, status });
    }

    pub(super) fn struck(&mut self, child: Pid) {
        self.struck.insert(child);
    }

    /// When something is to be looked at.
    pub(super) fn due(&self, now: Mono) -> Option<Mono> {
        let looks = self.loops.values().filter_map(|engines| engines.due(now));
        let reads = self.reads.then_some(self.reads_until);
        looks.chain(reads).min()
    }

    /// Until when an engine may accept its first connection.
    fn accepts_until(&self) -> Option<Mono> {
        let awaited = self
            .known
            .values()
            .filter(|known| known.ended.is_none() && known.accepts.is_none());
        let until = awaited.filter_map(|known| {
            let listens = known.listens.map(|listens| listens.at);
            Some(listens.max(known.birth.spawned)?.plus(READS_FOR))
        });
        until.max()
    }
}

/// Whether it was ended by its own: told by its parent, or by who is above that, or together with them.
fn is_planned(family: &Family, process: &Process, ancestors: &[PidKey]) -> bool {
    let by = process.first_told.map(|told| told.by);
    let own = by.is_some_and(|by| ancestors.iter().any(|above| above.pid == by));
    let parent = family.get(process.parent);
    process.told.is_some() || own || parent.is_none_or(|parent| parent.ending.is_some())
}

impl Sentinel {
    /// A process has ended, or is not watched any more.
    pub(super) fn engine_or_loop_ended(&mut self, key: PidKey, at: Mono, how: EndedBy) {
        self.engines.heard.remove(&key.pid);
        if how != EndedBy::Detached {
            self.engines.note_end(&self.family, key, at, None);
        }
        let known = self.engines.known.get(&key.pid);
        if known.is_some_and(|known| known.birth.key.matches(key)) {
            self.pass_on(key.pid);
            self.engines.known.remove(&key.pid);
            self.follow_reads(at);
        }
        self.loop_has_no_engines(key, at);
    }

    /// The last word on the engines of a loop process.
    fn loop_has_no_engines(&mut self, key: PidKey, at: Mono) {
        let keys: Vec<PidKey> = self
            .engines
            .loops
            .keys()
            .copied()
            .filter(|known| known.matches(key))
            .collect();
        for key in keys {
            self.count_connects_of(key, at);
            self.engines.loops.remove(&key);
        }
    }

    /// The agent ends: what was counted so far is told.
    pub(super) fn finish_engines(&mut self, now: Mono) {
        for key in self.engines.loops.keys().copied().collect::<Vec<_>>() {
            self.loop_has_no_engines(key, now);
        }
    }

    /// Begins to follow the engines of loops that were recognised, and tells what time has brought.
    pub(super) fn follow_engines(&mut self, now: Mono) {
        let recognised = self.loops.values().filter(|watched| watched.info.is_some());
        let targets = &self.settings.targets;
        let has_engines = |target: usize| {
            let target = targets.get(target);
            target.is_some_and(|target| target.engine.is_some())
        };
        let fresh: HashSet<PidKey> = recognised
            .filter(|watched| has_engines(watched.target))
            .map(|watched| watched.id.process)
            .filter(|key| !self.engines.loops.contains_key(key))
            .collect();
        for key in &fresh {
            let process = self.family.get(key.pid);
            let seen_born = process.is_some_and(|process| process.seen_born);
            let counts = self.engines.counts == Some(true);
            let engines = Engines::new(now, counts, seen_born);
            self.engines.loops.insert(*key, engines);
        }
        if !fresh.is_empty() {
            for pid in self.engines.known.keys().copied().collect::<Vec<_>>() {
                self.pass_on(pid);
            }
        }
        if self.engines.reads && self.engines.reads_until <= now {
            self.follow_reads(now);
        }
        let news: Vec<(PidKey, Vec<News>)> = self
            .engines
            .loops
            .iter_mut()
            .map(|(key, engines)| (*key, engines.look(now)))
            .filter(|(_, news)| !news.is_empty())
            .collect();
        for (key, news) in news {
            self.tell_engine_news(key, news);
        }
    }

    /// Hands what is known of an engine to the state of its loop process, which takes each fact once.
    fn pass_on(&mut self, pid: Pid) {
        let Some(known) = self.engines.known.get(&pid) else {
            return;
        };
        let mut above = known.owner.iter().chain(&known.ancestors);
        let owner = above
            .find(|above| self.engines.loops.contains_key(above))
            .copied();
        let Some(owner) = owner else {
            return;
        };
        let known = known.clone();
        let counts = if known.listens.is_some() || known.ended.is_some() {
            self.connects_of(owner.pid)
        } else {
            Vec::new()
        };
        let incident = self.new_incident();
        let now = clock::now();
        let Some(engines) = self.engines.loops.get_mut(&owner) else {
            return;
        };
        engines.born(known.birth.clone());
        let mut news: Vec<News> = engines.counted(&counts, now).into_iter().collect();
        let key = known.birth.key;
        if let Some(listens) = known.listens {
            news.extend(engines.listens(key, listens, incident));
        }
        if let Some((at, exact)) = known.accepts {
            news.extend(engines.accepts(key, at, exact));
        }
        if let Some(ended) = known.ended {
            news.extend(engines.ended(key, ended, incident));
        }
        news.extend(engines.look(now));
        if let Some(known) = self.engines.known.get_mut(&pid) {
            known.owner = Some(owner);
        }
        self.tell_engine_news(owner, news);
        // What is due next may have changed.
        self.due = self.due.min(self.engines.due(now).unwrap_or(self.due));
    }

    /// A loop came back because a child had ended that we had signalled.
    pub(super) fn engine_recovers(&mut self, key: PidKey, at: Mono) {
        if let Some(engines) = self.engines.loops.get_mut(&key) {
            engines.rescued(at);
        }
    }

    /// All processes were looked at.
    pub(super) fn unreaped(&mut self, found: &[Zombie]) {
        let now = clock::now();
        let news: Vec<(PidKey, News)> = self
            .engines
            .loops
            .iter_mut()
            .filter_map(|(key, engines)| Some((*key, engines.unreaped(found, now)?)))
            .collect();
        for (key, news) in news {
            self.tell_engine_news(key, vec![news]);
        }
    }

    fn tell_engine_news(&mut self, key: PidKey, news: Vec<News>) {
        let loops = self.loops.values();
        let own = loops.filter(|watched| watched.id.process == key);
        let infos = own.filter_map(|watched| watched.info.as_ref());
        // Always the same one of several loops.
        let info: Option<Arc<LoopInfo>> = infos.min_by_key(|info| info.id.tid).cloned();
        let Some(info) = info else {
            return;
        };
        for news in news {
            self.tell(Notice::Engine {
                info: info.clone(),
                news,
            });
        }
    }
}
