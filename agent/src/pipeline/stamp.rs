//! Moments of the wall clock, and spans, as records write them. Pure: who has a clock ties it to the events' clock once.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::ids::Mono;

/// A moment of the wall clock in microseconds since 1970, written as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Stamp(pub u64);

/// The wall clock, tied to the clock of the events at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tied {
    /// The moment on the events' clock …
    pub mono: Mono,
    /// … and on the wall.
    pub wall: Stamp,
}

impl Tied {
    /// When `mono` was, or will be, if the wall clock is not set meanwhile.
    #[must_use]
    pub fn stamp(self, mono: Mono) -> Stamp {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Stamp(if mono >= self.mono {
            self.wall.0.saturating_add(micros(mono.since(self.mono)))
        } else {
            self.wall.0.saturating_sub(micros(self.mono.since(mono)))
        })
    }

    /// When it was, or will be, that the wall clock showed this.
    #[must_use]
    pub fn mono(self, stamp: Stamp) -> Mono {
        let nanos = |micros: u64| micros.saturating_mul(1000);
        Mono(if stamp >= self.wall {
            self.mono.0.saturating_add(nanos(stamp.0 - self.wall.0))
        } else {
            self.mono.0.saturating_sub(nanos(self.wall.0 - stamp.0))
        })
    }
}

impl Stamp {
    /// The moment `span` earlier, at least 1970.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let (year, month, day) = date(seconds / 86_400);
        let second = seconds % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

/// A text that is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no moment in UTC: it looks like 2026-11-21T09:27:21.518433Z")]
pub struct NotAStamp;

impl FromStr for Stamp {
    type Err = NotAStamp;

    /// Reads what `Display` writes, no other form of RFC 3339.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let part = |from: usize, to: usize| -> Result<u64, NotAStamp> {
            let digits = text.get(from..to).ok_or(NotAStamp)?;
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(NotAStamp);
            }
            digits.parse().map_err(|_| NotAStamp)
        };
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(NotAStamp);
        }
        let seconds = days(year, month, day) * 86_400
            + part(11, 13)? * 3600
            + part(14, 16)? * 60
            + part(17, 19)?;
        let stamp = Self(seconds * 1_000_000 + part(20, 26)?);
        // The separators, and days or hours that do not exist.
        if stamp.to_string() == text {
            Ok(stamp)
        } else {
            Err(NotAStamp)
        }
    }
}

impl serde::Serialize for Stamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Stamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Year, month and day of a day since 1970 (Howard Hinnant's `civil_from_days`, for days from 1970 on).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The day since 1970 of a date from 1970 on: the inverse of `date`.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Spans as milliseconds with microseconds behind the point; for `#[serde(with = …)]`.
pub mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    /// To the microsecond: more digits would only look exact.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits of microseconds are 285 years"
    )]
    pub fn of(span: Duration) -> f64 {
        span.as_micros() as f64 / 1000.0
    }

    fn back<E: serde::de::Error>(millis: f64) -> Result<Duration, E> {
        // Whole microseconds again, whatever the fraction became on the way.
        Duration::try_from_secs_f64((millis * 1000.0).round() / 1e6)
            .map_err(|error| E::custom(format!("{millis} ms: {error}")))
    }

    #[expect(missing_docs, reason = "serde's interface")]
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        of(*span).serialize(serializer)
    }

    #[expect(missing_docs, reason = "serde's interface")]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        back(f64::deserialize(deserializer)?)
    }

    /// The same for a span that may be absent.
    pub mod option {
        use super::{Deserialize as _, Deserializer, Duration, Serializer, back, of};

        #[expect(missing_docs, reason = "serde's interface")]
        pub fn serialize<S: Serializer>(
            span: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match span {
                Some(span) => serializer.serialize_some(&of(*span)),
                None => serializer.serialize_none(),
            }
        }

        #[expect(missing_docs, reason = "serde's interface")]
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            Option::<f64>::deserialize(deserializer)?
                .map(back)
                .transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_reads_back_as_written() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_709_210_096_789_012, "2024-02-29T12:34:56.789012Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (4_102_444_799_999_999, "2099-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(Stamp(micros).to_string(), text);
            assert_eq!(text.parse(), Ok(Stamp(micros)));
        }
        for day in (0..60_000).step_by(17) {
            let stamp = Stamp(day * 86_400_000_000 + 7);
            assert_eq!(stamp.to_string().parse(), Ok(stamp));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2024-02-30T12:34:56.789012Z",
            "2023-02-29T12:34:56.789012Z",
            "2024-02-29 12:34:56.789012Z",
            "2024-02-29T24:34:56.789012Z",
            "2024-02-29T12:34:56.789012+01:00",
            "1969-12-31T23:59:59.000000Z",
            "2024-+2-29T12:34:56.789012Z",
            "2024-02-29T12:34:56.78901éZ",
        ] {
            assert_eq!(text.parse::<Stamp>(), Err(NotAStamp), "{text}");
        }
    }

    #[test]
    fn the_two_clocks_run_alike() {
        let tied = Tied {
            mono: Mono(5_000_000_000),
            wall: Stamp(1_709_210_096_789_012),
        };
        assert_eq!(
            tied.stamp(Mono(4_000_000_000)).to_string(),
            "2024-02-29T12:34:55.789012Z"
        );
        assert_eq!(
            tied.stamp(Mono(6_500_000_000)).to_string(),
            "2024-02-29T12:34:58.289012Z"
        );
        assert_eq!(
            tied.wall.minus(Duration::from_secs(u64::MAX)),
            Stamp::default()
        );
    }
}
