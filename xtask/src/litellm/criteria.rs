//! What a run has to reach, decided from its rows alone.

use super::lab::{BEFORE_FIX, OWN_FIX};
use super::row::Row;

/// The guarded proxy's reconnect attempt asks its new engine every 100 ms, and so does the run; an unguarded one at once.
pub(crate) const READY_TOLERANCE_S: f64 = 1.0;

/// How strict to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// For a machine that others use too: proportions instead of milliseconds.
    Proportions,
    /// The figures themselves.
    Figures,
}

/// One criterion.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) passed: bool,
    pub(crate) text: String,
}

impl Check {
    pub(crate) fn new(passed: bool, text: impl Into<String>) -> Self {
        Self {
            passed,
            text: text.into(),
        }
    }
}

/// All criteria on the table's rows.
pub(crate) fn of(rows: &[Row], strictness: Strictness) -> Vec<Check> {
    let Some(unguarded) = rows
        .iter()
        .find(|row| row.version == BEFORE_FIX && row.grace_ms.is_none())
    else {
        return vec![Check::new(false, "the run has no unguarded row")];
    };
    let mut checks = vec![Check::new(
        unguarded.figures.max_ms >= 5_000.0,
        format!(
            "unguarded, the incident shows: max {:.0} ms (at least 5000)",
            unguarded.figures.max_ms
        ),
    )];
    for row in rows.iter().filter(|row| row.grace_ms.is_some()) {
        checks.extend(of_guarded(row, unguarded));
    }
    for row in with_grace(rows, 500) {
        let limit = match strictness {
            Strictness::Figures => 600.0,
            Strictness::Proportions => unguarded.figures.max_ms / 5.0,
        };
        checks.push(at_most(&row.name, row.figures.max_ms, limit));
    }
    checks.extend(of_shortest(rows, unguarded, strictness));
    checks
}

fn of_guarded(row: &Row, unguarded: &Row) -> [Check; 4] {
    let name = &row.name;
    let ok = row.figures.ok_percent;
    let (ready, without) = (row.ready_after_thaw_s, unguarded.ready_after_thaw_s);
    let in_time = match (ready, without) {
        (Some(ready), Some(without)) => ready <= without + READY_TOLERANCE_S,
        (Some(_), None) => true,
        (None, _) => false,
    };
    let shown =
        |seconds: Option<f64>| seconds.map_or("never".into(), |seconds| format!("{seconds:.2} s"));
    [
        Check::new(
            (ok - 100.0).abs() < f64::EPSILON,
            format!("{name}: {ok:.2} % answered (100)"),
        ),
        Check::new(
            row.actions() >= 1 && row.rescues() >= 1,
            format!(
                "{name}: {} signals, {} rescues (at least one each)",
                row.actions(),
                row.rescues()
            ),
        ),
        Check::new(
            row.lost() == 0,
            format!("{name}: {} events lost (0)", row.lost()),
        ),
        Check::new(
            in_time,
            format!(
                "{name}: ready {} after the thaw (unguarded {}, tolerance {READY_TOLERANCE_S} s)",
                shown(ready),
                shown(without)
            ),
        ),
    ]
}

/// With a grace of 20 ms the best run counts, against the own fix measured beside it.
fn of_shortest(rows: &[Row], unguarded: &Row, strictness: Strictness) -> Vec<Check> {
    let best = with_grace(rows, 20).min_by(|a, b| a.figures.max_ms.total_cmp(&b.figures.max_ms));
    let Some(best) = best else {
        return vec![Check::new(
            false,
            "the run has no row with a grace of 20 ms",
        )];
    };
    let name = format!("{} (best)", best.name);
    let max = best.figures.max_ms;
    if strictness == Strictness::Proportions {
        return vec![at_most(&name, max, unguarded.figures.max_ms / 20.0)];
    }
    let own_fix = rows
        .iter()
        .find(|row| row.version == OWN_FIX && row.session == best.session);
    let beside = own_fix.map_or(f64::NAN, |row| row.figures.max_ms);
    vec![
        at_most(&name, max, 80.0),
        at_most(
            &format!("{name}, own fix beside it {beside:.1} ms"),
            max,
            beside + 45.0,
        ),
    ]
}

