//! What the run has to show, decided from what was seen alone.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::Seen;
use super::source::{self, Source};
use crate::litellm::criteria::Check;
use crate::litellm::guard;

/// Less is not this incident: the proxy waits 30 s.
const SHORTEST_MS: f64 = 25_000.0;
/// By when the stack has to be told, counted from the start of the stall. It takes some 100 ms; the rest is for busy machines.
const SHOWN_MS: f64 = 2_000.0;
/// From when on a line must not name another cause.
const SETTLED_MS: f64 = 300.0;
/// What evidence for one incident may cost.
const CPU_MS: f64 = 50.0;
const MEMORY_MIB: f64 = 8.0;

/// The incident as its lines tell it.
struct Incident<'a> {
    lines: Vec<&'a Value>,
    closed: &'a Value,
}

impl<'a> Incident<'a> {
    /// The longest stall that has ended.
    fn of(seen: &'a Seen) -> Option<Self> {
        let closed = guard::of_type(&seen.lines, "stall_closed")
            .into_iter()
            .max_by(|a, b| busy_ms(a).total_cmp(&busy_ms(b)))?;
        let same = |line: &&Value| line["incident"] == closed["incident"];
        Some(Self {
            lines: seen.lines.iter().filter(same).collect(),
            closed,
        })
    }

    /// The first line with a stack that came before the end.
    fn shown(&self) -> Option<&'a Value> {
        let open = self
            .lines
            .iter()
            .filter(|line| line["type"] != "stall_closed");
        open.copied().find(|line| line["stack"].is_array())
    }
}

/// All criteria.
pub(super) fn of(seen: &Seen, source: &Source) -> Vec<Check> {
    let Some(incident) = Incident::of(seen) else {
        return vec![check(false, "the guard has told of no stall that ended")];
    };
    let mut checks = of_the_deadlock(seen, &incident);
    match incident.shown() {
        Some(line) => checks.extend(of_the_stack(seen, line, source)),
        None => checks.push(check(
            false,
            "no line before the end of the stall has a stack",
        )),
    }
    checks.extend(of_the_guard(seen));
    checks
}

fn of_the_deadlock(seen: &Seen, incident: &Incident) -> Vec<Check> {
    let busy = busy_ms(incident.closed);
    let request = seen.request.as_secs_f64();
    let settled = incident
        .lines
        .iter()
        .filter(|line| busy_ms(line) >= SETTLED_MS);
    let others = settled.filter(|line| !is_lock_wait(line)).count();
    vec![
        check(
            busy >= SHORTEST_MS && request * 1e3 >= busy,
            &format!(
                "the deadlock shows: the loop was away for {busy:.0} ms (at least {SHORTEST_MS:.0}), the request took {request:.1} s"
            ),
        ),
        check(
            others == 0,
            &format!(
                "{others} lines from {SETTLED_MS:.0} ms on name another cause than lock_wait (0); the last says {}",
                incident.closed["cause"]["kind"]
            ),
        ),
    ]
}

fn of_the_stack(seen: &Seen, line: &Value, source: &Source) -> Vec<Check> {
    let at = busy_ms(line);
    let started_after = start_ns(line) >= seen.asked_ns;
    let frames: &[Value] = line["stack"].as_array().map_or(&[], Vec::as_slice);
    let names: Vec<String> = frames.iter().take(4).map(shown).collect();
    vec![
        check(
            seen.shown_in_time && started_after && at <= SHOWN_MS && is_lock_wait(line),
            &format!(
                "lock_wait with its stack {at:.0} ms after the start of the stall (at most {SHOWN_MS:.0}), while the request waits"
            ),
        ),
        check(
            is_result_called_by_wrapper(frames, source),
            &format!(
                "Future.result called by PrismaWrapper.__getattr__ at {}:{}: {}",
                source.file.display(),
                source.line,
                names.join(" < ")
            ),
        ),
        check(
            frames.first().is_some_and(is_blocking_line),
            &format!(
                "the innermost line is the one that blocks: {}",
                frames
                    .first()
                    .and_then(text_at)
                    .map_or("no source".into(), |(text, _)| text)
            ),
        ),
    ]
}

