//! The engines of one loop process.

use std::time::Duration;

use super::engine::Engine;
use super::ledger::{Door, Ledger};
use super::ready::STARTS_WITHIN;
use super::{
    Birth, Ending, EngineNews, EngineReady, EngineView, Listens, News, StartupRace, Why, Zombie,
};
use crate::pipeline::event::{Connects, Listener, Peer};
use crate::pipeline::{IncidentId, Mono, Pid, PidKey};

/// A process that lives for so long is an engine; one that ends before without ever having listened was asked for its version.
const IS_ENGINE_AFTER: Duration = Duration::from_secs(5);
/// Whoever ended and is not reaped within this time is a zombie.
const ZOMBIE_AFTER: Duration = Duration::from_secs(5);
/// Engines of one loop process that are remembered, with those that ended and are not reaped; and ports of those before.
const MOST_ENGINES: usize = 64;
const MOST_FORMER: usize = 8;

/// The engines of one loop process, those that ended and are not reaped among them.
#[derive(Debug)]
pub struct Engines {
    /// Connections are seen.
    pub(super) counts: bool,
    /// The loop's process was seen from its start, so that an engine it had before is known.
    pub(super) seen_born: bool,
    all: Vec<Engine>,
    generations: u32,
    /// Where engines listened that have ended.
    pub(super) former: Vec<Door>,
    pub(super) ledger: Ledger,
    /// Since when no engine accepts.
    pub(super) since: Mono,
    /// How the last one ended that did.
    pub(super) last: Option<Why>,
    rescued: Option<Mono>,
    zombies: u64,
    ready: Option<EngineReady>,
}

impl Engines {
    /// Of a loop process that is known from `since` on. `counts`: connections are seen. `seen_born`: it was from its start.
    #[must_use]
    pub fn new(since: Mono, counts: bool, seen_born: bool) -> Self {
        Self {
            counts,
            seen_born,
            all: Vec::new(),
            generations: 0,
            former: Vec::new(),
            ledger: Ledger::default(),
            since,
            last: None,
            rescued: None,
            zombies: 0,
            ready: None,
        }
    }

    /// An engine was started, or found.
    pub fn born(&mut self, birth: Birth) {
        if self.all.iter().any(|known| known.birth.key == birth.key) {
            return;
        }
        if self.all.len() >= MOST_ENGINES {
            let ended = self.all.iter().position(|known| known.ended.is_some());
            self.all.remove(ended.unwrap_or(0));
        }
        self.all.push(Engine::new(birth));
    }

    /// An engine listens. The counts must have been taken after it began to; an incident that this makes has that name.
    pub fn listens(&mut self, key: PidKey, listens: Listens, incident: IncidentId) -> Vec<News> {
        let known = self.doors();
        let Some(place) = self.place(key) else {
            return Vec::new();
        };
        if self.all[place].listens.is_some() {
            return Vec::new();
        }
        let mut news = self.confirm(place);
        let engine = &mut self.all[place];
        engine.listens = Some(listens);
        let spawned = engine.birth.spawned;
        let startup = spawned
            .filter(|_| listens.exact)
            .map(|spawned| listens.at.since(spawned));
        let view = engine.view();
        let door = listens.door();
        // Where another engine listens all the time, nobody is refused for lack of this one.
        let gap = self.former.iter().filter(|door| !known.contains(door));
        let gap: Vec<Door> = gap.copied().collect();
        let refused = self.ledger.refused(door, &gap, spawned);
        let count = refused.map_or(0, |refused| refused.count);
        self.all[place].refused = count;
        let port = listens.port.port;
        news.push(News {
            at: listens.at,
            what: EngineNews::Listening {
                engine: view.clone(),
                port,
                after: startup,
                refused: self.counts.then_some(count),
            },
        });
        let race = refused
            .and_then(|refused| StartupRace::of(view, refused, listens.at, incident))
            .map(|race| StartupRace {
                port: Some(port),
                startup,
                ..race
            });
        news.extend(race.map(|race| News {
            at: listens.at,
            what: EngineNews::StartupRace(Box::new(race)),
        }));
        self.former.retain(|former| *former != door);
        self.ledger.settle(&gap, listens.at);
        self.ledger.settle(&[door], listens.at);
        news.extend(self.connected(listens.at));
        news
    }

