//! Many kubelets at once, and what they have in common.

use std::time::Duration;

use super::{Kubelet, ProbeSpec, deadline};
use crate::pipeline::Mono;

/// So many phases are followed. The forecast is as coarse as the period divided by this, 40 ms at the default of 10 s.
const PHASES: u32 = 250;
/// A loop that polls for less time than this may not get to answer what waits for it: accepting, reading and answering are
/// iterations of their own. Both cases are followed.
const SHORT: Duration = Duration::from_millis(20);
/// A kubelet that has decided sends SIGTERM at once, unless a preStop hook runs. Later than this it counts as one that has not.
const TERM_WITHIN: Duration = Duration::from_secs(2);

/// Between these moments something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Not before.
    pub earliest: Mono,
    /// Not after.
    pub latest: Mono,
    /// What is told.
    pub expected: Mono,
}

impl Window {
    /// In which every moment is as likely.
    #[must_use]
    pub fn even(earliest: Mono, latest: Mono) -> Self {
        Self {
            earliest,
            latest,
            expected: earliest.plus(latest.since(earliest) / 2),
        }
    }

    /// How much sooner or later than told it may be.
    #[must_use]
    pub fn uncertainty(&self) -> Duration {
        let sooner = self.expected.since(self.earliest);
        sooner.max(self.latest.since(self.expected))
    }
}

/// What can be said at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// Failures in a row that are certain to have been counted.
    pub failed: u32,
    /// When the kubelet decides to kill if the loop does not answer; where probes are not seen, nothing while it is not away.
    pub decision: Option<Window>,
    /// Since when the loop is away, or probes go unanswered.
    pub since: Option<Mono>,
    /// The probes are seen.
    pub seen: bool,
}

/// Follows one loop's probe.
#[derive(Debug, Clone)]
pub struct Forecaster {
    spec: ProbeSpec,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// No probe can have failed.
    Fine,
    /// One may have, or will soon.
    Following {
        kubelets: Vec<Follow>,
        /// What the loop did is known until then.
        until: Mono,
        /// Since when it is away.
        away: Option<Mono>,
    },
    /// Every kubelet would have ended the container in this stall, and it lives: there is no such kubelet.
    Refuted { away: Mono },
}

#[derive(Debug, Clone, Copy)]
struct Follow {
    kubelet: Kubelet,
    /// Whether a short moment in its poll is enough for the loop to answer.
    quick: bool,
}

impl Forecaster {
    /// For a loop that answers probes of this kind.
    #[must_use]
    pub fn new(spec: ProbeSpec) -> Self {
        Self {
            spec,
            state: State::Fine,
        }
    }

    /// The probe.
    #[must_use]
    pub fn spec(&self) -> &ProbeSpec {
        &self.spec
    }

    /// The loop is away since then, or is not, as of `now`. A stall shorter than the probe's time-out costs none: what came
    /// meanwhile is answered after it.
    pub fn seen(&mut self, now: Mono, away: Option<Mono>) {
        let probed_from = |since: &Mono| self.spec.probed_from(*since);
        let long = away.filter(|since| now.since(probed_from(since)) >= self.spec.timeout);
        match (&mut self.state, long) {
            (State::Fine, Some(since)) => {
                self.state = State::Following {
                    kubelets: every_phase(&self.spec, since),
                    until: since,
                    away: Some(since),
                };
                self.pass(now);
            }
            (State::Fine, None) => {}
            (State::Refuted { away: since }, _) => {
                if long != Some(*since) {
                    self.state = State::Fine;
                    self.seen(now, away);
                }
            }
            (State::Following { away: before, .. }, _) => {
                if let (Some(before), true) = (*before, away != *before) {
                    // It came back, and nobody has said when: at the latest when it went away again.
                    let back = away.unwrap_or(now).max(before);
                    self.back(back);
                }
                let to = away.unwrap_or(now);
                if let State::Following {
                    away: None, until, ..
                } = &self.state
                    && (long.is_some() || to.since(*until) >= SHORT)
                {
                    self.pass(to);
                }
                match (&mut self.state, long) {
                    (State::Following { away, .. }, Some(since)) => {
                        *away = Some(since);
                        self.pass(now);
                    }
                    (State::Fine, Some(_)) => self.seen(now, away),
                    _ => {}
                }
            }
        }
    }