pub(super) fn check(passed: bool, text: &str) -> Check {
    Check::new(passed, format!("IAM: {text}"))
}

fn of_the_guard(seen: &Seen) -> Vec<Check> {
    let actions = guard::of_type(&seen.lines, "action").len();
    let lost: u64 = guard::of_type(&seen.lines, "lost")
        .iter()
        .filter_map(|line| line["count"].as_u64())
        .sum();
    let (cpu, memory) = (seen.cost.cpu_ms, seen.cost.memory_mib);
    vec![
        check(
            cpu <= CPU_MS && memory <= MEMORY_MIB,
            &format!(
                "evidence took {cpu:.1} ms of one core (at most {CPU_MS:.0}) and {memory:.1} MiB (at most {MEMORY_MIB:.0})"
            ),
        ),
        check(actions == 0, &format!("{actions} actions (0)")),
        check(lost == 0, &format!("{lost} events lost (0)")),
    ]
}

/// `Future.result` directly above the line of the wrapper that waits; what it waits with inside is the library's own affair.
fn is_result_called_by_wrapper(frames: &[Value], source: &Source) -> bool {
    frames.windows(2).any(|pair| {
        let (called, caller) = (&pair[0], &pair[1]);
        is_named(called, "Future.result")
            && file(called).ends_with("concurrent/futures/_base.py")
            && text_at(called).is_some_and(|(_, function)| function == "result")
            && is_named(caller, "PrismaWrapper.__getattr__")
            && is_same_file(file(caller), &source.file)
            && line_number(caller) == Some(source.line)
    })
}

/// Before 3.11 Python does not know what class a function belongs to.
fn is_named(frame: &Value, name: &str) -> bool {
    let function = frame["function"].as_str().unwrap_or_default();
    function == name || name.rsplit('.').next() == Some(function)
}

fn is_same_file(shown: &Path, real: &Path) -> bool {
    matches!((shown.canonicalize(), real.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Of all lines only the one that takes a lock can block here.
fn is_blocking_line(frame: &Value) -> bool {
    text_at(frame).is_some_and(|(text, _)| text.contains(".acquire("))
}

fn text_at(frame: &Value) -> Option<(String, String)> {
    source::line_of(file(frame), line_number(frame)?)
}

fn file(frame: &Value) -> &Path {
    Path::new(frame["file"].as_str().unwrap_or_default())
}

fn line_number(frame: &Value) -> Option<usize> {
    frame["line"].as_u64()?.try_into().ok()
}

fn shown(frame: &Value) -> String {
    let name = frame["function"].as_str().unwrap_or("?");
    let file = file(frame)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let line = line_number(frame).map_or_else(String::new, |line| format!(":{line}"));
    format!("{name} ({file}{line})")
}

fn is_lock_wait(line: &Value) -> bool {
    line["cause"]["kind"] == "lock_wait"
}

fn busy_ms(line: &Value) -> f64 {
    line["busy_ms"].as_f64().unwrap_or(0.0)
}

/// When the stall that a line tells of began.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a stall's milliseconds, as nanoseconds"
)]
fn start_ns(line: &Value) -> u64 {
    let busy = (busy_ms(line) * 1e6) as u64;
    line["mono_ns"].as_u64().unwrap_or(0).saturating_sub(busy)
}

/// What happened, for people.
pub(super) fn story(seen: &Seen) -> String {
    let figures = &seen.liveliness;
    let mut text = format!(
        "\nIAM deadlock: the request got {} after {:.1} s; liveliness max {:.1} ms, {:.2} % answered\n",
        seen.status,
        seen.request.as_secs_f64(),
        figures.max_ms,
        figures.ok_percent
    );
    for line in Incident::of(seen).map_or_else(Vec::new, |incident| incident.lines) {
        let kind = line["type"].as_str().unwrap_or_default();
        let cause = line["cause"]["kind"].as_str().unwrap_or_default();
        let frames: &[Value] = line["stack"].as_array().map_or(&[], Vec::as_slice);
        let frames: Vec<String> = frames.iter().take(4).map(shown).collect();
        let _ = writeln!(
            text,
            "{:>9.1} ms  {kind}: {cause} {}",
            busy_ms(line),
            frames.join(" < ")
        );
    }
    text
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