    /// An engine has accepted a connection for the first time.
    pub fn accepts(&mut self, key: PidKey, at: Mono, exact: bool) -> Vec<News> {
        let Some(place) = self.place(key) else {
            return Vec::new();
        };
        let engine = &mut self.all[place];
        if engine.accepts.is_some() {
            return Vec::new();
        }
        engine.accepts = Some(at);
        let mut news = self.confirm(place);
        let engine = &self.all[place];
        let spawned = engine.birth.spawned.filter(|_| exact);
        news.push(News {
            at,
            what: EngineNews::Accepting {
                engine: engine.view(),
                after: spawned.map(|spawned| at.since(spawned)),
            },
        });
        if exact && let Some(rescued) = self.rescued.take() {
            let after = at.since(rescued);
            if after <= STARTS_WITHIN {
                news.push(News {
                    at,
                    what: EngineNews::Recovered { after },
                });
            }
        }
        news
    }

    /// An engine has ended; an incident that this makes has that name.
    pub fn ended(&mut self, key: PidKey, ending: Ending, incident: IncidentId) -> Vec<News> {
        let known = self.doors();
        let Some(place) = self.place(key) else {
            return Vec::new();
        };
        let engine = &mut self.all[place];
        if engine.ended.is_some() {
            return Vec::new();
        }
        engine.ended = Some(ending.at);
        let asked = engine.generation.is_none()
            && ending.why != Why::Killed
            && ending.status.is_none_or(|status| status == 0);
        if asked {
            // It has told its version and ended: nobody's engine.
            return Vec::new();
        }
        let mut news = self.confirm(place);
        let engine = &self.all[place];
        let spawned = engine.birth.spawned;
        let view = engine.view();
        let accepted = engine.accepts.is_some();
        if let Some(listens) = engine.listens {
            self.leave(listens.door(), ending.at);
        } else if let Some(spawned) = spawned {
            news.extend(self.in_vain(&view, &known, (spawned, ending.at), incident));
        }
        if accepted && !self.accepts_now() {
            self.since = ending.at;
            self.last = Some(ending.why);
        }
        news.push(News {
            at: ending.at,
            what: EngineNews::Ended {
                engine: view,
                why: ending.why,
                status: ending.status,
                lived: spawned.map(|spawned| ending.at.since(spawned)),
            },
        });
        news
    }

    /// An engine listened there and has ended: from here on whoever is refused there is so because it is gone.
    fn leave(&mut self, door: Door, at: Mono) {
        self.ledger.settle(&[door], at);
        self.former.retain(|former| *former != door);
        if self.former.len() >= MOST_FORMER {
            self.former.remove(0);
        }
        self.former.push(door);
    }

    /// It has ended before it ever listened: what was refused since its start was refused in vain.
    fn in_vain(
        &mut self,
        engine: &EngineView,
        known: &[Door],
        (spawned, at): (Mono, Mono),
        incident: IncidentId,
    ) -> Option<News> {
        let mut known = known.to_vec();
        known.extend(&self.former);
        let refused = self.ledger.nowhere(&known, spawned)?;
        let race = StartupRace::of(engine.clone(), refused, at, incident)?;
        self.ledger.settle_nowhere(&known, spawned, at);
        Some(News {
            at,
            what: EngineNews::StartupRace(Box::new(race)),
        })
    }

    /// The loop was freed from an engine that we ended: the next one to accept is its recovery.
    pub fn rescued(&mut self, at: Mono) {
        self.rescued = Some(at);
    }

    /// Takes the counts of the loop's process as they stand.
    pub fn counted(&mut self, counts: &[Connects], now: Mono) -> Option<News> {
        self.ledger.take(counts);
        self.connected(now)
    }