    /// The loop polls again.
    pub fn back(&mut self, at: Mono) {
        if let State::Following { away: Some(_), .. } = self.state {
            self.pass(at);
        }
        match &mut self.state {
            State::Following { away, .. } => *away = None,
            State::Refuted { .. } => self.state = State::Fine,
            State::Fine => {}
        }
    }

    /// Brings all kubelets to that moment.
    fn pass(&mut self, to: Mono) {
        let spec = self.spec;
        let State::Following {
            kubelets,
            until,
            away,
        } = &mut self.state
        else {
            return;
        };
        let from = *until;
        if to < from {
            return;
        }
        for follow in kubelets.iter_mut() {
            let kubelet = &mut follow.kubelet;
            if away.is_some() || (!follow.quick && to.since(from) < SHORT) {
                kubelet.unanswered(&spec, to);
            } else {
                kubelet.answered(&spec, from, to);
            }
        }
        // Who has decided has the container killed by then, at the latest.
        let over = spec.termination_grace + TERM_WITHIN;
        kubelets.retain(|follow| {
            let decided = follow.kubelet.decided;
            decided.is_none_or(|decided| to.since(decided) <= over)
        });
        *until = to;
        let fine = |follow: &Follow| follow.kubelet.failed == 0 && follow.kubelet.decided.is_none();
        match *away {
            Some(away) if kubelets.is_empty() => self.state = State::Refuted { away },
            None if kubelets.iter().all(fine) => self.state = State::Fine,
            _ => {}
        }
    }

    /// Whether no probe can have failed, so that only a long stall is news.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        matches!(self.state, State::Fine)
    }

    /// The earliest decision there may be if the loop, away since then, does not come back; nothing if there is no such kubelet.
    #[must_use]
    pub(super) fn earliest(&self, away: Mono) -> Option<Mono> {
        match &self.state {
            State::Fine => Some(deadline::earliest(&self.spec, away)),
            State::Following { kubelets, .. } => kubelets
                .iter()
                .map(|follow| follow.kubelet.decides(&self.spec))
                .min(),
            State::Refuted { .. } => None,
        }
    }

    /// What is to be expected, as of the moment last told.
    #[must_use]
    pub fn forecast(&self) -> Option<Forecast> {
        let State::Following {
            kubelets,
            until,
            away,
        } = &self.state
        else {
            return None;
        };
        // Who decided some time ago would have sent SIGTERM, unless all of them have.
        let silent = |follow: &&Follow| {
            let decided = follow.kubelet.decided;
            decided.is_none_or(|decided| until.since(decided) <= TERM_WITHIN)
        };
        let mut likely: Vec<&Follow> = kubelets.iter().filter(silent).collect();
        if likely.is_empty() {
            likely = kubelets.iter().collect();
        }
        let decisions = likely
            .iter()
            .map(|follow| follow.kubelet.decides(&self.spec));
        let window = decisions.clone().min().zip(decisions.max());
        // A loop that has just come back may be answering right now.
        let failed = likely.iter().map(|follow| {
            let answers = away.is_none() && follow.quick && follow.kubelet.is_probing(*until);
            if answers { 0 } else { follow.kubelet.failed }
        });
        Some(Forecast {
            failed: failed.min().unwrap_or(0),
            decision: window
                .filter(|_| away.is_some())
                .map(|(earliest, latest)| Window::even(earliest, latest)),
            since: *away,
            seen: false,
        })
    }
}

/// The phase is anything: the first probe that finds the loop away starts within one period.
fn every_phase(spec: &ProbeSpec, since: Mono) -> Vec<Follow> {
    let step = spec.period / PHASES;
    let since = spec.probed_from(since);
    let kubelets = (0..=PHASES).map(|phase| Kubelet::new(since.plus(step * phase)));
    kubelets
        .flat_map(|kubelet| [true, false].map(|quick| Follow { kubelet, quick }))
        .collect()
}
