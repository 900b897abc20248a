//! Engines from birth to death: gathers what the kernel reports and procfs shows of each, for the one [`Engines`] of its loop's process.
//!
//! For telling only: nothing here decides about a signal. What is known of an engine is kept with it until its loop is recognised;
//! an engine may be older than that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::sentinel::Sentinel;
use crate::kernel::clock;
use crate::pipeline::engines::{Birth, Ending, Engines, Listens, News, Why, Zombie};
use crate::pipeline::event::{Connects, KernelEvent, Listener, What};
use crate::pipeline::family::{Family, Process};
use crate::pipeline::{EndedBy, LoopInfo, Mono, Notice, Pid, PidKey};
use crate::sockets::Doors;
use crate::target::scout::Question;

/// Engines that are followed at once, and processes that listen and are not known to be engines.
const MOST_ENGINES: usize = 4096;
const MOST_HEARD: usize = 4096;
/// Processes between a loop and its engine: a shell or two.
const MOST_BETWEEN: usize = 8;
/// What sees an accepted connection costs each read of a TCP connection on the machine: so long after its birth an engine is given
/// to listen, and after that again for its first connection.
const READS_FOR: Duration = Duration::from_mins(1);
/// So often procfs is asked about an engine that was not seen to listen or accept.
const MOST_ASKS: u32 = 60;
/// A place to which nobody has connected for so long is not counted any more, unless an engine is there.
const FORGET_AFTER: Duration = Duration::from_mins(10);

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
        let reads = self.reads_until().filter(|_| self.reads);
        looks.chain(reads).min()
    }

    /// Until when an engine may accept its first connection.
    fn reads_until(&self) -> Option<Mono> {
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
    /// A process of a target with engines is watched.
    pub(super) fn follow_engines_of(&mut self, target: usize) {
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

    /// A process turned out to be an engine.
    pub(super) fn engine_known(&mut self, pid: Pid) {
        let Some(process) = self.family.get(pid) else {
            return;
        };
        let before = self.engines.known.get(&pid);
        if before.is_some_and(|known| known.birth.key.matches(process.key)) {
            return;
        }
        if self.engines.known.len() >= MOST_ENGINES {
            (self.tell)(Notice::Lost {
                at: clock::now(),
                what: "engine_not_followed".into(),
                count: 1,
            });
            return;
        }
        let heard = self.engines.heard.remove(&pid);
        let known = Known {
            birth: Birth {
                key: process.key,
                exe: process.exe.clone(),
                spawned: process.born,
                seen: clock::now(),
            },
            ancestors: ancestors(&self.family, process),
            listens: heard.map(|(listens, _)| listens),
            accepts: heard.and_then(|(_, accepts)| Some((accepts?, true))),
            ended: None,
            owner: None,
            asks: 0,
        };
        self.engines.known.insert(pid, known);
        self.follow_reads(clock::now());
        self.pass_on(pid);
        if self
            .family
            .get(pid)
            .is_some_and(|process| process.born.is_none())
        {
            self.ask_for_doors(pid);
        }
    }

    /// A known process listens.
    pub(super) fn began_to_listen(&mut self, event: &KernelEvent, listens: Listens) {
        let engine = self.engine_above(event.pid);
        if let Some(engine) = engine {
            if let Some(known) = self.engines.known.get_mut(&engine)
                && known.listens.is_none()
            {
                known.listens = Some(listens);
                self.follow_reads(clock::now());
                self.pass_on(engine);
            }
        } else if self.engines.heard.len() < MOST_HEARD {
            self.engines
                .heard
                .entry(event.pid)
                .or_insert((listens, None));
        }
    }

    /// A known process has accepted its first connection.
    pub(super) fn accepted(&mut self, event: &KernelEvent, listener: Listener) {
        if let Some(engine) = self.engine_above(event.pid) {
            if let Some(known) = self.engines.known.get_mut(&engine)
                && known.accepts.is_none()
                && known
                    .listens
                    .is_some_and(|listens| listens.port == listener)
            {
                known.accepts = Some((event.at, true));
                self.follow_reads(clock::now());
                self.pass_on(engine);
            }
        } else if let Some((listens, accepts)) = self.engines.heard.get_mut(&event.pid)
            && listens.port == listener
        {
            accepts.get_or_insert(event.at);
        }
    }

    /// The engine that a process is, or descends from.
    fn engine_above(&self, pid: Pid) -> Option<Pid> {
        let mut pid = pid;
        for _ in 0..=MOST_BETWEEN {
            let process = self.family.get(pid)?;
            if process.engine == Some(true) && self.engines.known.contains_key(&pid) {
                return Some(pid);
            }
            pid = process.parent;
        }
        None
    }

    /// procfs shows where an engine listens. When it began to is not known.
    pub(super) fn doors_found(&mut self, pid: Pid, doors: &Doors) {
        let now = clock::now();
        let Some(known) = self.engines.known.get_mut(&pid) else {
            return;
        };
        let Some(port) = doors.ports.first() else {
            return;
        };
        known.listens.get_or_insert(Listens {
            at: now,
            port: *port,
            place: None,
            exact: false,
        });
        if doors.accepted {
            known.accepts.get_or_insert((now, false));
        }
        self.pass_on(pid);
    }

    fn ask_for_doors(&mut self, pid: Pid) {
        if let Some(known) = self.engines.known.get_mut(&pid)
            && known.asks < MOST_ASKS
        {
            known.asks += 1;
            self.ask(Question::Doors(pid));
        }
    }

    /// Asks procfs about engines that were not seen to listen, or to accept: they did so before the agent came, without a hook, or on a
    /// socket that somebody else has opened.
    pub(super) fn ask_about_engines(&mut self) {
        let silent = |known: &Known| match (known.listens, known.accepts) {
            (None, _) => true,
            (Some(listens), None) => !listens.exact,
            (Some(_), Some(_)) => false,
        };
        let known = self.engines.known.iter();
        let asked: Vec<Pid> = known
            .filter(|(_, known)| known.ended.is_none() && silent(known))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in asked {
            self.ask_for_doors(pid);
        }
    }

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
        if self.engines.reads && self.engines.reads_until().is_none_or(|until| until <= now) {
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

    /// Has first reads reported while an engine is expected to accept.
    fn follow_reads(&mut self, now: Mono) {
        let wanted = self.engines.reads_until().is_some_and(|until| until > now);
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

    fn connects_of(&mut self, pid: Pid) -> Vec<Connects> {
        if self.engines.counts != Some(true) {
            return Vec::new();
        }
        let mut counts = self.sensor.connects();
        counts.retain(|count| count.pid == pid);
        counts
    }

    fn count_connects_of(&mut self, key: PidKey, at: Mono) {
        let counts = self.connects_of(key.pid);
        let engines = self.engines.loops.get_mut(&key);
        if let Some(news) = engines.and_then(|engines| engines.counted(&counts, at)) {
            self.tell_engine_news(key, vec![news]);
        }
    }

    /// Tells what is new of connections, and forgets places where nobody connects any more.
    pub(super) fn count_connects(&mut self, now: Mono) {
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

/// Who is above a process, nearest first.
fn ancestors(family: &Family, process: &Process) -> Vec<PidKey> {
    let mut found: Vec<PidKey> = Vec::new();
    let mut above = family.get(process.parent);
    while let Some(process) = above.filter(|_| found.len() < MOST_BETWEEN) {
        found.push(process.key);
        above = family.get(process.parent);
    }
    found
}
