//! One stall of a pod: what the kubelet did, by its log, and what the agent told meanwhile.

use serde_json::Value;

use super::plan::Probe;
use crate::kube::kubelet_log::{Event, Kind};

/// A told decision is exact within that.
pub(super) const EXACT_S: f64 = 0.3;
/// The first answered probe ends the risk within that; where another probe has the same rhythm, the next of both, within a period.
const NONE_S: f64 = 0.5;
/// The kubelet keeps its rhythm within that. Where the machine held it up for longer, nobody could tell the decision beforehand.
const RHYTHM_S: f64 = 0.2;
/// By so much each probe takes longer than its time-out; it counts where the next one begins at once.
const GIVING_UP_S: f64 = 0.05;

/// One stall of one pod.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) probe: Probe,
    /// Whether it was long enough for the kubelet to decide, if that was planned.
    decides: Option<bool>,
    pub(super) start: f64,
    pub(super) failures: Vec<f64>,
    /// The probe failed that reached the threshold.
    pub(super) decision: Option<f64>,
    /// The kubelet's worker for this pod acted on it.
    acted: Option<f64>,
    /// The first answer after the last failure.
    answered: Option<f64>,
    pub(super) told: Vec<Told>,
}

/// One line of type `risk`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    at: f64,
    level: String,
    pub(super) failed: u64,
    left: Option<f64>,
    unsure: f64,
    pub(super) seen: bool,
}

impl Stall {
    /// Takes what belongs to the time of this stall.
    pub(super) fn new(
        probe: Probe,
        (start, end): (f64, f64),
        decides: Option<bool>,
        lines: &[Value],
        events: &[Event],
    ) -> Self {
        let during = |at: f64| start <= at && at <= end;
        let of = |kind: Kind| {
            let moments = events.iter().filter(move |event| event.kind == kind);
            moments.map(|event| event.at).filter(|at| during(*at))
        };
        let acted = of(Kind::Decided).next();
        // An answer in between resets the kubelet's count: the last run of failures is the one that counts.
        let before = acted.unwrap_or(end);
        let reset = of(Kind::Answered)
            .rfind(|at| *at < before)
            .filter(|_| acted.is_some())
            .unwrap_or(start);
        let failures: Vec<f64> = of(Kind::Failed)
            .filter(|at| reset < *at && *at <= before)
            .collect();
        // After it the kubelet does not probe until the container is another one.
        let decision = acted.and(failures.last().copied());
        let told: Vec<Told> = lines
            .iter()
            .filter(|line| line["type"] == "risk")
            .filter_map(Told::read)
            .filter(|told| during(told.at))
            .collect();
        let answered = failures
            .last()
            .and_then(|last| of(Kind::Answered).find(|at| at > last));
        Self {
            probe,
            decides,
            start,
            failures,
            decision,
            acted,
            answered,
            told,
        }
    }

    /// Whether the kubelet did what the stall is about.
    pub(super) fn is_as_planned(&self) -> bool {
        self.decides
            .is_none_or(|decides| decides == self.decision.is_some())
    }

    /// How long the kubelet took to act on its decision.
    pub(super) fn lag(&self) -> Option<f64> {
        Some(self.acted? - self.decision?)
    }

    /// By how much the kubelet itself was late, from the first counted failure to its decision, if that is too much for any forecast.
    pub(super) fn held_up(&self) -> Option<f64> {
        let (first, decision) = (self.failures.first()?, self.decision?);
        let apart = f64::from(self.probe.period).max(f64::from(self.probe.timeout) + GIVING_UP_S);
        let late = decision - first - f64::from(self.probe.failures - 1) * apart;
        (late > RHYTHM_S).then_some(late)
    }

    /// How far off the told decisions are; a line that tells none is off by any measure.
    pub(super) fn offs(&self) -> Vec<Off> {
        let (Some(first), Some(decision)) = (self.failures.first(), self.decision) else {
            return Vec::new();
        };
        let between = self
            .told
            .iter()
            .filter(|told| *first < told.at && told.at < decision);
        between
            .map(|told| Off {
                by: told
                    .left
                    .map_or(f64::INFINITY, |left| told.at + left - decision),
                unsure: told.unsure,
            })
            .collect()
    }

    fn first(&self, levels: &[&str]) -> Option<f64> {
        let told = self
            .told
            .iter()
            .find(|told| levels.contains(&told.level.as_str()));
        told.map(|told| told.at)
    }

    /// How long before the first counted failure it was told that there is a risk.
    pub(super) fn warned(&self) -> Option<f64> {
        let first = self.failures.first()?;
        Some(
            self.first(&["elevated", "imminent"])
                .map_or(f64::NEG_INFINITY, |at| first - at),
        )
    }

    /// How long before the decision it was told to be imminent.
    pub(super) fn imminent(&self) -> Option<f64> {
        let decision = self.decision?;
        Some(
            self.first(&["imminent"])
                .map_or(f64::NEG_INFINITY, |at| decision - at),
        )
    }

    /// By how much that is too late.
    pub(super) fn too_late(&self) -> Option<f64> {
        let twin = if self.probe.has_twin() {
            f64::from(self.probe.period)
        } else {
            0.0
        };
        Some(self.relieved()? - NONE_S - twin)
    }

    /// How long after the first answer the risk was over; only where a probe has failed and the kubelet did not decide.
    pub(super) fn relieved(&self) -> Option<f64> {
        let answered = self.decision.is_none().then_some(self.answered)??;
        let last = self.told.iter().rev().find(|told| told.level != "none")?;
        let none = self
            .told
            .iter()
            .find(|told| told.level == "none" && told.at > last.at);
        Some(none.map_or(f64::INFINITY, |none| none.at - answered))
    }
}

/// How far off a told decision is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Off {
    /// Negative: it was told to come earlier.
    pub(super) by: f64,
    /// What the line itself says.
    unsure: f64,
}

impl Off {
    pub(super) fn is_exact(self) -> bool {
        self.by.abs() <= EXACT_S
    }

    /// Told too early by no more than it says, and never too late.
    pub(super) fn is_covered(self) -> bool {
        self.by <= EXACT_S && -self.by <= self.unsure + EXACT_S
    }
}

impl Told {
    fn read(line: &Value) -> Option<Self> {
        Some(Self {
            at: std::time::Duration::from_nanos(line["mono_ns"].as_u64()?).as_secs_f64(),
            level: line["level"].as_str()?.to_owned(),
            failed: line["failed_probes"].as_u64()?,
            left: line["seconds_to_decision"].as_f64(),
            unsure: line["uncertainty_s"].as_f64().unwrap_or(0.0),
            seen: line["probes_seen"] == true,
        })
    }
}
