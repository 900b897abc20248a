//! The wall clock of the lines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::pipeline::Mono;
use crate::pipeline::stamp::{Stamp, Tied};

/// The wall clock, tied to the clock of the events.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    mono: Mono,
    wall: Duration,
}

impl WallClock {
    /// Ties the two clocks together at one moment; do it again now and then, because the wall clock can be set.
    #[must_use]
    pub fn tie(mono: Mono, wall: SystemTime) -> Self {
        Self {
            mono,
            wall: wall.duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// The same as the records of incidents take it.
    #[must_use]
    pub fn tied(self) -> Tied {
        Tied {
            mono: self.mono,
            wall: Stamp(u64::try_from(self.wall.as_micros()).unwrap_or(u64::MAX)),
        }
    }

    /// RFC 3339 with microseconds, UTC.
    #[must_use]
    pub fn rfc3339(self, mono: Mono) -> String {
        self.tied().stamp(mono).to_string()
    }

    /// Time of day with milliseconds, UTC, for people.
    #[must_use]
    pub fn time_of_day(self, mono: Mono) -> String {
        self.rfc3339(mono)[11..23].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339() {
        let clock = WallClock {
            mono: Mono(5_000_000_000),
            wall: Duration::from_micros(1_709_210_096_789_012),
        };
        assert_eq!(
            clock.rfc3339(Mono(5_000_000_000)),
            "2024-02-29T12:34:56.789012Z"
        );
        assert_eq!(
            clock.rfc3339(Mono(4_000_000_000)),
            "2024-02-29T12:34:55.789012Z"
        );
        assert_eq!(clock.time_of_day(Mono(5_000_000_000)), "12:34:56.789");
    }
}