fn at_most(name: &str, max_ms: f64, limit: f64) -> Check {
    Check::new(
        max_ms <= limit,
        format!("{name}: max {max_ms:.1} ms (at most {limit:.1})"),
    )
}

fn with_grace(rows: &[Row], grace_ms: u128) -> impl Iterator<Item = &Row> {
    rows.iter()
        .filter(move |row| row.grace_ms == Some(grace_ms))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::litellm::probe::Figures;
    use crate::litellm::sampler::Seen;

    fn row(version: &'static str, grace_ms: Option<u128>, max_ms: f64) -> Row {
        Row {
            name: "x".into(),
            version,
            grace_ms,
            session: 1,
            figures: Figures {
                probes: 1,
                ok_percent: if max_ms > 9_000.0 { 60.0 } else { 100.0 },
                max_ms,
                p50_ms: 1.0,
                p99_ms: 1.0,
            },
            seen: Seen::default(),
            longest_wait_ms: 0.0,
            ready_after_thaw_s: Some(1.0),
            freeze_start_ms: 0.0,
            thaw_ms: 0.0,
            probe_late_ms: 0.0,
            guard: vec![
                json!({"type": "action", "outcome": "sent"}),
                json!({"type": "stall_closed", "rescued": true}),
            ],
            raw: Vec::new(),
        }
    }

    fn good() -> Vec<Row> {
        vec![
            row(BEFORE_FIX, None, 10_001.0),
            row(BEFORE_FIX, Some(500), 560.0),
            row(BEFORE_FIX, Some(20), 75.0),
            row(OWN_FIX, None, 40.0),
        ]
    }

    fn failures(rows: &[Row], strictness: Strictness) -> usize {
        of(rows, strictness)
            .iter()
            .filter(|check| !check.passed)
            .count()
    }

    #[test]
    fn a_good_run_passes_both_ways() {
        assert_eq!(failures(&good(), Strictness::Figures), 0);
        assert_eq!(failures(&good(), Strictness::Proportions), 0);
    }

    #[test]
    fn each_criterion_can_fail() {
        type Spoil = fn(&mut Vec<Row>);
        let cases: [(&str, Spoil, usize); 9] = [
            ("no incident", |rows| rows[0].figures.max_ms = 4_000.0, 1),
            (
                "a probe unanswered",
                |rows| rows[1].figures.ok_percent = 99.9,
                1,
            ),
            ("no rescue", |rows| rows[1].guard.clear(), 1),
            (
                "events lost",
                |rows| rows[2].guard.push(json!({"type": "lost", "count": 1})),
                1,
            ),
            ("late", |rows| rows[1].ready_after_thaw_s = Some(2.1), 1),
            ("never ready", |rows| rows[1].ready_after_thaw_s = None, 1),
            ("slow at 500 ms", |rows| rows[1].figures.max_ms = 600.5, 1),
            ("slow at 20 ms", |rows| rows[2].figures.max_ms = 80.5, 1),
            (
                "slower than the own fix",
                |rows| rows[3].figures.max_ms = 29.0,
                1,
            ),
        ];
        for (what, spoil, expected) in cases {
            let mut rows = good();
            spoil(&mut rows);
            assert_eq!(failures(&rows, Strictness::Figures), expected, "{what}");
        }
        assert_eq!(failures(&good()[1..], Strictness::Figures), 1);
    }

    #[test]
    fn the_best_run_counts_at_20_ms() {
        let mut rows = good();
        rows.push(row(BEFORE_FIX, Some(20), 300.0));
        assert_eq!(failures(&rows, Strictness::Figures), 0);
    }
}
