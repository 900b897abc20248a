//! What a run has to reach: pure.

use std::fmt::Write as _;

use serde_json::Value;

use super::Seen;
use crate::litellm::criteria::Check;
use crate::litellm::guard::of_type;

/// The engine writes its moments when it is run next and its start in hundredths of a second, the guard has those of the kernel.
const TOLERANCE_MS: f64 = 50.0;

pub(super) const HEAD: &str = "\
listens after  refused: client  guard  engine's log: listening  accepting  guard: listening  accepting   race\n";

/// What both sides say of one startup.
#[derive(Debug, Default)]
struct Both {
    /// Refused at the engine's address and port: by the client's count, and by the guard's.
    refused: (Option<u64>, Option<u64>),
    /// From the start until it listened, in milliseconds: by the engine's log, and by the guard.
    listening: (Option<f64>, Option<f64>),
    /// The same until it accepted.
    accepting: (Option<f64>, Option<f64>),
    /// The guard's moments against those of the log, in milliseconds.
    off: Vec<f64>,
    /// The incident: refused connections and how long.
    race: Option<(u64, f64)>,
}

impl Both {
    fn of(seen: &Seen) -> Self {
        let moment = |event: &str| {
            let mut found = seen
                .moments
                .iter()
                .filter(|moment| moment["event"] == event);
            // The client asks an engine for its version first, which writes nothing.
            found
                .next_back()
                .and_then(|moment| moment["unix_us"].as_i64())
        };
        let started = moment("started");
        let since = |event: &str| Some(millis(moment(event)? - started?));
        let line = |event: &str| of_event(&seen.lines, event);
        let told = |event: &str| line(event)?["after_ms"].as_f64();
        let mut off = Vec::new();
        for (event, noted) in [
            ("spawned", "started"),
            ("listening", "listening"),
            ("accepting", "accepted"),
        ] {
            if let (Some(line), Some(truth)) = (line(event), moment(noted)) {
                let at = line["mono_ns"].as_i64().unwrap_or(0) / 1000 + seen.offset_us;
                off.push(millis(at - truth));
            }
        }
        let races = of_type(&seen.lines, "startup_race");
        let race = races
            .first()
            .and_then(|race| Some((race["refused"].as_u64()?, race["lasted_ms"].as_f64()?)));
        let listening = line("listening");
        Self {
            refused: (
                refused_at(&seen.result, listening),
                listening.and_then(|line| line["refused"].as_u64()),
            ),
            listening: (since("listening"), told("listening")),
            accepting: (since("accepted"), told("accepting")),
            off,
            race,
        }
    }
}

/// How often the client was refused at 127.0.0.1 and the engine's port; where none listened, at any port.
fn refused_at(result: &Value, listening: Option<&Value>) -> Option<u64> {
    let counts = result["refused"].as_object()?;
    let port = listening.and_then(|line| line["port"].as_u64());
    let of = |(peer, count): (&String, &Value)| {
        let (address, own) = peer.split_once(' ')?;
        let is_it = port.is_none_or(|port| own == port.to_string());
        (address == "127.0.0.1" && is_it).then(|| count.as_u64())?
    };
    Some(counts.iter().filter_map(of).sum())
}

fn of_event<'a>(lines: &'a [Value], event: &str) -> Option<&'a Value> {
    lines
        .iter()
        .find(|line| line["type"] == "engine" && line["event"] == event)
}

#[expect(clippy::cast_precision_loss, reason = "a run lasts no year")]
fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

/// A line of the table.
pub(super) fn row(seen: &Seen) -> String {
    let both = Both::of(seen);
    let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    let span = |span: Option<f64>| span.map_or("-".to_owned(), |span| format!("{span:.1} ms"));
    let race = both.race.map_or("-".to_owned(), |(refused, lasted)| {
        format!("{refused} in {lasted:.1} ms")
    });
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<13}  {:>15}  {:>5}  {:>23}  {:>9}  {:>16}  {:>9}   {race}",
        seen.name,
        count(both.refused.0),
        count(both.refused.1),
        span(both.listening.0),
        span(both.accepting.0),
        span(both.listening.1),
        span(both.accepting.1),
    );
    text
}

