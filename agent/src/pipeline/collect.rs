//! From notices to the records of incidents.
//!
//! Pure: the caller hands in every notice with the clocks of that moment, and gets back what is worth writing down. What it
//! keeps is bounded: one record for each open incident, each with a bounded timeline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::cause::CauseKind;
use super::evidence::Evidence;
use super::ids::{IncidentId, Mono};
use super::liveness::Outlook;
use super::notice::{ActionNotice, EndedBy, LoopInfo, Notice, StallView};
use super::record::{
    Action, Capture, End, Entry, InForce, IncidentRecord, Share, State, VERSION, What, Who,
};
use super::stamp::Tied;
use super::story::EpisodeStory;

/// Incidents that may be open at once: as many as there can be loops.
const OPEN: usize = 4096;
/// Entries of one timeline: the first half and the last, with the middle left out.
const TIMELINE: usize = 64;
/// Captures and actions of one incident: the first half and the last.
const CAPTURES: usize = 6;
const ACTIONS: usize = 32;
/// Wait episodes of one incident.
const EPISODES: usize = 4;

/// What became of a notice.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing to write.
    Nothing,
    /// An incident opened, or an open one was acted on; its record is [`Collector::record`].
    Progress {
        /// Which.
        incident: IncidentId,
        /// A signal is part of the news.
        acted: bool,
    },
    /// An incident is over.
    Closed(Box<IncidentRecord>),
    /// An incident that could not be kept because too many are open.
    TooMany,
}

/// Builds the records.
#[derive(Debug)]
pub struct Collector {
    run: IncidentId,
    open: HashMap<IncidentId, Draft>,
}

#[derive(Debug)]
struct Draft {
    record: IncidentRecord,
    kind: CauseKind,
    /// Since when `kind` is the cause.
    since: Mono,
    newest: Option<Arc<Evidence>>,
}

impl Collector {
    /// For the run of the agent with this name.
    #[must_use]
    pub fn new(run: IncidentId) -> Self {
        Self {
            run,
            open: HashMap::new(),
        }
    }

    /// Takes a notice. `in_force` tells what holds for a loop.
    pub fn take(
        &mut self,
        notice: &Notice,
        clock: Tied,
        in_force: impl FnOnce(&LoopInfo) -> InForce,
    ) -> Step {
        match notice {
            Notice::StallOpened { info, view } => self.opened(info, view, clock, in_force),
            Notice::StallUpdated { view, .. } => {
                if let Some(draft) = self.open.get_mut(&view.incident) {
                    draft.updated(view, clock);
                }
                Step::Nothing
            }
            Notice::Action { action, .. } => {
                let Some(draft) = self.open.get_mut(&action.incident) else {
                    return Step::Nothing;
                };
                draft.acted(action, clock);
                Step::Progress {
                    incident: action.incident,
                    acted: true,
                }
            }
            Notice::StallClosed {
                view,
                rescued,
                ended_by,
                liveness,
                ..
            } => match self.open.remove(&view.incident) {
                Some(draft) => {
                    let end = (*rescued, *ended_by, *liveness);
                    Step::Closed(Box::new(draft.closed(view, end, clock)))
                }
                None => Step::Nothing,
            },
            Notice::Episode {
                incident, story, ..
            } => {
                if let Some(draft) = self.open.get_mut(incident)
                    && draft.record.episodes.len() < EPISODES
                {
                    draft.record.episodes.push(EpisodeStory::clone(story));
                }
                Step::Nothing
            }
            Notice::Loop { .. }
            | Notice::Placed { .. }
            | Notice::Risk { .. }
            | Notice::EngineWait { .. }
            | Notice::Engine { .. }
            | Notice::LoopEnded { .. }
            | Notice::Lost { .. } => Step::Nothing,
        }
    }

    /// The record of an open incident as it stands.
    #[must_use]
    pub fn record(&self, incident: IncidentId) -> Option<&IncidentRecord> {
        self.open.get(&incident).map(|draft| &draft.record)
    }

    /// Open incidents.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    fn opened(
        &mut self,
        info: &LoopInfo,
        view: &StallView,
        clock: Tied,
        in_force: impl FnOnce(&LoopInfo) -> InForce,
    ) -> Step {
        if self.open.len() >= OPEN {
            return Step::TooMany;
        }
        let began = Mono(view.at.0.saturating_sub(nanos(view.busy)));
        let opened = clock.stamp(view.at);
        let record = IncidentRecord {
            v: VERSION,
            incident: view.incident,
            run: self.run,
            state: State::Open,
            who: Who::from(info),
            began: opened.minus(view.busy),
            began_mono_ns: began,
            opened,
            began_earlier: view.busy_is_lower_bound,
            settings: in_force(info),
            cause: view.cause.clone(),
            causes: Vec::new(),
            timeline: Vec::new(),
            timeline_left_out: 0,
            evidence: Vec::new(),
            actions: Vec::new(),
            episodes: Vec::new(),
            outcome: None,
            cut: Vec::new(),
        };
        let mut draft = Draft {
            record,
            kind: view.cause.kind,
            since: began,
            newest: None,
        };
        let cause = view.cause.clone();
        draft.enter(view.at, What::Opened { cause }, clock);
        draft.evidence(view, clock);
        self.open.insert(view.incident, draft);
        Step::Progress {
            incident: view.incident,
            acted: false,
        }
    }
}

