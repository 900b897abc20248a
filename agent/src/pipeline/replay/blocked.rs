//! How long a loop would have been blocked: a range, and what it rests on.

use std::time::Duration;

use super::Incident;
use super::simulate::{Run, Strike};
use crate::pipeline::ids::Mono;
use crate::pipeline::notice::{EndedBy, Signal};
use crate::pipeline::story::EpisodeStory;

/// Assumed from signal to exit, and from exit to poll, where no kill was recorded. Measured on an idle machine: below 1 ms.
const ASSUMED: Duration = Duration::from_millis(5);
/// A child that outlives SIGKILL by this much does not show how long a kill takes.
const USUAL: Duration = Duration::from_secs(1);
/// SIGTERM.
const TERM: i32 = 15;

/// What a length rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// On this incident's own times.
    Recorded,
    /// On how long other children took to end when they were signalled.
    Measured,
    /// On an assumption about that, because nobody was signalled.
    Assumed,
}

/// A length of time, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// At least so long.
    pub at_least: Duration,
    /// At most so long; `None` if nobody can say.
    pub at_most: Option<Duration>,
    /// What it rests on.
    pub basis: Basis,
}

impl Blocked {
    /// A length that is known.
    #[must_use]
    pub const fn exactly(length: Duration) -> Self {
        Self {
            at_least: length,
            at_most: Some(length),
            basis: Basis::Recorded,
        }
    }
}

/// A span, and how often it was measured; assumed if never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// The median.
    pub span: Duration,
    /// Of how many.
    pub measured: usize,
}

impl Lag {
    fn median(mut spans: Vec<Duration>) -> Self {
        spans.sort_unstable();
        Self {
            span: spans.get(spans.len() / 2).copied().unwrap_or(ASSUMED),
            measured: spans.len(),
        }
    }

    const fn basis(&self) -> Basis {
        if self.measured > 0 {
            Basis::Measured
        } else {
            Basis::Assumed
        }
    }
}

/// How long things take after a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lags {
    /// From SIGKILL to the child's end.
    pub exit: Lag,
    /// From there to the loop's next poll.
    pub poll: Lag,
}

impl Default for Lags {
    fn default() -> Self {
        Self {
            exit: Lag::median(Vec::new()),
            poll: Lag::median(Vec::new()),
        }
    }
}

impl Lags {
    /// From the kills among the incidents.
    pub(super) fn measured(incidents: &[Incident]) -> Self {
        let (mut exits, mut polls) = (Vec::new(), Vec::new());
        for incident in incidents {
            for story in &incident.episodes {
                let Some((strike, end)) = Strike::of(story)
                    .and_then(|strike| Some((strike, strike.end?)))
                    .filter(|(strike, _)| strike.signal == Signal::Kill)
                else {
                    continue;
                };
                if end.since(strike.at) < USUAL {
                    exits.push(end.since(strike.at));
                }
                let last = incident.episodes.last() == Some(story);
                if last && incident.ended_by == EndedBy::Poll && incident.end.since(end) < USUAL {
                    polls.push(incident.end.since(end));
                }
            }
        }
        Self {
            exit: Lag::median(exits),
            poll: Lag::median(polls),
        }
    }
}

/// What one episode's other course does to the length of its stall, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effect {
    low: i128,
    /// `None`: nobody can say.
    high: Option<i128>,
    /// The loop comes back for sure, whatever ended the record.
    freed: bool,
    basis: Basis,
}

impl Default for Effect {
    fn default() -> Self {
        Self {
            low: 0,
            high: Some(0),
            freed: false,
            basis: Basis::Recorded,
        }
    }
}

