//! Identifiers and time, each a type of its own: a thread id is not a process id.

use std::fmt;
use std::time::Duration;

/// A process id (thread-group id) as the agent's own procfs shows it.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Pid(pub u32);

/// A thread id as the agent's own procfs shows it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Tid(pub u32);

/// A process id as the process's own PID namespace numbers it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct NsPid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One process for good: its id and when it started, in nanoseconds since boot (`task_struct.start_boottime`).
///
/// Start times of `/proc/PID/stat` count in hundredths of a second, which is too coarse to tell a reused id.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct PidKey {
    /// Process id.
    pub pid: Pid,
    /// Start, nanoseconds since boot.
    pub start_ns: u64,
}

impl PidKey {
    /// Start times of procfs come in steps of this many nanoseconds.
    const STEP: u64 = 10_000_000;

    /// Whether two readings can be of one process: the same to the nanosecond, or to the step where one of them comes from
    /// procfs. Good enough to note an end; a signal needs equality.
    #[must_use]
    pub fn matches(self, other: PidKey) -> bool {
        let coarse =
            self.start_ns.is_multiple_of(Self::STEP) || other.start_ns.is_multiple_of(Self::STEP);
        let step = if coarse { Self::STEP } else { 1 };
        self.pid == other.pid && self.start_ns / step == other.start_ns / step
    }
}

/// One loop for good: a thread of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopId {
    /// The process.
    pub process: PidKey,
    /// The thread that polls.
    pub tid: Tid,
}

/// A moment of `CLOCK_MONOTONIC`, the clock of the kernel events.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// The time from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `span` later, at most the end of the clock.
    #[must_use]
    pub fn plus(self, span: Duration) -> Mono {
        Mono(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// Name of an incident: a ULID, so that names sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IncidentId(pub u128);

impl IncidentId {
    // Crockford's base 32: 26 characters of 5 bits hold 130, the first has only 3 of the 128.
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

    /// Made of a wall-clock time and 80 bits of noise, both given by the caller.
    #[must_use]
    pub fn new(unix_ms: u64, noise: u128) -> Self {
        Self((u128::from(unix_ms & 0xffff_ffff_ffff) << 80) | (noise & ((1 << 80) - 1)))
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..26u32).rev() {
            let digit = (self.0 >> (place * 5)) & 31;
            write!(
                f,
                "{}",
                char::from(Self::DIGITS[usize::try_from(digit).unwrap_or(0)])
            )?;
        }
        Ok(())
    }
}

/// A text that is no name of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no incident id: it has 26 characters, digits and capital letters")]
pub struct NotAnIncidentId;

impl std::str::FromStr for IncidentId {
    type Err = NotAnIncidentId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut value = 0u128;
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return Err(NotAnIncidentId);
        }
        for byte in text.bytes() {
            let digit = Self::DIGITS
                .iter()
                .position(|known| *known == byte)
                .ok_or(NotAnIncidentId)?;
            value = (value << 5) | digit as u128;
        }
        Ok(Self(value))
    }
}

impl<'de> serde::Deserialize<'de> for IncidentId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for IncidentId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incident_names_are_26_characters_and_sort_by_time() {
        let early = IncidentId::new(1_700_000_000_000, u128::MAX).to_string();
        let late = IncidentId::new(1_700_000_000_001, 0).to_string();
        assert_eq!(early.len(), 26);
        assert!(early < late, "{early} {late}");
        assert!(early.starts_with("01H"), "{early}");
        assert_eq!(
            early.parse(),
            Ok(IncidentId::new(1_700_000_000_000, u128::MAX))
        );
        for wrong in [
            "",
            "01H",
            "81H00000000000000000000000",
            "01HU0000000000000000000000",
            "01é00000000000000000000000",
        ] {
            assert!(wrong.parse::<IncidentId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reading_of_procfs_matches_to_the_hundredth_of_a_second_and_an_exact_one_exactly() {
        let key = |start_ns| PidKey {
            pid: Pid(7),
            start_ns,
        };
        assert!(key(1_234_567_891).matches(key(1_234_567_891)));
        assert!(!key(1_234_567_891).matches(key(1_234_567_892)));
        assert!(key(1_230_000_000).matches(key(1_234_567_891)));
        assert!(!key(1_240_000_000).matches(key(1_234_567_891)));
        assert!(!key(5).matches(PidKey {
            pid: Pid(8),
            start_ns: 5
        }));
    }

    #[test]
    fn time_never_goes_below_zero() {
        assert_eq!(Mono(5).since(Mono(9)), Duration::ZERO);
        assert_eq!(Mono(u64::MAX).plus(Duration::from_secs(1)), Mono(u64::MAX));
    }
}
