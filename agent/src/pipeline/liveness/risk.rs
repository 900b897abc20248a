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
/// A risk that is imminent is elevated again where the decision is so much further away than that.
const HOLDS: Duration = Duration::from_millis(500);

impl Risk {
    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Takes a forecast in; the answer is whether there is something to say.
    pub fn update(&mut self, forecast: Option<&Forecast>, spec: &ProbeSpec, now: Mono) -> News {
        // What is imminent stays so while the decision moves a little: it moves with every probe.
        let ahead = match self.level {
            Level::Imminent => now.plus(HOLDS),
            Level::None | Level::Elevated => now,
        };
        let level = match forecast {
            None => Level::None,
            Some(forecast) if imminent_from(forecast, spec).is_some_and(|from| from <= ahead) => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::liveness::Window;

    #[test]
    fn a_decision_that_moves_a_little_moves_no_level() {
        let spec = ProbeSpec::new(Duration::from_secs(10), Duration::from_secs(1), 3);
        let at = |ms: u64| Mono(1_000_000_000_000 + ms * 1_000_000);
        let decided = |ms| Forecast {
            failed: 1,
            decision: Some(Window::even(at(ms), at(ms + 100))),
            since: Some(at(0)),
            seen: true,
        };
        let mut risk = Risk::default();
        let mut level = |decision, now| {
            let news = risk.update(Some(&decided(decision)), &spec, at(now));
            (risk.level(), news)
        };
        let (elevated, imminent) = (Level::Elevated, Level::Imminent);
        assert_eq!(level(21_000, 10_900), (elevated, News::Change));
        assert_eq!(level(21_000, 11_000), (imminent, News::Change));
        // The next probe was a little late.
        assert_eq!(level(21_080, 11_010), (imminent, News::None));
        assert_eq!(level(21_480, 11_020), (imminent, News::None));
        // It is another probe that decides.
        assert_eq!(level(25_000, 11_030), (elevated, News::Change));
        assert_eq!(level(21_480, 11_040), (elevated, News::None));
    }
}
