//! Turns notices and the counts of running loops into series.
//!
//! Pure: `now` is an argument. Comes before `registry` on the way out: the exporter's task hands in every notice, and
//! before each push or scrape what the sources say. One process may hold several loops (worker threads); they share one
//! set of series, because the contract's attributes name the process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::metric::Metric;
use super::registry::{Now, Readers, Registry, text, word};
use crate::pipeline::{ActionNotice, LoopId, LoopInfo, LoopTotals, Mono, Notice, StallView};

mod agent;
mod engines;
mod fold;
mod process;
mod template;

pub use agent::OwnUse;
use process::{Loop, Process, ProcessKey, Stall, base, key_of, show};

/// Series about processes held at once: some 400 processes.
pub const SERIES_LIMIT: usize = 50_000;

/// How long the source and the notices may disagree about whether a loop has ended: they come by different ways.
const SETTLES: Duration = Duration::from_secs(5);

/// All series and what is needed to keep them.
#[derive(Debug)]
pub struct Instruments {
    registry: Registry,
    processes: BTreeMap<ProcessKey, Process>,
    /// Loops that ended lately: the source may name them once more, which must not begin them anew.
    ended: HashMap<(ProcessKey, LoopId), Mono>,
}

impl Instruments {
    /// No loops yet.
    #[must_use]
    pub fn new(readers: Readers, series_limit: usize) -> Self {
        Self {
            registry: Registry::new(readers, series_limit),
            processes: BTreeMap::new(),
            ended: HashMap::new(),
        }
    }

    /// The series, for an exporter.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Takes one notice; true if what it says should be pushed without waiting for the interval.
    pub fn notice(&mut self, notice: &Notice, now: Now) -> bool {
        match notice {
            Notice::Loop { info, .. } => {
                self.ended.remove(&(key_of(info), info.id));
                self.entry(info, now);
                false
            }
            Notice::Placed { info, .. } => {
                self.placed(info, now);
                false
            }
            Notice::StallOpened { info, view } | Notice::StallUpdated { info, view } => {
                self.stalled(info, view, now)
            }
            Notice::Action { info, action } => {
                self.action(info, action, now);
                true
            }
            Notice::StallClosed {
                info,
                view,
                rescued,
                ..
            } => {
                self.closed(info, view, *rescued, now);
                true
            }
            Notice::EngineWait { info, lasted, .. } => {
                if let Some(group) = self.entry(info, now).group {
                    self.registry.observe(
                        group,
                        Metric::EngineWait,
                        vec![],
                        lasted.as_secs_f64(),
                        now,
                    );
                }
                false
            }
            Notice::Engine { info, news } => self.engine(info, news, now),
            Notice::Episode { .. } => false,
            Notice::Risk { info, risk } => {
                self.loop_of(info, now).risk = Some(*risk);
                self.show(info, now);
                risk.changed
            }
            Notice::LoopEnded { info, totals, .. } => {
                let record = self.loop_of(info, now);
                (record.totals, record.ended, record.stall) = (totals.clone(), true, None);
                self.ended.insert((key_of(info), info.id), now.mono);
                self.close_if_over(&key_of(info), now);
                false
            }
            Notice::Lost { what, count, .. } => {
                self.lost(what, *count, now);
                false
            }
        }
    }

    /// Counts something that was lost.
    pub fn lost(&mut self, what: &str, count: u64, now: Now) {
        let own = vec![text("what", what)];
        self.registry.add(
            Registry::AGENT,
            Metric::AgentLost,
            own,
            fold::number(count),
            now,
        );
    }

