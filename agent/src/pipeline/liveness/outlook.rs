//! What is told of a forecast, and who follows one loop's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::risk::News;
use super::{Forecast, Forecaster, Level, ProbeSpec, Probes, Risk, Seen, deadline};
use crate::pipeline::Mono;
use crate::pipeline::stamp::millis::option;

/// How long until what, as of the moment of the notice or record it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outlook {
    /// Failures in a row that are certain to have been counted.
    pub failed_probes: u32,
    /// Until the kubelet decides to kill. SIGTERM follows at once, unless a preStop hook comes first. Where probes are not seen, nothing
    /// while the loop is not away.
    #[serde(
        rename = "to_decision_ms",
        default,
        skip_serializing_if = "Option::is_none",
        with = "option"
    )]
    pub to_decision: Option<Duration>,
    /// Until SIGKILL, if the container does not end before.
    #[serde(
        rename = "to_sigkill_ms",
        default,
        skip_serializing_if = "Option::is_none",
        with = "option"
    )]
    pub to_sigkill: Option<Duration>,
    /// How much sooner or later the decision may be.
    #[serde(
        rename = "uncertainty_ms",
        default,
        skip_serializing_if = "Option::is_none",
        with = "option"
    )]
    pub uncertainty: Option<Duration>,
    /// The same of SIGTERM: a preStop hook may take all of the grace.
    #[serde(
        rename = "sigterm_uncertainty_ms",
        default,
        skip_serializing_if = "Option::is_none",
        with = "option"
    )]
    pub sigterm_uncertainty: Option<Duration>,
    /// The same of SIGKILL: 2 s are left to a container whose hook has used up the grace, and a busy kubelet is late.
    #[serde(
        rename = "sigkill_uncertainty_ms",
        default,
        skip_serializing_if = "Option::is_none",
        with = "option"
    )]
    pub sigkill_uncertainty: Option<Duration>,
    /// The kubelet's probes were seen, so that their phase is known.
    pub probes_seen: bool,
}

impl Outlook {
    fn of(forecast: &Forecast, spec: &ProbeSpec, now: Mono) -> Self {
        let until = |window: super::Window| window.expected.since(now);
        let uncertainty = forecast.decision.map(|window| window.uncertainty());
        let before_sigterm = if spec.pre_stop {
            spec.termination_grace
        } else {
            Duration::ZERO
        };
        Self {
            failed_probes: forecast.failed,
            to_decision: forecast.decision.map(until),
            to_sigkill: forecast
                .decision
                .map(|window| window.expected.plus(spec.termination_grace).since(now)),
            uncertainty,
            sigterm_uncertainty: uncertainty.map(|span| span + before_sigterm),
            sigkill_uncertainty: uncertainty.map(|span| span + ProbeSpec::LEAST_GRACE),
            probes_seen: forecast.seen,
        }
    }
}

/// The risk at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RiskView {
    /// When.
    pub at: Mono,
    /// How much of a risk.
    pub level: Level,
    /// The level or the number of failures is another than at the last notice; if not, it only goes on.
    pub changed: bool,
    /// What is to be expected.
    pub outlook: Outlook,
}

/// A port of a loop's process.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    /// Its probes.
    pub probes: &'a Probes,
    /// Since when nobody answers there, if nobody does.
    pub away: Option<Mono>,
}

/// What a loop does, and what is known of its probes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Situation<'a> {
    /// Since when it is away, if it is and nobody answers in its place.
    pub away: Option<Mono>,
    /// The ports of its process.
    pub ports: &'a [Port<'a>],
}

impl Situation<'_> {
    /// A number that changes with every probe, and with who answers.
    fn news(&self) -> u64 {
        let ports = self.ports.iter();
        ports.fold(0, |sum, port| {
            let away = port.away.map_or(0, |away| away.0);
            sum.wrapping_mul(31)
                .wrapping_add(away)
                .wrapping_add(port.probes.news())
        })
    }

    fn seen(&self, now: Mono) -> Seen {
        let ports = self.ports.iter();
        let seen = ports.map(|port| port.probes.forecast(now, port.away));
        seen.fold(Seen::Nothing, Seen::and)
    }
}

/// Follows the probe of one loop and the risk that it is.
#[derive(Debug, Clone)]
pub struct Follower {
    /// Where the probes are not seen.
    blind: Forecaster,
    risk: Risk,
    /// What was last looked at, and when to look again: many loops may be at risk at once, and each is asked at every tick.
    looked_at: Option<(Option<Mono>, u64)>,
    due: Option<Mono>,
}