/// The criteria on one run.
pub(super) fn of(seen: &Seen) -> Vec<Check> {
    let both = Both::of(seen);
    let name = seen.name;
    let lost = of_type(&seen.lines, "lost").len();
    let mut checks = vec![Check::new(
        lost == 0,
        format!("{name}: {lost} lost lines (0)"),
    )];
    if seen.result["outcome"] != "connected" {
        let race = both.race.map(|(refused, _)| refused);
        checks.push(Check::new(
            race.is_some() && race == both.refused.0,
            format!(
                "{name}: refused in vain {:?} by the guard, {:?} by the client's own count",
                race, both.refused.0
            ),
        ));
        return checks;
    }
    let late = both.listening.1.is_some_and(|after| after > 2_000.0);
    let (client, guard) = both.refused;
    checks.push(Check::new(
        client.is_some() && client == guard && (client > Some(0) || !late),
        format!("{name}: refused {guard:?} by the guard, {client:?} by the client's own count"),
    ));
    for (what, (truth, told)) in [("listening", both.listening), ("accepting", both.accepting)] {
        let off = truth.zip(told).map(|(truth, told)| told - truth);
        checks.push(Check::new(
            off.is_some_and(|off| off.abs() <= TOLERANCE_MS),
            format!("{name}: start to {what} {off:.1?} ms off the engine's own log (50)"),
        ));
    }
    let worst = both.off.iter().copied().map(f64::abs).fold(0.0, f64::max);
    checks.push(Check::new(
        both.off.len() == 3 && worst <= TOLERANCE_MS,
        format!("{name}: its moments at most {worst:.1} ms off (50)"),
    ));
    let race = both.race.map(|(refused, _)| refused);
    checks.push(Check::new(
        if late { race == client } else { race.is_none() },
        format!("{name}: incident of {race:?} refused"),
    ));
    checks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen() -> Seen {
        let moment = |event: &str, at: i64| json!({"event": event, "unix_us": at});
        let line = |event: &str, mono_us: i64, after: f64| json!({"type": "engine", "event": event, "mono_ns": mono_us * 1000, "after_ms": after, "port": 80, "refused": 3});
        Seen {
            name: "3 s",
            lines: vec![
                line("spawned", 1_000_000, 0.0),
                line("listening", 4_000_000, 3_000.0),
                line("accepting", 4_010_000, 3_010.0),
                json!({"type": "startup_race", "refused": 3, "lasted_ms": 2_900.0}),
            ],
            moments: vec![
                moment("started", 11_010_000),
                moment("listening", 14_001_000),
                moment("accepted", 14_011_000),
            ],
            result: json!({"outcome": "connected", "refused": {"127.0.0.1 80": 3, "::1 80": 9}}),
            offset_us: 10_000_000,
        }
    }

    type Spoil = fn(&mut Seen);

    fn failures(seen: &Seen) -> usize {
        of(seen).iter().filter(|check| !check.passed).count()
    }

    #[test]
    fn a_good_run_passes_and_each_criterion_can_fail() {
        assert_eq!(failures(&seen()), 0, "{:?}", of(&seen()));
        let cases: [(&str, Spoil, usize); 7] = [
            ("lost", |seen| seen.lines.push(json!({"type": "lost"})), 1),
            ("a count", |seen| seen.lines[1]["refused"] = json!(4), 1),
            ("no count", |seen| seen.result["refused"] = json!({}), 2),
            (
                "a span",
                |seen| seen.lines[1]["after_ms"] = json!(2_900.0),
                1,
            ),
            ("a moment", |seen| seen.offset_us += 100_000, 1),
            ("no moment", |seen| drop(seen.lines.remove(2)), 2),
            ("no incident", |seen| drop(seen.lines.remove(3)), 1),
        ];
        for (what, spoil, expected) in cases {
            let mut seen = seen();
            spoil(&mut seen);
            assert_eq!(failures(&seen), expected, "{what}: {:?}", of(&seen));
        }
    }

    #[test]
    fn an_engine_that_never_listens_is_an_incident_too() {
        let mut seen = seen();
        seen.result["outcome"] = json!("EngineConnectionError");
        seen.lines.drain(1..3);
        assert_eq!(failures(&seen), 0, "{:?}", of(&seen));
        seen.lines.pop();
        assert_eq!(failures(&seen), 1, "{:?}", of(&seen));
    }
}
