//! What kernel events and procfs show of each engine: that a process is one, where it listens, that it accepts.

use super::Known;
use crate::kernel::clock;
use crate::pipeline::engines::{Birth, Listens};
use crate::pipeline::event::{KernelEvent, Listener};
use crate::pipeline::family::{Family, Process};
use crate::pipeline::{Notice, Pid, PidKey};
use crate::rescue::sentinel::Sentinel;
use crate::sockets::Doors;
use crate::target::scout::Question;

/// Engines that are followed at once, and processes that listen and are not known to be engines.
const MOST_ENGINES: usize = 4096;
const MOST_HEARD: usize = 4096;
/// Processes between a loop and its engine: a shell or two.
const MOST_BETWEEN: usize = 8;
/// So often procfs is asked about an engine that was not seen to listen or accept.
const MOST_ASKS: u32 = 60;

impl Sentinel {
    /// A process turned out to be an engine.
    pub(in crate::rescue) fn engine_known(&mut self, pid: Pid) {
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
    pub(in crate::rescue) fn began_to_listen(&mut self, event: &KernelEvent, listens: Listens) {
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
    pub(in crate::rescue) fn accepted(&mut self, event: &KernelEvent, listener: Listener) {
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
    pub(in crate::rescue) fn doors_found(&mut self, pid: Pid, doors: &Doors) {
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

    /// Asks procfs about engines that were not seen to listen, or to accept: they did so before the agent came, without a hook or before
    /// it was in place, or on a socket that somebody else has opened.
    pub(in crate::rescue) fn ask_about_engines(&mut self) {
        let silent = |known: &Known| known.listens.is_none() || known.accepts.is_none();
        let known = self.engines.known.iter();
        let asked: Vec<Pid> = known
            .filter(|(_, known)| known.ended.is_none() && silent(known))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in asked {
            self.ask_for_doors(pid);
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
