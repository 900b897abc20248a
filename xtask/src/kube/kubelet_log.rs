//! What the kubelet itself logs of its probes: the truth that a forecast is held against.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::litellm::kubelet::monotonic_ns;

const DAY_S: f64 = 86_400.0;

/// What happened to a container's liveness probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Answered,
    Failed,
    /// The container is to be killed.
    Decided,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Event {
    /// Seconds of `CLOCK_MONOTONIC`, as in the agent's lines.
    pub(crate) at: f64,
    pub(crate) kind: Kind,
}

/// All of one pod, in their order.
pub(crate) fn of_pod(log: &Path, namespace: &str, name: &str) -> Result<Vec<Event>> {
    let bytes = std::fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let now = Now::read()?;
    let text = String::from_utf8_lossy(&bytes);
    let pod = format!("pod=\"{namespace}/{name}\"");
    let mut events: Vec<Event> = text
        .lines()
        .filter(|line| line.contains(&pod))
        .filter_map(|line| {
            Some(Event {
                kind: kind(line)?,
                at: now.monotonic(second_of_day(line)?),
            })
        })
        .collect();
    events.sort_by(|a, b| a.at.total_cmp(&b.at));
    Ok(events)
}

/// The same moment on two clocks.
#[derive(Debug, Clone, Copy)]
struct Now {
    monotonic: f64,
    second_of_day: f64,
}

impl Now {
    fn read() -> Result<Self> {
        let wall = clock_gettime(ClockId::Realtime);
        let second = u32::try_from(wall.tv_sec.rem_euclid(86_400))?;
        let part = u32::try_from(wall.tv_nsec)?;
        Ok(Self {
            monotonic: std::time::Duration::from_nanos(monotonic_ns()?).as_secs_f64(),
            second_of_day: f64::from(second) + f64::from(part) / 1e9,
        })
    }

    /// Of a moment within the last day.
    fn monotonic(self, second_of_day: f64) -> f64 {
        self.monotonic - (self.second_of_day - second_of_day).rem_euclid(DAY_S)
    }
}

fn kind(line: &str) -> Option<Kind> {
    let is_liveness = line.contains(r#"probeType="Liveness""#);
    if line.contains(r#""Message for Container of pod""#)
        && line.contains("failed liveness probe, will be restarted")
    {
        Some(Kind::Decided)
    } else if is_liveness && line.contains(r#""Probe failed""#) {
        Some(Kind::Failed)
    } else if is_liveness && line.contains(r#""Probe succeeded""#) {
        Some(Kind::Answered)
    } else {
        None
    }
}

/// `I1122 13:45:06.123456 …`, in UTC.
fn second_of_day(line: &str) -> Option<f64> {
    let mut parts = line.split_whitespace().nth(1)?.split(':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_and_when() {
        let line = r#"I1122 13:45:06.250000   99 prober.go:120] "Probe failed" probeType="Liveness" podUID="u""#;
        assert_eq!(kind(line), Some(Kind::Failed));
        assert_eq!(second_of_day(line), Some(49_506.25));
        assert_eq!(kind(&line.replace("Liveness", "Readiness")), None);
        let decided = r#""Message for Container of pod" containerStatusID="x" containerMessage="Container main failed liveness probe, will be restarted""#;
        assert_eq!(kind(decided), Some(Kind::Decided));
        assert_eq!(second_of_day("garbage"), None);
    }

    #[test]
    fn midnight_is_no_gap() {
        let now = Now {
            monotonic: 1000.0,
            second_of_day: 10.0,
        };
        assert!((now.monotonic(8.0) - 998.0).abs() < 1e-9);
        assert!((now.monotonic(86_390.0) - 980.0).abs() < 1e-9);
    }
}
