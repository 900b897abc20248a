//! Spans of time as people write them: `100ms`, `10s`, `1m30s`, `1.5s`.
//!
//! Shared by the configuration file and the command line, so that both take the same words. Pure text to value; what
//! range makes sense is for the key or the option to say.

use std::fmt;
use std::time::Duration;

/// The units, longest first, with their length in nanoseconds.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Digits after the point: more would be finer than a nanosecond of any unit that is worth a point.
const MAX_FRACTION_DIGITS: usize = 9;

/// Why a text is no span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DurationError {
    /// Nothing was given.
    Empty,
    /// A number without a unit: seconds and milliseconds are never guessed.
    NoUnit(String),
    /// A unit that is none.
    UnknownUnit(String),
    /// A part that does not begin with a number such as `10` or `1.5`.
    NoNumber(String),
    /// Longer than 500 years.
    TooLong,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "nothing given")?,
            Self::NoUnit(number) => write!(f, "{number} has no unit")?,
            Self::UnknownUnit(unit) => write!(f, "{unit:?} is no unit")?,
            Self::NoNumber(part) => write!(f, "{part:?} does not begin with a number")?,
            Self::TooLong => write!(f, "too long")?,
        }
        write!(
            f,
            " (write a number and d, h, m, s, ms, us or ns: 500ms, 10s, 1m30s)"
        )
    }
}

impl std::error::Error for DurationError {}

/// Reads a span of time. Several parts add up (`1m30s`), each with its unit; `0s` is fine.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(
            rest.find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len()),
        );
        let (unit, after) = after.split_at(
            after
                .find(|c: char| !c.is_alphabetic())
                .unwrap_or(after.len()),
        );
        if number.is_empty() {
            return Err(DurationError::NoNumber(shorten(rest)));
        }
        if unit.is_empty() {
            return Err(DurationError::NoUnit(shorten(number)));
        }
        let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(DurationError::UnknownUnit(shorten(unit)));
        };
        total = total
            .checked_add(part(number, *nanos)?)
            .ok_or(DurationError::TooLong)?;
        rest = after;
    }
    Ok(Duration::from_nanos(total))
}

/// One number in nanoseconds, in whole-number arithmetic: a float would turn 0.1s into something that prints otherwise.
fn part(number: &str, unit_nanos: u64) -> Result<u64, DurationError> {
    let bad = || DurationError::NoNumber(shorten(number));
    let (whole, fraction) = number
        .split_once('.')
        .map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    if whole.is_empty()
        || fraction
            .is_some_and(|f| f.is_empty() || f.len() > MAX_FRACTION_DIGITS || f.contains('.'))
    {
        return Err(bad());
    }
    let whole: u64 = whole.parse().map_err(|_| DurationError::TooLong)?;
    let mut nanos = whole
        .checked_mul(unit_nanos)
        .ok_or(DurationError::TooLong)?;
    if let Some(fraction) = fraction {
        let digits = u32::try_from(fraction.len()).map_err(|_| bad())?;
        let value: u128 = fraction.parse().map_err(|_| bad())?;
        let share = value * u128::from(unit_nanos) / 10u128.pow(digits);
        nanos = nanos
            .checked_add(u64::try_from(share).map_err(|_| bad())?)
            .ok_or(DurationError::TooLong)?;
    }
    Ok(nanos)
}

/// Writes a span in the longest unit that holds it exactly; `parse` reads it back to the same value.
#[must_use]
pub fn format(span: Duration) -> String {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0s".to_owned();
    }
    // Days are read but not written: "1d" beside "23h" is harder to compare than "24h".
    let unit = UNITS[1..]
        .iter()
        .find(|(_, length)| nanos.is_multiple_of(*length));
    unit.map_or_else(
        || format!("{nanos}ns"),
        |(name, length)| format!("{}{name}", nanos / length),
    )
}

/// Keeps a message short whatever was typed.
fn shorten(text: &str) -> String {
    text.chars().take(24).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, nanos) in [
            ("0s", 0),
            ("100ms", 100_000_000),
            ("10s", 10_000_000_000),
            ("10m", 600_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0.1s", 100_000_000),
            (" 2h ", 7_200_000_000_000),
            ("1d", 86_400_000_000_000),
            ("20us", 20_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, error) in [
            ("", DurationError::Empty),
            ("  ", DurationError::Empty),
            ("10", DurationError::NoUnit("10".into())),
            ("0", DurationError::NoUnit("0".into())),
            ("1m30", DurationError::NoUnit("30".into())),
            ("5 parsecs", DurationError::NoUnit("5".into())),
            ("5parsecs", DurationError::UnknownUnit("parsecs".into())),
            ("5S", DurationError::UnknownUnit("S".into())),
            ("never", DurationError::NoNumber("never".into())),
            ("-1s", DurationError::NoNumber("-1s".into())),
            ("1..5s", DurationError::NoNumber("1..5".into())),
            ("1.s", DurationError::NoNumber("1.".into())),
            (".5s", DurationError::NoNumber(".5".into())),
            ("99999999999999999999s", DurationError::TooLong),
            ("1000000d", DurationError::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_message_tells_what_is_allowed() {
        assert_eq!(
            parse("10").unwrap_err().to_string(),
            "10 has no unit (write a number and d, h, m, s, ms, us or ns: 500ms, 10s, 1m30s)"
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0u64..) {
            let span = Duration::from_nanos(nanos);
            proptest::prop_assert_eq!(parse(&format(span)), Ok(span));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