    /// The kernel half counts what goes there from zero again.
    pub fn forget(&mut self, peer: &Peer) {
        self.ledger.forget(peer);
    }

    /// Whether an engine listens or has listened there.
    #[must_use]
    pub fn knows(&self, port: Listener) -> bool {
        let mut doors = self.former.iter().copied().chain(self.doors());
        doors.any(|door| door.port == port)
    }

    fn connected(&mut self, at: Mono) -> Option<News> {
        let mut doors = self.doors();
        doors.extend(&self.former);
        let (ok, refused) = self.ledger.news(&doors);
        (ok + refused > 0).then_some(News {
            at,
            what: EngineNews::Connects { ok, refused },
        })
    }

    /// All processes were looked at, and these have ended and are not reaped.
    pub fn unreaped(&mut self, found: &[Zombie], now: Mono) -> Option<News> {
        let parent_of = |engine: &Engine| {
            let waits = engine.ended.is_some_and(|at| now.since(at) > ZOMBIE_AFTER);
            let zombie = found.iter().find(|one| one.key.matches(engine.birth.key));
            zombie.filter(|_| waits).map(|zombie| zombie.parent)
        };
        self.all.retain(|engine| {
            let long = engine.ended.is_some_and(|at| now.since(at) > ZOMBIE_AFTER);
            !long || parent_of(engine).is_some()
        });
        let zombies: Vec<(&Engine, Pid)> = self
            .all
            .iter()
            .filter_map(|engine| Some((engine, parent_of(engine)?)))
            .collect();
        let count = zombies.len() as u64;
        let oldest = zombies.iter().min_by_key(|(engine, _)| engine.ended);
        let oldest = oldest.map(|(engine, parent)| (engine.birth.key.pid, *parent));
        if count == std::mem::replace(&mut self.zombies, count) {
            return None;
        }
        Some(News {
            at: now,
            what: EngineNews::Zombies { count, oldest },
        })
    }

    /// What the passing of time tells.
    pub fn look(&mut self, now: Mono) -> Vec<News> {
        let grown = |engine: &Engine| {
            engine.ended.is_none()
                && engine.generation.is_none()
                && (engine
                    .birth
                    .spawned
                    .is_none_or(|at| now.since(at) >= IS_ENGINE_AFTER))
        };
        let grown: Vec<usize> = (0..self.all.len())
            .filter(|place| grown(&self.all[*place]))
            .collect();
        let mut news: Vec<News> = grown
            .into_iter()
            .flat_map(|place| self.confirm(place))
            .collect();
        let ready = self.ready(now).0;
        let told = self.ready.replace(ready);
        if !told.is_some_and(|told| ready.is_told_by(told)) {
            news.push(News {
                at: now,
                what: EngineNews::Ready(ready),
            });
        }
        news
    }

    /// When to look again.
    #[must_use]
    pub fn due(&self, now: Mono) -> Option<Mono> {
        let young = self
            .all
            .iter()
            .filter(|engine| engine.ended.is_none() && engine.generation.is_none());
        let grown = young.filter_map(|engine| Some(engine.birth.spawned?.plus(IS_ENGINE_AFTER)));
        grown
            .chain(self.ready(now).1)
            .filter(|due| *due > now)
            .min()
    }

    pub(super) fn accepts_now(&self) -> bool {
        self.living().any(|engine| engine.accepts.is_some())
    }

    pub(super) fn living(&self) -> impl Iterator<Item = &Engine> {
        self.all.iter().filter(|engine| engine.ended.is_none())
    }

    pub(super) fn doors(&self) -> Vec<Door> {
        let open = self.living().filter_map(|engine| engine.listens);
        open.map(Listens::door).collect()
    }

    fn place(&self, key: PidKey) -> Option<usize> {
        let mut engines = self.all.iter();
        engines.position(|engine| engine.birth.key.matches(key))
    }

    fn confirm(&mut self, place: usize) -> Vec<News> {
        let told = self.all[place].confirm(&mut self.generations);
        told.into_iter().collect()
    }
}
