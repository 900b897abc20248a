//! Recorded incidents under another policy: what would have been done, and how long the loop would have been blocked.
//!
//! The decision is the agent's own: [`decide`](super::policy::decide) is asked at the moments it names itself, over facts
//! made of what was recorded (`facts`), through all incidents in order of time, because budgets and pauses span them
//! (`world`). `simulate` runs one wait episode, `blocked` says what that means for the loop. What the record cannot tell is
//! never made up: a length is a range, and says what it rests on.

mod blocked;
mod facts;
mod incident;
mod simulate;
mod totals;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use super::cause::CauseKind;
use super::ids::{Mono, Pid};
use super::notice::{EndedBy, Mode, Signal};
use super::record::InForce;
use super::refusal::Refusal;
use super::stamp::Stamp;
use super::story::{Child, Done, EpisodeStory};
pub use blocked::{Basis, Blocked, Lag, Lags};
use blocked::{Effect, effect};
use simulate::{Run, simulate};
pub use totals::Totals;
use world::World;

/// A recorded incident, as replay needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Its name: sorts by time.
    pub id: String,
    /// When it began, on the wall.
    pub began: Stamp,
    /// The loop's process.
    pub pid: Pid,
    /// The target it belonged to.
    pub target: String,
    /// Basename of the executable.
    pub exe: String,
    /// Kind of its cause.
    pub cause: CauseKind,
    /// When it began.
    pub since: Mono,
    /// When it ended.
    pub end: Mono,
    /// How it ended.
    pub ended_by: EndedBy,
    /// It began before the agent, so that its length is a lower bound.
    pub is_lower_bound: bool,
    /// The rules that were in force.
    pub settings: InForce,
    /// The wait episodes in it.
    pub episodes: Vec<EpisodeStory>,
    /// Why it cannot be replayed, if so.
    pub unreplayable: Option<String>,
}

/// The rules to try.
pub trait Alternative {
    /// The rules for the loop of an incident; `None` if it would not be watched.
    fn policy(&self, incident: &Incident, story: Option<&EpisodeStory>) -> Option<InForce>;
    /// Whether a child would be an engine; `None` if the record does not tell.
    fn engine(&self, incident: &Incident, child: &Child) -> Option<bool>;
    /// What a reader should know about how these rules were matched to an incident.
    fn remarks(&self, _: &Incident) -> Vec<String> {
        Vec::new()
    }
}

/// The rules that were in force: what the replay is checked with.
#[derive(Debug, Clone, Copy)]
pub struct AsRecorded;

impl Alternative for AsRecorded {
    fn policy(&self, incident: &Incident, story: Option<&EpisodeStory>) -> Option<InForce> {
        Some(story.map_or(incident.settings, |story| story.settings))
    }

    fn engine(&self, _: &Incident, child: &Child) -> Option<bool> {
        child.engine
    }
}

/// One action, taken or imagined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// When, on the recorded incident's clock.
    pub at: Mono,
    /// About which child; 0 where none could be named.
    pub child: Pid,
    /// Which signal.
    pub signal: Signal,
    /// What became of it.
    pub outcome: Done,
    /// Which guard refused.
    pub refused_by: Option<Refusal>,
}

/// What was, or would have been, of an incident.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// Whether it would be told of at all: long enough, or acted on.
    pub reported: bool,
    /// What was done and refused.
    pub actions: Vec<Action>,
    /// How long the loop was blocked.
    pub blocked: Blocked,
}

/// An incident, old and new side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Its number in the list given.
    pub index: usize,
    /// What was recorded.
    pub old: Side,
    /// What the other rules would have made of it; `None` if it cannot be replayed.
    pub new: Option<Side>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Whether the replay can be trusted: the recorded rules must give the recorded actions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelfCheck {
    /// Incidents whose actions came out as recorded.
    pub same: usize,
    /// Incidents checked.
    pub of: usize,
    /// Names of the others.
    pub differing: Vec<String>,
    /// The largest distance in time between an action and its replay.
    pub largest_shift: Duration,
}

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Incident for incident, in order of time.
    pub incidents: Vec<Replayed>,
    /// The replay of what was recorded, against the record.
    pub check: SelfCheck,
    /// How long a child took to end, and its loop to poll again.
    pub lags: Lags,
    /// What the record cannot tell of these rules at all.
    pub gaps: Vec<String>,
}

/// Replays incidents.
#[must_use]
pub fn replay(incidents: &[Incident], alternative: &dyn Alternative) -> Report {
    let lags = Lags::measured(incidents);
    let mut order: Vec<usize> = (0..incidents.len()).collect();
    order.sort_by(|a, b| incidents[*a].id.cmp(&incidents[*b].id));
    let mut world = World::new(incidents);
    let mut mirror = World::new(incidents);
    let mut check = SelfCheck::default();
    let mut replayed = Vec::new();
    for index in order {
        let incident = &incidents[index];
        replayed.push(one(index, incident, alternative, &mut world, &lags));
        check_one(incident, &mut mirror, &lags, &mut check);
    }
    Report {
        incidents: replayed,
        check,
        lags,
        gaps: gaps(incidents, alternative),
    }
}