impl Effect {
    /// Of two episodes of one stall.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            high: self.high.zip(other.high).map(|(a, b)| a + b),
            freed: self.freed || other.freed,
            basis: self.basis.max(other.basis),
        }
    }

    /// How much sooner at least the loop comes back.
    pub(super) fn saved_for_sure(&self) -> Duration {
        let saved = self.high.map_or(0, |high| (-high).max(0));
        Duration::from_nanos(u64::try_from(saved).unwrap_or(0))
    }

    /// The length of a stall with this effect.
    pub(super) fn applied_to(&self, old: &Blocked) -> Blocked {
        let plus = |change: i128| {
            let old = i128::try_from(old.at_least.as_nanos()).unwrap_or(i128::MAX);
            Duration::from_nanos(
                u64::try_from(old.saturating_add(change).max(0)).unwrap_or(u64::MAX),
            )
        };
        let bounded = old.at_most.is_some() || self.freed;
        Blocked {
            at_least: plus(self.low),
            at_most: self.high.filter(|_| bounded).map(plus),
            basis: self.basis,
        }
    }
}

/// What the other course of an episode does to its stall.
pub(super) fn effect(incident: &Incident, story: &EpisodeStory, run: &Run, lags: &Lags) -> Effect {
    let recorded = Strike::of(story);
    // Whether this child ends by SIGTERM: shown by the record, or open.
    let deaf = story.told.iter().any(|told| told.signal == Some(TERM))
        || recorded.is_some_and(|strike| {
            strike.signal == Signal::Kill
                && story
                    .acts
                    .iter()
                    .any(|act| act.signal == Signal::Term && act.at < strike.at)
        });
    let obeys = recorded.is_some_and(|strike| strike.signal == Signal::Term);
    let earliest = run.termed.filter(|_| !deaf).or(run.killed);
    let latest = if obeys { earliest } else { run.killed };
    match recorded {
        Some(strike) => against_ours(strike, story, earliest, latest),
        None => against_its_own(incident, story, (earliest, latest), lags),
    }
}

/// The record ends by our signal: what comes after it is unknown.
fn against_ours(
    strike: Strike,
    story: &EpisodeStory,
    earliest: Option<Mono>,
    latest: Option<Mono>,
) -> Effect {
    let end = strike.end.or(story.over).unwrap_or(strike.at);
    let change = |at: Mono| i128::from(at.0) - i128::from(strike.at.0);
    // Until our signal it was there; whether it would have ended soon after, nobody knows.
    let until_then = -nanos(end.since(strike.at));
    let low = match earliest {
        Some(at) if at <= strike.at => change(at),
        _ => until_then,
    };
    let high = latest.map(|at| match end.since(strike.at) {
        // It outlived the signal: whether an earlier one would have ended it earlier is unknown.
        lag if lag >= USUAL => change(at).max(0),
        _ => change(at),
    });
    Effect {
        low,
        high,
        freed: latest.is_some(),
        basis: Basis::Recorded,
    }
}

/// The child ended by itself, or the loop went on without its end, or the record ends first.
fn against_its_own(
    incident: &Incident,
    story: &EpisodeStory,
    (earliest, latest): (Option<Mono>, Option<Mono>),
    lags: &Lags,
) -> Effect {
    let over = story.over.unwrap_or(incident.end);
    let ended = story
        .ends
        .iter()
        .map(|end| end.at)
        .filter(|end| *end <= over)
        .max();
    // What the loop did after the child's end is in the record; where there was no end, it is to be added.
    let (until, lag, basis) = match ended {
        Some(end) => (end, lags.exit.span, lags.exit.basis()),
        None => (
            over,
            lags.exit.span + lags.poll.span,
            lags.exit.basis().max(lags.poll.basis()),
        ),
    };
    let change = |at: Option<Mono>| at.map_or(0, |at| -nanos(until.since(at.plus(lag))));
    let (low, high) = (change(earliest), change(latest));
    Effect {
        low,
        high: Some(high),
        freed: latest.is_some(),
        basis: if low == 0 { Basis::Recorded } else { basis },
    }
}

fn nanos(span: Duration) -> i128 {
    i128::try_from(span.as_nanos()).unwrap_or(i128::MAX)
}