impl Follower {
    /// For a loop that answers probes of this kind.
    #[must_use]
    pub fn new(spec: ProbeSpec) -> Self {
        Self {
            blind: Forecaster::new(spec),
            risk: Risk::default(),
            looked_at: None,
            due: None,
        }
    }

    /// The probe.
    #[must_use]
    pub fn spec(&self) -> &ProbeSpec {
        self.blind.spec()
    }

    /// Looks at a loop; the answer is what there is to tell of the risk.
    pub fn look(&mut self, now: Mono, situation: Situation<'_>) -> Option<RiskView> {
        let looked_at = Some((situation.away, situation.news()));
        if self.due.is_none_or(|due| now < due) && looked_at == self.looked_at {
            return None;
        }
        self.looked_at = looked_at;
        let forecast = self.forecast(now, situation);
        let told = self.tell(forecast, now);
        self.due = self.next(forecast.as_ref(), now, situation);
        told
    }

    fn forecast(&mut self, now: Mono, situation: Situation<'_>) -> Option<Forecast> {
        let seen = situation.seen(now);
        if seen != Seen::Nothing {
            // What was made of nothing is over.
            if !self.blind.is_fine() {
                self.blind = Forecaster::new(*self.spec());
            }
            return seen.failing();
        }
        self.blind.seen(now, situation.away);
        self.blind.forecast()
    }

    /// When the risk changes or is to be told again though nothing is seen.
    fn next(
        &self,
        forecast: Option<&Forecast>,
        now: Mono,
        situation: Situation<'_>,
    ) -> Option<Mono> {
        let told = self.risk.due(forecast, self.spec());
        let ports = situation.ports.iter();
        let seen = ports
            .filter_map(|port| port.probes.changes(now, port.away))
            .min();
        let blind = situation
            .away
            .map(|since| self.spec().probed_from(since).plus(self.spec().timeout))
            .filter(|at| self.blind.is_fine() && *at > now);
        [told, seen, blind].into_iter().flatten().min()
    }

    fn tell(&mut self, forecast: Option<Forecast>, now: Mono) -> Option<RiskView> {
        let spec = self.blind.spec();
        let changed = match self.risk.update(forecast.as_ref(), spec, now) {
            News::None => return None,
            News::Change => true,
            News::GoesOn => false,
        };
        let outlook = forecast.map(|forecast| Outlook::of(&forecast, spec, now));
        Some(RiskView {
            at: now,
            level: self.risk.level(),
            changed,
            outlook: outlook.unwrap_or_default(),
        })
    }

    /// The loop polls again; `before` is how things stood until then. The answer is what was to be expected, if there was a risk.
    pub fn back(&mut self, at: Mono, before: Situation<'_>) -> Option<Outlook> {
        let forecast = self.forecast(at, before);
        self.blind.back(at);
        // What is left of the risk is looked at anew.
        self.looked_at = None;
        forecast.map(|forecast| Outlook::of(&forecast, self.spec(), at))
    }

    /// Until when the loop has to be free, so that the kubelet does not decide to kill its container. Nothing where neither a probe is
    /// seen nor the pod's spec is known: what is configured alone steers nothing.
    #[must_use]
    pub fn free_by(&self, now: Mono, situation: Situation<'_>) -> Option<Mono> {
        let spec = self.spec();
        let ports = situation.ports.iter();
        // Where others answer, what fails is what has failed or waits already.
        let seen = ports.filter_map(|port| {
            if port.away.is_some() {
                return port.probes.earliest(now, port.away);
            }
            let failing = port.probes.forecast(now, None).failing()?;
            failing.decision.map(|window| window.earliest)
        });
        let decision = seen.min().or_else(|| {
            let away = situation.away.filter(|_| spec.of_pod)?;
            self.blind.earliest(away)
        })?;
        Some(deadline::free_by(spec, decision))
    }

    /// Nobody follows it any more; the answer is what there is to tell of that.
    pub fn over(&mut self, now: Mono) -> Option<RiskView> {
        self.tell(None, now)
    }

    /// When to look again, given how the loop is.
    #[must_use]
    pub fn due(&self, now: Mono, situation: Situation<'_>) -> Option<Mono> {
        if self.looked_at == Some((situation.away, situation.news())) {
            self.due
        } else {
            Some(now)
        }
    }
}