/// A record has only what was a stall under the rules of its time.
fn gaps(incidents: &[Incident], alternative: &dyn Alternative) -> Vec<String> {
    let mut gaps = BTreeSet::new();
    for incident in incidents {
        let Some(tried) = alternative.policy(incident, incident.episodes.last()) else {
            continue;
        };
        let recorded = incident.settings.stall_after;
        let unseen = |what: &str| {
            format!("{what} shorter than {recorded:?}, stall_after of the record, are not in it")
        };
        if tried.stall_after < recorded {
            gaps.insert(unseen("stalls"));
        }
        if tried.engine.is_some_and(|engine| engine.grace < recorded) {
            gaps.insert(unseen(
                "waits that a grace this short could have ended, and that were",
            ));
        }
    }
    gaps.into_iter().collect()
}

fn one(
    index: usize,
    incident: &Incident,
    alternative: &dyn Alternative,
    world: &mut World,
    lags: &Lags,
) -> Replayed {
    let recorded = incident.end.since(incident.since);
    let old = Side {
        reported: true,
        actions: recorded_actions(incident),
        blocked: Blocked {
            // Whoever was gone, or not watched any longer, was blocked for at least that long.
            at_most: (!incident.is_lower_bound && incident.ended_by == EndedBy::Poll)
                .then_some(recorded),
            ..Blocked::exactly(recorded)
        },
    };
    let mut replayed = Replayed {
        index,
        old,
        new: None,
        notes: Vec::new(),
    };
    if let Some(why) = &incident.unreplayable {
        replayed.notes.push(why.clone());
        return replayed;
    }
    let policy = alternative.policy(incident, incident.episodes.last());
    let Some(policy) = policy else {
        replayed
            .notes
            .push("no target of this configuration has it: it would not be watched".into());
        replayed.new = Some(Side {
            reported: false,
            actions: Vec::new(),
            blocked: unacted(incident, &replayed.old.blocked),
        });
        return replayed;
    };
    replayed.notes.extend(alternative.remarks(incident));
    let run = all_episodes(incident, alternative, world, lags, &mut replayed.notes);
    let blocked = run.blocked(&replayed.old.blocked);
    let length = blocked.at_most.unwrap_or(Duration::MAX);
    replayed.new = Some(Side {
        reported: !run.actions.is_empty() || length >= policy.stall_after,
        actions: run.actions,
        blocked,
    });
    replayed
}

/// How long the loop would have been blocked if nobody had done anything.
fn unacted(incident: &Incident, old: &Blocked) -> Blocked {
    let sum = incident
        .episodes
        .iter()
        .fold(Effect::default(), |sum, story| {
            sum.and(effect(incident, story, &Run::default(), &Lags::default()))
        });
    sum.applied_to(old)
}

/// What the episodes of one incident come to.
#[derive(Default)]
struct Sum {
    actions: Vec<Action>,
    effect: Effect,
}

impl Sum {
    fn blocked(&self, old: &Blocked) -> Blocked {
        self.effect.applied_to(old)
    }
}

fn all_episodes(
    incident: &Incident,
    alternative: &dyn Alternative,
    world: &mut World,
    lags: &Lags,
    notes: &mut Vec<String>,
) -> Sum {
    let mut sum = Sum::default();
    world.begin(incident);
    for story in &incident.episodes {
        let Some(policy) = alternative.policy(incident, Some(story)) else {
            continue;
        };
        let run = simulate(incident, story, &policy, alternative, world);
        for note in &run.notes {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        let effect = effect(incident, story, &run, lags);
        world.shift(effect.saved_for_sure());
        sum.effect = sum.effect.and(effect);
        sum.actions.extend(run.actions);
    }
    sum
}

fn recorded_actions(incident: &Incident) -> Vec<Action> {
    let acts = incident.episodes.iter().flat_map(|story| &story.acts);
    acts.map(|act| Action {
        at: act.at,
        child: act.child,
        signal: act.signal,
        outcome: act.outcome,
        refused_by: act.refused_by,
    })
    .collect()
}

fn check_one(incident: &Incident, mirror: &mut World, lags: &Lags, check: &mut SelfCheck) {
    let whole = |story: &EpisodeStory| !story.reloaded && story.looks_left_out == 0;
    let replayable = incident.unreplayable.is_none() && incident.episodes.iter().all(whole);
    if !replayable || incident.episodes.is_empty() {
        return;
    }
    let mut again = all_episodes(incident, &AsRecorded, mirror, lags, &mut Vec::new()).actions;
    let mut recorded = recorded_actions(incident);
    // What became of a signal later is no decision.
    recorded.retain(|action| action.outcome != Done::Ineffective);
    again.retain(|action| !is_chance(incident, action));
    recorded.retain(|action| !is_chance(incident, action));
    check.of += 1;
    let alike = |(a, b): (&Action, &Action)| {
        (a.child, a.signal, a.outcome, a.refused_by) == (b.child, b.signal, b.outcome, b.refused_by)
    };
    if again.len() == recorded.len() && again.iter().zip(&recorded).all(alike) {
        check.same += 1;
        for (a, b) in again.iter().zip(&recorded) {
            let shift = a.at.since(b.at).max(b.at.since(a.at));
            check.largest_shift = check.largest_shift.max(shift);
        }
    } else {
        check.differing.push(incident.id.clone());
    }
}

/// Whether a look fell between the end of a child and that of the wait for it, and so had nobody to act on: the two are so close
/// together that nothing follows from whether one did.
fn is_chance(incident: &Incident, action: &Action) -> bool {
    let mut ends = incident.episodes.iter().flat_map(|story| &story.ends);
    action.refused_by == Some(Refusal::NotChild) && ends.any(|end| end.at <= action.at)
}

/// Whether these rules send signals.
const fn enforces(policy: &InForce) -> bool {
    matches!(policy.mode, Mode::Enforce)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
mod model;

#[cfg(test)]
mod property;
