//! One wait episode under other rules: the policy is asked at the moments it names, as the rescue thread would.

use std::collections::BTreeSet;
use std::time::Duration;

use super::facts::{Held, Timeline};
use super::world::World;
use super::{Action, Alternative, Incident, enforces};
use crate::pipeline::ids::{Mono, Pid};
use crate::pipeline::notice::Signal;
use crate::pipeline::policy::{Decision, decide};
use crate::pipeline::record::InForce;
use crate::pipeline::refusal::Refusal;
use crate::pipeline::story::{Act, Done, EpisodeStory, Look};

/// How far past the record a course is imagined, where the agent's own kill has ended it.
const BEYOND: Duration = Duration::from_hours(1);
/// Asked no more often than that in one episode.
const MOST_STEPS: usize = 20_000;
/// After a signal or a refusal at the last check, the next look is this soon.
const SOON: Duration = Duration::from_millis(50);
/// SIGKILL, in a status as wait sees it.
const KILLED: i32 = 9;

/// What came of one episode.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) actions: Vec<Action>,
    /// When SIGTERM was sent.
    pub(super) termed: Option<Mono>,
    /// When SIGKILL was sent.
    pub(super) killed: Option<Mono>,
    pub(super) notes: Vec<String>,
}

/// The signal that ended the recorded episode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    pub(super) signal: Signal,
    /// When it was decided on: a moment before it was sent, which every signal takes.
    pub(super) at: Mono,
    /// When the child ended, if that was seen.
    pub(super) end: Option<Mono>,
}

impl Strike {
    /// `None` if nothing was sent, or the child ended otherwise.
    pub(super) fn of(story: &EpisodeStory) -> Option<Self> {
        let mut sent = story.acts.iter().filter(|act| act.outcome == Done::Sent);
        let act = sent.next_back()?;
        let end = story.ends.iter().find(|end| end.pid == act.child);
        let otherwise = |status: i32| act.signal == Signal::Kill && status & 0x7f != KILLED;
        if end.is_some_and(|end| end.at < act.at || end.status.is_some_and(otherwise)) {
            return None;
        }
        let looks = story.looks.iter().flat_map(|look| [look.at, look.until]);
        let decided = looks.filter(|look| *look <= act.at).max();
        Some(Self {
            signal: act.signal,
            at: decided.unwrap_or(act.at),
            end: end.map(|end| end.at),
        })
    }
}

/// Runs one episode under other rules.
pub(super) fn simulate(
    incident: &Incident,
    story: &EpisodeStory,
    policy: &InForce,
    alternative: &dyn Alternative,
    world: &mut World,
) -> Run {
    let strike = Strike::of(story);
    let over = story.over.unwrap_or(incident.end);
    Simulation {
        line: Timeline {
            incident,
            story,
            alternative,
            our_doing: strike.map(|strike| strike.at),
        },
        policy,
        strike,
        horizon: strike.map_or(over, |_| over.plus(BEYOND)),
        late: usual_lateness(story),
        run: Run::default(),
        said: BTreeSet::new(),
    }
    .run(world)
}

struct Simulation<'a> {
    line: Timeline<'a>,
    policy: &'a InForce,
    strike: Option<Strike>,
    /// From then on the child has ended by itself, or nothing more can be said.
    horizon: Mono,
    /// How late the agent usually was.
    late: Duration,
    run: Run,
    said: BTreeSet<Refusal>,
}

