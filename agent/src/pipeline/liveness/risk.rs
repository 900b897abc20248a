//! From a forecast to a level, and when to look again.

use std::time::Duration;

use super::{Forecast, ProbeSpec};
use crate::pipeline::Mono;

/// How soon the container may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// No probe can have failed.
    #[default]
    None,
    /// A probe may have failed, or will if the stall lasts.
    Elevated,
    /// Little time is left before the decision.
    Imminent,
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Elevated, Self::Imminent];

    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Elevated => "elevated",
            Self::Imminent => "imminent",
        }
    }
}

/// The level, and what was last said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Risk {
    level: Level,
    failed: u32,
    said: Option<Mono>,
}

/// Whether there is something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// No.
    None,
    /// The level, or the number of failures.
    Change,
    /// There still is a risk.
    GoesOn,
}

/// While there is a risk it is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(1);

impl Risk {
    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Takes a forecast in; the answer is whether there is something to say.
    pub fn update(&mut self, forecast: Option<&Forecast>, spec: &ProbeSpec, now: Mono) -> News {
        let level = match forecast {
            None => Level::None,
            Some(forecast) if imminent_from(forecast, spec).is_some_and(|from| from <= now) => {
                Level::Imminent
            }
            Some(_) => Level::Elevated,
        };
        let failed = forecast.map_or(0, |forecast| forecast.failed);
        let due = self.said.is_none_or(|said| now.since(said) >= TOLD_EVERY);
        let news = if (level, failed) != (self.level, self.failed) {
            News::Change
        } else if level > Level::None && due {
            News::GoesOn
        } else {
            return News::None;
        };
        *self = Self {
            level,
            failed,
            said: Some(now),
        };
        news
    }

    /// When to look again, if there is a risk.
    #[must_use]
    pub fn due(&self, forecast: Option<&Forecast>, spec: &ProbeSpec) -> Option<Mono> {
        let said = self.said.filter(|_| self.level > Level::None)?;
        let next = said.plus(TOLD_EVERY);
        let rises = forecast
            .filter(|_| self.level < Level::Imminent)
            .and_then(|forecast| imminent_from(forecast, spec));
        Some(rises.map_or(next, |rises| rises.min(next)))
    }
}

/// From when on a forecast is imminent: the margin before the earliest decision, and never before half of the way there.
fn imminent_from(forecast: &Forecast, spec: &ProbeSpec) -> Option<Mono> {
    let (window, since) = forecast.decision.zip(forecast.since)?;
    let half = window.earliest.since(since) / 2;
    let margin = spec.imminent_margin.min(half);
    Some(Mono(window.earliest.0.saturating_sub(
        u64::try_from(margin.as_nanos()).unwrap_or(u64::MAX),
    )))
}
