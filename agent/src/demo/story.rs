//! What has happened to one of the two servers so far, and the figures that follow from it. Pure: times are arguments.
//!
//! It must never do I/O or read a clock. The show feeds it what the probers, the servers and the guard report; the picture
//! and the report are made from it alone.

use std::time::Duration;

use super::happening::{GuardNote, Happening, Outcome, Side};
use crate::pipeline::Mono;

/// A liveliness request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// When it was sent.
    pub(super) sent: Mono,
    /// When and how it ended, once it has.
    pub(super) end: Option<(Mono, Outcome)>,
}

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Its loop runs.
    Answering,
    /// Its loop waits for that engine.
    Frozen {
        /// Its process id.
        engine: u32,
    },
    /// There is no process.
    Down,
}

/// The story of one server.
#[derive(Debug, Clone)]
pub(super) struct Story {
    pub(super) side: Side,
    pub(super) pid: u32,
    pub(super) port: u16,
    pub(super) requests: Vec<Request>,
    /// All but the requests, in order of arrival.
    pub(super) happenings: Vec<(Mono, Happening)>,
    /// How it is, and since when: from the first change on.
    changes: Vec<(Mono, Condition)>,
}

impl Story {
    /// The story of a server that has just begun to listen.
    pub(super) fn new(side: Side, pid: u32, port: u16) -> Self {
        let (requests, happenings, changes) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            side,
            pid,
            port,
            requests,
            happenings,
            changes,
        }
    }

    /// Goes on with what happened at `at`.
    pub(super) fn tell(&mut self, at: Mono, what: Happening) {
        let condition = match what {
            Happening::Sent => {
                self.requests.push(Request {
                    sent: at,
                    end: None,
                });
                return;
            }
            Happening::Ended(number, outcome) => {
                if let Some(request) = self.requests.get_mut(number) {
                    request.end = Some((at, outcome));
                }
                return;
            }
            Happening::Frozen { engine } => Some(Condition::Frozen { engine }),
            Happening::Thawed => Some(Condition::Answering),
            Happening::Gone => Some(Condition::Down),
            Happening::Restarted { pid } => {
                self.pid = pid;
                Some(Condition::Answering)
            }
            Happening::Probed(_)
            | Happening::Terminated
            | Happening::Killed
            | Happening::Guard(_) => None,
        };
        self.changes
            .extend(condition.map(|condition| (at, condition)));
        self.happenings.push((at, what));
    }

    /// How it is, as far as is known.
    pub(super) fn condition(&self) -> Condition {
        self.changes
            .last()
            .map_or(Condition::Answering, |change| change.1)
    }

    /// How it has been since its first change: from when to when; the last until `now`.
    pub(super) fn phases(&self, now: Mono) -> impl Iterator<Item = (Mono, Mono, Condition)> {
        let ends = self
            .changes
            .iter()
            .skip(1)
            .map(|change| change.0)
            .chain([now]);
        self.changes
            .iter()
            .zip(ends)
            .map(|(&(from, condition), to)| (from, to, condition))
    }

    /// How long the freeze has lasted that goes on at `now`.
    pub(super) fn blocked_now(&self, now: Mono) -> Duration {
        match self.changes.last() {
            Some((since, Condition::Frozen { .. })) => now.since(*since),
            _ => Duration::ZERO,
        }
    }

    /// How long its loops have been frozen in all, up to `now`.
    fn blocked(&self, now: Mono) -> Duration {
        let frozen = |(from, to, condition): (Mono, Mono, Condition)| {
            matches!(condition, Condition::Frozen { .. }).then(|| to.since(from))
        };
        self.phases(now).filter_map(frozen).sum()
    }

    /// When the last happening was that `wanted` accepts.
    pub(super) fn last(&self, wanted: impl Fn(&Happening) -> bool) -> Option<Mono> {
        self.happenings
            .iter()
            .rev()
            .find(|(_, what)| wanted(what))
            .map(|&(at, _)| at)
    }

    /// The guard's last note that `wanted` makes something of.
    pub(super) fn guard_note<T>(&self, wanted: impl Fn(&GuardNote) -> Option<T>) -> Option<T> {
        self.happenings
            .iter()
            .rev()
            .find_map(|(_, what)| match what {
                Happening::Guard(note) => wanted(note),
                _ => None,
            })
    }

    /// Whether the kubelet ended it.
    pub(super) fn killed(&self) -> bool {
        self.last(|what| matches!(what, Happening::Terminated | Happening::Killed))
            .is_some()
    }

    /// The figures of the incident report, as they stand at `now`.
    pub(super) fn figures(&self, now: Mono) -> Figures {
        let longest = self
            .requests
            .iter()
            .map(|request| request.end.map_or(now, |end| end.0).since(request.sent))
            .max();
        let answered = self
            .requests
            .iter()
            .filter(|request| matches!(request.end, Some((_, Outcome::Answered))));
        Figures {
            max_liveliness_ms: tenths(longest.unwrap_or_default().as_secs_f64() * 1000.0),
            ok_percent: percent(answered.count(), self.requests.len()),
            blocked_ms: tenths(self.blocked(now).as_secs_f64() * 1000.0),
            kubelet_killed: self.killed(),
            requests: self.requests.len(),
        }
    }
}