impl Draft {
    fn updated(&mut self, view: &StallView, clock: Tied) {
        let before = &self.record.cause;
        let news = before.kind != view.cause.kind
            || before.syscall != view.cause.syscall
            || before.peer != view.cause.peer
            || before.file != view.cause.file
            || before.holder_pid != view.cause.holder_pid
            || state_of(before) != state_of(&view.cause);
        self.turn(view.cause.kind, view.at);
        self.record.cause = view.cause.clone();
        if news {
            let cause = view.cause.clone();
            self.enter(view.at, What::Cause { cause }, clock);
        }
        self.evidence(view, clock);
    }

    /// From `at` on the cause is of this kind.
    fn turn(&mut self, kind: CauseKind, at: Mono) {
        let lasted = at.since(self.since);
        let shares = &mut self.record.causes;
        match shares.iter_mut().find(|share| share.kind == self.kind) {
            Some(share) => share.lasted += lasted,
            None if !lasted.is_zero() => shares.push(Share {
                kind: self.kind,
                lasted,
            }),
            None => {}
        }
        self.kind = kind;
        self.since = self.since.max(at);
    }

    fn evidence(&mut self, view: &StallView, clock: Tied) {
        let Some(found) = &view.evidence else {
            return;
        };
        // The same evidence is told again with every change of the cause.
        if self.newest.as_ref() == Some(found) {
            return;
        }
        self.newest = Some(found.clone());
        let capture = Capture {
            time: clock.stamp(view.at),
            kind: view.cause.kind,
            found: Evidence::clone(found),
        };
        let Some(index) = keep(&mut self.record.evidence, capture, CAPTURES) else {
            return;
        };
        self.enter(view.at, What::Evidence { capture: index }, clock);
    }

    fn acted(&mut self, action: &ActionNotice, clock: Tied) {
        let kept = Action {
            time: clock.stamp(action.at),
            busy: action.busy,
            child: action.child,
            exe: action.child_exe.clone(),
            signal: action.signal,
            mode: action.mode,
            outcome: action.outcome.name().to_owned(),
            refused_by: action.outcome.refusal(),
            grace: action.grace,
            grace_reason: action.grace_reason,
            detail: action.detail.clone(),
        };
        if let Some(index) = keep(&mut self.record.actions, kept, ACTIONS) {
            self.enter(action.at, What::Action { action: index }, clock);
        }
    }

    fn closed(
        mut self,
        view: &StallView,
        (rescued, ended_by, liveness): (bool, EndedBy, Option<Outlook>),
        clock: Tied,
    ) -> IncidentRecord {
        self.evidence(view, clock);
        self.turn(view.cause.kind, view.at);
        self.enter(view.at, What::Closed, clock);
        let mut record = self.record;
        record
            .causes
            .sort_by(|a, b| b.lasted.cmp(&a.lasted).then(a.kind.cmp(&b.kind)));
        if !view.shares.is_empty() {
            // What was measured all the time beats what was shown at a time.
            let share = |&(kind, part): &(CauseKind, f64)| Share {
                kind,
                lasted: view.busy.mul_f64(part.clamp(0.0, 1.0)),
            };
            record.causes = view.shares.iter().map(share).collect();
        }
        record.cause = view.cause.clone();
        record.state = State::Closed;
        record.outcome = Some(End {
            time: clock.stamp(view.at),
            busy: view.busy,
            rescued,
            ended_by,
            liveness,
        });
        record
    }

    fn enter(&mut self, at: Mono, what: What, clock: Tied) {
        let entry = Entry {
            time: clock.stamp(at),
            busy: at.since(self.record.began_mono_ns),
            what,
        };
        let timeline = &mut self.record.timeline;
        if timeline.len() >= TIMELINE {
            timeline.remove(TIMELINE / 2);
            self.record.timeline_left_out += 1;
        }
        timeline.push(entry);
    }
}

/// Appends, or puts in the place of the last one where there is no room: indices of earlier ones stay right. The index, if it is new.
fn keep<T>(list: &mut Vec<T>, item: T, room: usize) -> Option<usize> {
    if list.len() < room {
        list.push(item);
        return Some(list.len() - 1);
    }
    if let Some(last) = list.last_mut() {
        *last = item;
    }
    None
}

fn state_of(cause: &super::cause::Cause) -> Option<(super::ids::Pid, &str)> {
    let child = cause.child.as_ref()?;
    Some((child.pid, &child.state))
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
