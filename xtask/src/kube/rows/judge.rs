//! What the agent told of stalls, held against what the kubelet did.

use std::fmt::Write as _;

use super::stall::{EXACT_S, Off, Stall};
use crate::litellm::criteria::Check;

/// From the first counted failure on, the decision is told exactly in this share of the lines.
const SHARE: f64 = 0.95;
/// Of so many decided stalls one may be left out because the machine held up the kubelet.
const HELD_UP: usize = 4;

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
    let held_up: Vec<f64> = stalls.iter().filter_map(Stall::held_up).collect();
    let decided = stalls.iter().filter(|stall| stall.decision.is_some());
    let allowed = decided.count() / HELD_UP;
    let of = |twin: bool| -> Vec<Off> {
        let kept = stalls.iter().filter(|stall| stall.held_up().is_none());
        let some = kept.filter(|stall| stall.probe.has_twin() == twin);
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
    if !held_up.is_empty() {
        checks.push(Check::new(
            held_up.len() <= allowed,
            format!(
                "{} stalls left out of that, in which the kubelet came off its own rhythm after the first failure, by {held_up:.2?} s (at most {allowed})",
                held_up.len()
            ),
        ));
    }
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
        "{:<24} {:>5} {:>9} {:>9} {:>7} {:>6} {:>9} {:>9} {:>9} {:>9}\n",
        "probe",
        "fails",
        "first s",
        "decision",
        "acts",
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
            "{:<24} {:>5} {:>9} {:>9} {:>7} {:>6} {:>9} {:>9} {:>9} {:>9}",
            stall.probe.shown(),
            stall.failures.len(),
            after(stall.failures.first()),
            after(stall.decision.as_ref()),
            stall
                .lag()
                .map_or_else(String::new, |lag| format!("{lag:+.3}")),
            offs.len(),
            worst.map_or_else(String::new, |worst| format!("{worst:+.3}")),
            shown(stall.warned()),
            shown(stall.imminent()),
            shown(stall.relieved()),
        );
    }
    text + "acts: seconds after the decision; elevated, imminent: seconds before the first failure, the decision; none: after the first answer\n"
}

fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(String::new, |figure| format!("{figure:.2}"))
}

#[expect(clippy::cast_precision_loss, reason = "some hundreds of lines")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube::kubelet_log::{Event, Kind};
    use crate::kube::rows::plan::{self, Beside};

    /// Probes of 5/2/4 at 12, 17, 22 and 27 s of a stall that begins at 10 s, and what is told of them.
    #[derive(Clone)]
    struct Scene {
        events: Vec<Event>,
        lines: Vec<Value>,
        decides: Option<bool>,
        beside: Beside,
    }

    fn line(at: f64, level: &str, failed: u64) -> Value {
        let mono_ns = std::time::Duration::from_secs_f64(at).as_nanos();
        json!({"type": "risk", "level": level, "mono_ns": u64::try_from(mono_ns).unwrap(), "failed_probes": failed,
            "seconds_to_decision": 29.0 - at, "uncertainty_s": 0.05, "probes_seen": true})
    }

    fn event(at: f64, kind: Kind) -> Event {
        Event { at, kind }
    }

    fn decided() -> Scene {
        let failures = [14.0, 19.0, 24.0, 29.0].map(|at| event(at, Kind::Failed));
        Scene {
            // The kubelet's worker was busy.
            events: [&failures[..], &[event(29.5, Kind::Decided)]].concat(),
            lines: vec![
                line(13.0, "elevated", 0),
                line(15.0, "elevated", 1),
                line(20.0, "imminent", 2),
            ],
            decides: Some(true),
            beside: Beside::Nothing,
        }
    }

    fn survived() -> Scene {
        Scene {
            events: vec![event(14.0, Kind::Failed), event(17.0, Kind::Answered)],
            lines: vec![line(13.0, "elevated", 0), line(17.1, "none", 0)],
            decides: Some(false),
            beside: Beside::Nothing,
        }
    }

    fn failed(scenes: &[Scene]) -> usize {
        let stalls: Vec<Stall> = scenes
            .iter()
            .map(|scene| {
                let probe = plan::probe(5, 2, 4, scene.beside);
                Stall::new(
                    probe,
                    (10.0, 40.0),
                    scene.decides,
                    &scene.lines,
                    &scene.events,
                )
            })
            .collect();
        of("test", &stalls, 1)
            .iter()
            .filter(|check| !check.passed)
            .count()
    }

    #[test]
    fn each_criterion_can_fail() {
        type Spoil = fn(&mut Scene, &mut Scene);
        let cases: [(&str, Spoil, usize); 8] = [
            ("nothing", |_, _| {}, 0),
            ("no decision", |one, _| one.events.truncate(4), 3),
            (
                "warned late",
                |one, _| one.lines[0] = line(14.1, "elevated", 1),
                1,
            ),
            (
                "imminent late",
                |one, _| one.lines[2] = line(29.5, "imminent", 4),
                1,
            ),
            (
                "told wrongly",
                |one, _| one.lines[1]["seconds_to_decision"] = json!(14.5),
                1,
            ),
            (
                "told nothing",
                |one, _| one.lines[1]["seconds_to_decision"] = Value::Null,
                1,
            ),
            (
                "relieved late",
                |_, two| two.lines[1] = line(17.6, "none", 0),
                1,
            ),
            (
                "not seen",
                |one, _| one.lines[1]["probes_seen"] = json!(false),
                1,
            ),
        ];
        for (what, spoil, expected) in cases {
            let (mut one, mut two) = (decided(), survived());
            spoil(&mut one, &mut two);
            assert_eq!(failed(&[one, two]), expected, "{what}");
        }
    }

    #[test]
    fn of_two_probes_of_the_same_rhythm_the_first_may_be_told_if_the_other_is_covered() {
        let early = |unsure: f64| {
            let mut scene = decided();
            scene.beside = Beside::Readiness(5, 2);
            for line in &mut scene.lines {
                let left = line["seconds_to_decision"].as_f64().unwrap();
                line["seconds_to_decision"] = json!(left - 2.0);
                line["uncertainty_s"] = json!(unsure);
            }
            scene
        };
        assert_eq!(failed(&[early(2.0), decided()]), 0);
        assert_eq!(failed(&[early(1.0), decided()]), 1);
    }

    /// Probes that are late by so much, the last of them and then others.
    fn late(by: f64, first: usize) -> Scene {
        let mut scene = decided();
        for event in &mut scene.events[first..] {
            event.at += by;
        }
        scene
    }

    #[test]
    fn a_kubelet_that_the_machine_held_up_is_not_held_against_the_forecast_as_long_as_it_is_rare() {
        let good = decided();
        let three = [good.clone(), good.clone(), good];
        assert_eq!(failed(&[&three[..], &[late(0.7, 3)]].concat()), 0);
        assert_eq!(failed(&[late(0.7, 3)]), 2);
        // All were late by as much: the kubelet kept its rhythm.
        assert_eq!(failed(&[&three[..], &[late(0.7, 0)]].concat()), 1);
    }

    #[test]
    fn an_answer_in_between_starts_the_count_anew() {
        let mut scene = decided();
        scene.events.insert(0, event(11.5, Kind::Failed));
        scene.events.insert(1, event(12.0, Kind::Answered));
        // Told before it, of a decision that the answer has put off.
        scene.lines.insert(0, line(11.6, "elevated", 1));
        scene.lines[0]["seconds_to_decision"] = json!(2.0);
        assert_eq!(failed(&[scene]), 0);
    }
}