impl Simulation<'_> {
    fn run(mut self, world: &mut World) -> Run {
        let story = self.line.story;
        let (Some(engine), Some(first)) = (self.policy.engine, story.looks.first()) else {
            if self.policy.engine.is_some() {
                self.note("the thread was not shown to be a loop while it waited: nothing could be decided");
            }
            return self.run;
        };
        if first.unread {
            self.note("recorded without rules about engines: states of processes are assumed");
        }
        if story.looks_left_out > 0 {
            self.note("part of what was looked at was not kept");
        }
        let rules = engine.rules();
        let mut now = first.at;
        let mut termed = None;
        let mut held = Held::default();
        for _ in 0..MOST_STEPS {
            if now >= self.horizon {
                break;
            }
            let Some((_, look)) = self.line.look_at(now) else {
                break;
            };
            let guards = world.guards(story, look, self.policy, now);
            let Some((facts, found)) = self.line.facts(now, termed, held, guards) else {
                break;
            };
            held = found;
            let next = match decide(&facts, &rules, now) {
                Decision::Leave => None,
                Decision::Later(at) => Some(self.timer(now, at)),
                Decision::Refuse {
                    child,
                    signal,
                    refusal,
                    again,
                    ..
                } => {
                    self.refused(child.unwrap_or(Pid(0)), signal, refusal, now);
                    again.and_then(|again| self.again(now, again, refusal))
                }
                Decision::Strike {
                    child,
                    signal,
                    grace_reason,
                    ..
                } => {
                    let soon = self.strike(child.pid, signal, now, world);
                    if grace_reason.is_some() {
                        self.note("the grace was cut to what the kubelet left, as far as that was known then");
                    }
                    if signal == Signal::Term && soon {
                        termed = self.run.actions.last().map(|action| action.at);
                    }
                    soon.then(|| self.timer(now, now.plus(rules.grace.min(SOON))))
                }
            };
            let next = self.unless_hurried(now, next);
            match self.unless_told(now, next) {
                Some(next) => now = next.max(Mono(now.0 + 1)),
                None => break,
            }
        }
        self.run
    }

    /// A moment the policy named: the agent is a little late. Where it was asked for the same, as late as the record shows;
    /// else as late as it usually was, and later where the record shows that it could not look before.
    fn timer(&self, now: Mono, at: Mono) -> Mono {
        let looks = self.line.story.looks.iter();
        let late = looks.flat_map(|look| [(look.asked, look.at), (look.until_asked, look.until)]);
        let mut late = late.filter(|(_, found)| *found > now);
        if let Some((_, found)) = late.clone().find(|(asked, _)| *asked == at) {
            return found;
        }
        let usual = at.plus(self.late);
        late.find(|(asked, found)| *asked < at && usual < *found)
            .map_or(usual, |(_, found)| found)
    }

    /// A child that its parent tells to end is looked at then, if it was to be looked at later.
    fn unless_told(&self, now: Mono, next: Option<Mono>) -> Option<Mono> {
        let told = self.line.story.told.iter().map(|told| told.at);
        let told = told.filter(|at| *at > now).min();
        let told = told.map(|at| self.timer(now, at));
        next.map(|next| told.map_or(next, |told| told.min(next)))
    }

    /// The news that less time is left than was thought is a look of its own.
    fn unless_hurried(&self, now: Mono, next: Option<Mono>) -> Option<Mono> {
        let (_, known) = self.line.look_at(now)?;
        let mut later = self.line.story.looks.iter().filter(|look| look.at > now);
        let sooner = later.find(|look| {
            look.free_by
                .is_some_and(|by| known.free_by.is_none_or(|known| by < known))
        });
        let at = sooner.map(|look| look.at);
        next.map(|next| at.map_or(next, |at| at.min(next)))
    }

    /// When a refusal is looked at again. How those looks fall is chance: under the recorded rules they fall as in the
    /// record, under others as if the agent had always been as late as usual.
    fn again(&mut self, now: Mono, again: Mono, refusal: Refusal) -> Option<Mono> {
        let timed = matches!(
            refusal,
            Refusal::TargetEnding | Refusal::Budget | Refusal::Paused
        );
        let looks = &self.line.story.looks;
        let past = looks.last().is_none_or(|last| now >= last.until);
        if past && !timed {
            // Nothing will heal it but what the kernel has told of: the look that comes after that is the next that matters.
            let event = self.next_event(now)?;
            let next = again.plus(self.late);
            let apart = nanos(SOON + self.late);
            let steps = nanos(event.since(next)).div_ceil(apart);
            return Some(Mono(next.0 + steps * apart));
        }
        let at = self.timer(now, again);
        if timed || self.policy.engine != self.line.story.settings.engine {
            return Some(at);
        }
        let next = looks.iter().map(|look| look.at).find(|at| *at > now);
        Some(next.filter(|next| *next < at).unwrap_or(at))
    }

    fn next_event(&self, now: Mono) -> Option<Mono> {
        let story = self.line.story;
        let told = story.told.iter().map(|told| told.at);
        let holds = story
            .holds
            .iter()
            .flat_map(|hold| [Some(hold.from), hold.until]);
        // The end of the child is the end of the wait, a moment before it: whether a look falls between is chance.
        let last = Mono(self.horizon.0.saturating_sub(nanos(SOON)));
        let ends = story
            .ends
            .iter()
            .map(|end| end.at)
            .filter(|end| *end < last);
        // Whoever is refused for another reason is refused for this one from then on, and nothing else heals before it does.
        let ending = story.ending.iter().copied();
        let all = told.chain(holds.flatten()).chain(ends).chain(ending);
        all.filter(|at| *at > now).min()
    }

    fn refused(&mut self, child: Pid, signal: Signal, refusal: Refusal, at: Mono) {
        if self.said.insert(refusal) {
            self.run.actions.push(Action {
                at,
                child,
                signal,
                outcome: Done::Refused,
                refused_by: Some(refusal),
            });
        }
    }

    /// Carries a decision out; true if the episode is to be looked at again.
    fn strike(&mut self, child: Pid, signal: Signal, at: Mono, world: &mut World) -> bool {
        let story = self.line.story;
        let mut action = Action {
            at,
            child,
            signal,
            outcome: Done::WouldSend,
            refused_by: None,
        };
        if !enforces(self.policy) {
            self.run.actions.push(action);
            return signal == Signal::Term;
        }
        let look = self.line.look_at(at).map(|(_, look)| look);
        if let Some(act) = look.and_then(|look| last_check(story, look, signal, at)) {
            if let Some(refusal) = act.refused_by {
                self.refused(child, signal, refusal, at);
            } else {
                action.outcome = act.outcome;
                self.run.actions.push(action);
            }
            return act.outcome != Done::Gone;
        }
        action.outcome = Done::Sent;
        self.run.actions.push(action);
        world.spend(story, at);
        if signal == Signal::Kill {
            world.pause(story, self.policy, at);
            self.run.killed = Some(at);
            return false;
        }
        self.run.termed = Some(at);
        // The record shows what SIGTERM does to this child.
        self.strike
            .is_none_or(|strike| strike.signal != Signal::Term)
    }

    fn note(&mut self, text: &str) {
        self.run.notes.push(text.to_owned());
    }
}

