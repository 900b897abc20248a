//! What the agent told of each stall beside what the kubelet did.

use std::fmt::Write as _;

use serde_json::Value;

use super::plan::Probe;
use crate::kube::kubelet_log::{Event, Kind};
use crate::litellm::criteria::Check;

/// From the first counted failure on, the decision is told as exactly as that, in this share of the lines.
const EXACT_S: f64 = 0.3;
const SHARE: f64 = 0.95;
/// The first answered probe ends the risk within that; where another probe has the same rhythm, the next of both, within a period.
const NONE_S: f64 = 0.5;

/// One stall of one pod.
#[derive(Debug)]
pub(super) struct Stall {
    probe: Probe,
    /// Whether it was long enough for the kubelet to decide, if that was planned.
    decides: Option<bool>,
    start: f64,
    failures: Vec<f64>,
    decision: Option<f64>,
    /// The first answer after the last failure.
    answered: Option<f64>,
    told: Vec<Told>,
}

/// One line of type `risk`.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    at: f64,
    level: String,
    failed: u64,
    left: Option<f64>,
    unsure: f64,
    seen: bool,
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
        let decision = of(Kind::Decided).next();
        // An answer in between resets the kubelet's count: the last run of failures is the one that counts.
        let before = decision.unwrap_or(end);
        let reset = of(Kind::Answered)
            .rfind(|at| *at < before)
            .filter(|_| decision.is_some())
            .unwrap_or(start);
        let failures: Vec<f64> = of(Kind::Failed)
            .filter(|at| reset < *at && *at <= before)
            .collect();
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
            answered,
            told,
        }
    }

    /// Whether the kubelet did what the stall is about.
    fn is_as_planned(&self) -> bool {
        self.decides
            .is_none_or(|decides| decides == self.decision.is_some())
    }

    /// How far off the told decisions are; a line that tells none is off by any measure.
    fn offs(&self) -> Vec<Off> {
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
    fn warned(&self) -> Option<f64> {
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
    fn too_late(&self) -> Option<f64> {
        let twin = if self.probe.has_twin() {
            f64::from(self.probe.period)
        } else {
            0.0
        };
        Some(self.relieved()? - NONE_S - twin)
    }

    /// How long after the first answer the risk was over; only where a probe has failed and the kubelet did not decide.
    fn relieved(&self) -> Option<f64> {
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
struct Off {
    /// Negative: it was told to come earlier.
    by: f64,
    /// What the line itself says.
    unsure: f64,
}

impl Off {
    fn is_exact(self) -> bool {
        self.by.abs() <= EXACT_S
    }

    /// Told too early by no more than it says, and never too late.
    fn is_covered(self) -> bool {
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

/// All criteria, of which there have to be so many stalls that the kubelet ended.
pub(super) fn of(name: &str, stalls: &[Stall], least: usize) -> Vec<Check> {
    let planned = stalls.iter().filter(|stall| stall.is_as_planned()).count();
    let decided = stalls
        .iter()
        .filter(|stall| stall.decision.is_some())
        .count();
    let mut checks = vec![
        Check::new(
            planned == stalls.len() && decided >= least,
            format!(
                "{decided} stalls that the kubelet ended (at least {least}), {} that it did not; {planned} of all as planned",
                stalls.len() - decided
            ),
        ),
        all(
            stalls,
            Stall::warned,
            |lead| lead > 0.0,
            "elevated before the first counted failure",
        ),
        all(
            stalls,
            Stall::imminent,
            |lead| lead > 0.0,
            "imminent before the decision",
        ),
    ];
    if stalls.iter().any(|stall| stall.too_late().is_some()) {
        checks.push(all(
            stalls,
            Stall::too_late,
            |late| late <= 0.0,
            "none again at the first answer, or within a period where another probe has the same rhythm",
        ));
    }
    let blind = stalls
        .iter()
        .filter(|stall| stall.told.iter().any(|told| told.failed > 0 && !told.seen))
        .count();
    checks.extend(of_offs(stalls));
    checks.push(Check::new(
        blind == 0,
        format!("{blind} stalls in which failures were told without having seen the probes (0)"),
    ));
    for check in &mut checks {
        check.text = format!("{name}: {}", check.text);
    }
    checks
}

/// Where another probe has the same rhythm nobody can tell which of the two decides: that has to be in the told uncertainty.
fn of_offs(stalls: &[Stall]) -> Vec<Check> {
    let of = |twin: bool| -> Vec<Off> {
        let some = stalls.iter().filter(|stall| stall.probe.has_twin() == twin);
        some.flat_map(Stall::offs).collect()
    };
    let (single, twin) = (of(false), of(true));
    let exact = single.iter().filter(|off| off.is_exact()).count();
    let covered = twin.iter().filter(|off| off.is_covered()).count();
    let share = ratio(exact, single.len());
    let mut checks = vec![Check::new(
        share >= SHARE,
        format!(
            "from the first counted failure on {:.1} % of {} told decisions are within {EXACT_S} s of the kubelet's (at least {:.0}): {}",
            share * 100.0,
            single.len(),
            SHARE * 100.0,
            spread(&single),
        ),
    )];
    if !twin.is_empty() {
        checks.push(Check::new(
            covered == twin.len(),
            format!(
                "where a readiness probe has the same rhythm, {covered} of {} told decisions cover the kubelet's: {}",
                twin.len(),
                spread(&twin)
            ),
        ));
    }
    checks
}

fn spread(offs: &[Off]) -> String {
    let mut by: Vec<f64> = offs.iter().map(|off| off.by).collect();
    by.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let at = |percent: usize| {
        let place = by.len().saturating_sub(1) * percent / 100;
        by.get(place).copied().unwrap_or(f64::NAN)
    };
    format!(
        "median {:+.3}, 95th percentile {:+.3}, worst {:+.3} s",
        at(50),
        at(95),
        at(100)
    )
}

/// A figure of each stall that has one, all of which have to be good.
fn all(
    stalls: &[Stall],
    figure: impl Fn(&Stall) -> Option<f64>,
    is_good: impl Fn(f64) -> bool,
    what: &str,
) -> Check {
    let figures: Vec<f64> = stalls.iter().filter_map(figure).collect();
    let good = figures.iter().filter(|figure| is_good(**figure)).count();
    Check::new(
        !figures.is_empty() && good == figures.len(),
        format!("{what}: in {good} of {} stalls", figures.len()),
    )
}

/// One line for each stall.
pub(super) fn table(stalls: &[Stall]) -> String {
    let mut text = format!(
        "{:<24} {:>5} {:>9} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9}\n",
        "probe",
        "fails",
        "first s",
        "decision",
        "lines",
        "worst off",
        "elevated",
        "imminent",
        "none"
    );
    for stall in stalls {
        let after = |at: Option<&f64>| shown(at.map(|at| at - stall.start));
        let offs = stall.offs();
        let worst = offs
            .iter()
            .map(|off| off.by)
            .max_by(|a, b| a.abs().total_cmp(&b.abs()));
        let _ = writeln!(
            text,
            "{:<24} {:>5} {:>9} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9}",
            stall.probe.shown(),
            stall.failures.len(),
            after(stall.failures.first()),
            after(stall.decision.as_ref()),
            offs.len(),
            worst.map_or_else(String::new, |worst| format!("{worst:+.3}")),
            shown(stall.warned()),
            shown(stall.imminent()),
            shown(stall.relieved()),
        );
    }
    text + "elevated, imminent: seconds before the first failure, the decision; none: after the first answer\n"
}

fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(String::new, |figure| format!("{figure:.2}"))
}

#[expect(clippy::cast_precision_loss, reason = "some hundreds of lines")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}
