//! What the guard forecast beside what the liveness probe did.

use serde_json::Value;

use super::Seen;
use super::judge::check;
use crate::litellm::criteria::Check;
use crate::litellm::guard;
use crate::litellm::kubelet::Probed;

/// From the first counted failure on, the decision is told as exactly as that.
const EXACT_S: f64 = 0.3;
/// So long before the decision the risk has to be imminent.
const IMMINENT_S: f64 = 8.0;

/// All criteria.
pub(super) fn of(seen: &Seen) -> Vec<Check> {
    let first = seen.probed.iter().find(|probe| probe.failed == 1);
    let decision = seen.probed.iter().find(|probe| probe.decides());
    let (Some(first), Some(decision)) = (first, decision) else {
        return vec![check(
            false,
            "the liveness probe did not fail often enough to decide",
        )];
    };
    let risks = guard::of_type(&seen.lines, "risk");
    let with = |level: &'static str| {
        let seen = |line: &&&Value| line["probes_seen"] == true && line["level"] == level;
        risks.iter().find(seen).copied()
    };
    let before = |line: Option<&Value>, moment: u64| {
        line.map_or(f64::NAN, |line| seconds(moment) - seconds(at(line)))
    };
    let warned = before(with("elevated"), first.end_ns);
    let imminent = before(with("imminent"), decision.end_ns);
    let offs = offs(&risks, first, decision);
    let worst = offs.iter().copied().fold(0.0, f64::max);
    vec![
        check(
            warned > 0.0,
            &format!(
                "elevated {warned:.2} s before the first counted failure, with the probes seen"
            ),
        ),
        check(
            imminent >= IMMINENT_S,
            &format!("imminent {imminent:.1} s before the decision (at least {IMMINENT_S:.0})"),
        ),
        check(
            !offs.is_empty() && worst <= EXACT_S,
            &format!(
                "from the first counted failure on the decision is told {} times, at most {worst:.3} s off (at most {EXACT_S})",
                offs.len()
            ),
        ),
    ]
}

/// How far off the told decisions are, in seconds.
fn offs(risks: &[&Value], first: &Probed, decision: &Probed) -> Vec<f64> {
    let between = |line: &&&Value| first.end_ns < at(line) && at(line) < decision.end_ns;
    let told = risks.iter().filter(between).filter_map(|line| {
        let left = line["seconds_to_decision"].as_f64()?;
        Some((seconds(at(line)) + left - seconds(decision.end_ns)).abs())
    });
    told.collect()
}

fn at(line: &Value) -> u64 {
    line["mono_ns"].as_u64().unwrap_or(0)
}

fn seconds(nanoseconds: u64) -> f64 {
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::litellm::cost::Cost;
    use crate::litellm::probe::Figures;

    const S: u64 = 1_000_000_000;

    fn good() -> Seen {
        // Probes start at 12, 17, 22 and 27 s.
        let probed = (1..=4).map(|failed| {
            let start_ns = (7 + 5 * u64::from(failed)) * S;
            Probed {
                start_ns,
                end_ns: start_ns + 2 * S,
                failed,
            }
        });
        let line = |seconds: f64, level: &str| {
            let at = Duration::from_secs_f64(seconds).as_nanos();
            json!({"type": "risk", "level": level, "mono_ns": u64::try_from(at).unwrap(), "probes_seen": true,
                "seconds_to_decision": 29.1 - seconds})
        };
        Seen {
            lines: vec![
                line(13.0, "elevated"),
                line(14.5, "elevated"),
                line(20.0, "imminent"),
            ],
            probed: probed.collect(),
            shown_in_time: true,
            asked_ns: 0,
            request: Duration::ZERO,
            status: 500,
            liveliness: Figures::of(&[]),
            cost: Cost {
                cpu_ms: 0.0,
                memory_mib: 0.0,
            },
        }
    }

    fn unsee(seen: &mut Seen) {
        for line in &mut seen.lines {
            line["probes_seen"] = json!(false);
        }
    }

    #[test]
    fn each_criterion_can_fail() {
        type Spoil = fn(&mut Seen);
        let cases: [(&str, Spoil, usize); 6] = [
            ("nothing", |_| {}, 0),
            ("no decision", |seen| seen.probed.truncate(3), 1),
            ("not seen", |seen| unsee(seen), 2),
            (
                "warned late",
                |seen| seen.lines[0]["level"] = json!("none"),
                1,
            ),
            (
                "imminent late",
                |seen| seen.lines[2]["mono_ns"] = json!(22 * S),
                2,
            ),
            (
                "told wrongly",
                |seen| seen.lines[1]["seconds_to_decision"] = json!(10.0),
                1,
            ),
        ];
        for (what, spoil, expected) in cases {
            let mut seen = good();
            spoil(&mut seen);
            let failed = of(&seen).iter().filter(|check| !check.passed).count();
            assert_eq!(failed, expected, "{what}");
        }
    }
}