/// The figures of the incident report for one server.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Figures {
    /// The longest that a liveliness request waited for its answer, or in vain.
    pub(super) max_liveliness_ms: f64,
    /// Share of the liveliness requests that were answered.
    pub(super) ok_percent: f64,
    /// How long the loop was blocked on its engine.
    pub(super) blocked_ms: f64,
    /// Whether the kubelet ended it.
    pub(super) kubelet_killed: bool,
    /// How many liveliness requests there were.
    pub(super) requests: usize,
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Rounded down, so that 100 means all.
#[expect(
    clippy::cast_precision_loss,
    reason = "a demo sends some hundred requests"
)]
fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        (part as f64 * 1000.0 / whole as f64).floor() / 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    #[test]
    fn figures_follow_from_what_happened() {
        let mut story = Story::new(Side::Unprotected, 1, 80);
        for (number, (sent, ended, outcome)) in [
            (0, 2, Outcome::Answered),
            (100, 900, Outcome::NoAnswer),
            (950, 950, Outcome::Refused),
            (1000, 1007, Outcome::Answered),
        ]
        .into_iter()
        .enumerate()
        {
            story.tell(ms(sent), Happening::Sent);
            story.tell(ms(ended), Happening::Ended(number, outcome));
        }
        story.tell(ms(50), Happening::Frozen { engine: 9 });
        let lasting = story.blocked(ms(60));
        assert_eq!(
            lasting,
            Duration::from_millis(10),
            "a freeze counts while it lasts"
        );
        assert!(!story.figures(ms(60)).kubelet_killed);
        story.tell(ms(400), Happening::Terminated);
        story.tell(ms(900), Happening::Killed);
        story.tell(ms(901), Happening::Gone);
        story.tell(ms(960), Happening::Restarted { pid: 2 });
        let figures = story.figures(ms(2000));
        let expected = Figures {
            max_liveliness_ms: 800.0,
            ok_percent: 50.0,
            blocked_ms: 851.0,
            kubelet_killed: true,
            requests: 4,
        };
        assert_eq!(figures, expected);
        assert_eq!(story.pid, 2);
    }

    #[test]
    fn a_request_without_an_end_counts_against_the_server() {
        let mut story = Story::new(Side::Protected, 1, 80);
        story.tell(ms(0), Happening::Sent);
        let figures = story.figures(ms(3000));
        assert_eq!(
            (figures.max_liveliness_ms, figures.ok_percent),
            (3000.0, 0.0)
        );
    }

    #[test]
    fn all_but_one_is_not_a_hundred_percent() {
        assert!(percent(9999, 10_000) < 100.0);
        assert!(percent(10_000, 10_000) >= 100.0);
        assert!(percent(0, 0) <= 0.0);
    }
}
