//! What is told of a forecast, and who follows one loop's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::risk::News;
use super::{Forecast, Forecaster, Level, ProbeSpec, Risk};
use crate::pipeline::Mono;
use crate::pipeline::stamp::millis::option;

/// How long until what, as of the moment of the notice or record it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outlook {
    /// Failures in a row that are certain to have been counted.
    pub failed_probes: u32,
    /// Until the kubelet decides to kill and sends SIGTERM, unless a preStop hook comes first; nothing while the loop is not away.
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
    /// How much sooner or later that may be.
    #[serde(
        rename = "uncertainty_ms",
        default,
        skip_serializing_if = "Option::is_none",
        with = "option"
    )]
    pub uncertainty: Option<Duration>,
    /// The kubelet's probes were seen, so that their phase is known.
    pub probes_seen: bool,
}

impl Outlook {
    fn of(forecast: &Forecast, spec: &ProbeSpec, now: Mono) -> Self {
        let until = |window: super::Window| window.middle().since(now);
        Self {
            failed_probes: forecast.failed,
            to_decision: forecast.decision.map(until),
            to_sigkill: forecast
                .decision
                .map(|window| window.middle().plus(spec.termination_grace).since(now)),
            uncertainty: forecast.decision.map(|window| window.half()),
            probes_seen: false,
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

/// Follows the probe of one loop and the risk that it is.
#[derive(Debug, Clone)]
pub struct Follower {
    forecaster: Forecaster,
    risk: Risk,
    /// What was last looked at, and when to look again: many loops may be at risk at once, and each is asked at every tick.
    away: Option<Mono>,
    due: Option<Mono>,
}

impl Follower {
    /// For a loop that answers probes of this kind.
    #[must_use]
    pub fn new(spec: ProbeSpec) -> Self {
        Self {
            forecaster: Forecaster::new(spec),
            risk: Risk::default(),
            away: None,
            due: None,
        }
    }

    /// The probe.
    #[must_use]
    pub fn spec(&self) -> &ProbeSpec {
        self.forecaster.spec()
    }

    /// The loop is away since then, or is not; the answer is what there is to tell of the risk.
    pub fn look(&mut self, now: Mono, away: Option<Mono>) -> Option<RiskView> {
        if self.due(away).is_none_or(|due| now < due) && (self.is_fine() || away == self.away) {
            return None;
        }
        self.forecaster.seen(now, away);
        let forecast = self.forecaster.forecast();
        self.away = away;
        let told = self.tell(forecast, now);
        self.due = self.risk.due(forecast.as_ref(), self.forecaster.spec());
        told
    }

    fn is_fine(&self) -> bool {
        self.forecaster.is_fine() && self.risk.level() == Level::None
    }

    fn tell(&mut self, forecast: Option<Forecast>, now: Mono) -> Option<RiskView> {
        let spec = self.forecaster.spec();
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

    /// The loop polls again after a stall that began at `since`; the answer is how things stood then, if there was a risk.
    pub fn back(&mut self, since: Mono, at: Mono) -> Option<Outlook> {
        self.forecaster.seen(at, Some(since));
        let outlook = self
            .forecaster
            .forecast()
            .map(|forecast| Outlook::of(&forecast, self.forecaster.spec(), at));
        self.forecaster.back(at);
        // What is left of the risk is looked at anew.
        self.away = Some(since);
        outlook
    }

    /// Nobody follows it any more; the answer is what there is to tell of that.
    pub fn over(&mut self, now: Mono) -> Option<RiskView> {
        self.tell(None, now)
    }

    /// When to look again, given since when the loop is away.
    #[must_use]
    pub fn due(&self, away: Option<Mono>) -> Option<Mono> {
        if self.is_fine() {
            away.map(|since| since.plus(self.forecaster.spec().timeout))
        } else {
            self.due
        }
    }
}