/// What the check between opening the child and signalling said at this look, if it said no: whatever the rules, it would
/// say the same.
fn last_check(story: &EpisodeStory, look: &Look, signal: Signal, at: Mono) -> Option<Act> {
    let by_check = |act: &&Act| match act.outcome {
        Done::Failed | Done::Gone => true,
        Done::Refused => matches!(
            act.refused_by,
            Some(
                Refusal::WaitOver
                    | Refusal::IdentityChanged
                    | Refusal::NotChild
                    | Refusal::AmbiguousChild
                    | Refusal::Traced
                    | Refusal::Frozen
                    | Refusal::NoPermission
            )
        ),
        _ => false,
    };
    let here = |act: &&Act| act.at >= look.at && act.at <= look.until.plus(SOON);
    let acts = story.acts.iter().filter(|act| act.signal == signal);
    acts.filter(by_check)
        .find(|act| here(act) && at <= look.until)
        .copied()
}

/// The median. The first look is made at once, and not late for anything.
fn usual_lateness(story: &EpisodeStory) -> Duration {
    let looks = story.looks.iter();
    let moments = looks.flat_map(|look| [(look.asked, look.at), (look.until_asked, look.until)]);
    let late = moments.filter(|(_, at)| Some(*at) != story.looks.first().map(|first| first.at));
    let mut late: Vec<Duration> = late.map(|(asked, at)| at.since(asked)).collect();
    late.sort_unstable();
    late.get(late.len() / 2).copied().unwrap_or_default()
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