    /// Takes the counts of the loops that run now, and brings every gauge up to `now`.
    ///
    /// Heals what a dropped notice would leave behind: a loop that is not listed any more has ended.
    pub fn collect(&mut self, running: &[(Arc<LoopInfo>, LoopTotals)], now: Now) {
        self.ended.retain(|_, at| now.mono.since(*at) < SETTLES);
        let listed: HashSet<LoopId> = running.iter().map(|(info, _)| info.id).collect();
        for (info, totals) in running {
            if self.ended.contains_key(&(key_of(info), info.id)) {
                continue;
            }
            let record = self.loop_of(info, now);
            if !record.ended {
                record.totals.clone_from(totals);
                record.listed = true;
                record.forget_missed_end();
            }
        }
        let keys: Vec<ProcessKey> = self.processes.keys().cloned().collect();
        for key in keys {
            let mut unheard = 0;
            if let Some(process) = self.processes.get_mut(&key) {
                for (id, record) in &mut process.loops {
                    if record.is_over(listed.contains(id), now.mono) {
                        (record.ended, record.stall) = (true, None);
                        self.ended.insert((key.clone(), *id), now.mono);
                        unheard += 1;
                    }
                }
                show(&mut self.registry, process, now);
                let ended = &self.ended;
                process.forget_ended(|id| ended.contains_key(&(key.clone(), id)));
            }
            if unheard > 0 {
                self.lost("loop_ended", unheard, now);
            }
            self.close_if_over(&key, now);
        }
        let loops = self
            .processes
            .values()
            .flat_map(|p| p.loops.values())
            .filter(|l| !l.ended)
            .count();
        self.registry.set(
            Registry::AGENT,
            Metric::AgentLoops,
            vec![],
            fold::number(loops as u64),
            now,
        );
    }

    fn entry(&mut self, info: &LoopInfo, now: Now) -> &mut Process {
        let first = !self.processes.contains_key(&key_of(info));
        let process = self
            .processes
            .entry(key_of(info))
            .or_insert_with(|| Process {
                group: None,
                engines: None,
                loops: HashMap::new(),
                past: LoopTotals::default(),
            });
        process.loops.entry(info.id).or_default();
        if process.group.is_none() {
            let series = template::series();
            process.group = self.registry.open(base(info), series, now);
            if first && process.group.is_none() {
                self.registry.refuse(series.len());
            }
        }
        process
    }

    /// The pod of a process is known now: its series go on under that name, and those without it end.
    fn placed(&mut self, info: &LoopInfo, now: Now) {
        let Some(process) = self.processes.get_mut(&key_of(info)) else {
            return;
        };
        if let Some(group) = process.group.take() {
            self.registry.end(group, now.mono);
        }
        self.entry(info, now);
        self.engines_again(info, now);
        self.show(info, now);
    }

    fn loop_of(&mut self, info: &LoopInfo, now: Now) -> &mut Loop {
        self.entry(info, now).loops.entry(info.id).or_default()
    }

    fn stalled(&mut self, info: &LoopInfo, view: &StallView, now: Now) -> bool {
        let busy = u64::try_from(view.busy.as_nanos()).unwrap_or(u64::MAX);
        let since = Mono(view.at.0.saturating_sub(busy));
        let record = self.loop_of(info, now);
        let news = record
            .stall
            .as_ref()
            .is_none_or(|stall| stall.cause != view.cause.kind);
        if let Some(stall) = &mut record.stall {
            stall.cause = view.cause.kind;
        } else {
            record.stall = Some(Stall {
                since,
                cause: view.cause.kind,
                iterations: None,
            });
        }
        self.show(info, now);
        news
    }

    fn action(&mut self, info: &LoopInfo, action: &ActionNotice, now: Now) {
        if let Some(group) = self.entry(info, now).group {
            let own = template::action(action.signal, action.mode, action.outcome);
            self.registry
                .add(group, Metric::ActionSignals, own, 1.0, now);
        }
    }

    fn closed(&mut self, info: &LoopInfo, view: &StallView, rescued: bool, now: Now) {
        self.loop_of(info, now).stall = None;
        if let Some(group) = self.entry(info, now).group {
            let busy = view.busy.as_secs_f64();
            let cause = vec![word("cause", view.cause.kind.name())];
            self.registry
                .observe(group, Metric::StallDuration, cause, busy, now);
            if rescued {
                self.registry
                    .observe(group, Metric::RescueDuration, vec![], busy, now);
            }
        }
        self.show(info, now);
    }

    fn show(&mut self, info: &LoopInfo, now: Now) {
        if let Some(process) = self.processes.get(&key_of(info)) {
            show(&mut self.registry, process, now);
        }
    }

    fn close_if_over(&mut self, key: &ProcessKey, now: Now) {
        if self
            .processes
            .get(key)
            .is_some_and(|process| process.loops.values().all(|l| l.ended))
            && let Some(process) = self.processes.remove(key)
        {
            show(&mut self.registry, &process, now);
            if let Some(group) = process.group {
                self.registry.end(group, now.mono);
            }
        }
    }
}

#[cfg(test)]
mod placed_tests;
#[cfg(test)]
mod tests;
