//! The lines of `watch`: one JSON object a line for programs (a contract, see `docs/lines.md`), sentences for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::clean::clean;
use super::{engine_news, told};
use crate::pipeline::redact::without_credentials;
use crate::pipeline::stamp::{Stamp, Tied, millis};
use crate::pipeline::{
    ActionNotice, CauseKind, EndedBy, LoopId, LoopInfo, LoopTotals, Mono, Notice, Outcome, Pid,
    StallView,
};

/// The wall clock, tied to the clock of the events.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    mono: Mono,
    wall: Duration,
}

impl WallClock {
    /// Ties the two clocks together at one moment; do it again now and then, because the wall clock can be set.
    #[must_use]
    pub fn tie(mono: Mono, wall: SystemTime) -> Self {
        Self {
            mono,
            wall: wall.duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// The same as the records of incidents take it.
    #[must_use]
    pub fn tied(self) -> Tied {
        Tied {
            mono: self.mono,
            wall: Stamp(u64::try_from(self.wall.as_micros()).unwrap_or(u64::MAX)),
        }
    }

    /// RFC 3339 with microseconds, UTC.
    #[must_use]
    pub fn rfc3339(self, mono: Mono) -> String {
        self.tied().stamp(mono).to_string()
    }

    /// Time of day with milliseconds, UTC, for people.
    #[must_use]
    pub fn time_of_day(self, mono: Mono) -> String {
        self.rfc3339(mono)[11..23].to_owned()
    }
}

/// What a loop's last line adds up.
#[derive(Debug, Clone, Default)]
struct Tally {
    stalls: BTreeMap<CauseKind, u64>,
    stalled: Duration,
    actions: u64,
}

/// Turns notices into lines, and adds up what the summaries need.
#[derive(Debug, Default)]
pub struct Lines {
    tallies: BTreeMap<LoopId, Tally>,
}

impl Lines {
    /// Takes a notice into the summaries. Call it once for each, before or after writing its line.
    pub fn count(&mut self, notice: &Notice) {
        match notice {
            Notice::StallClosed { info, view, .. } => {
                let tally = self.tallies.entry(info.id).or_default();
                *tally.stalls.entry(view.cause.kind).or_default() += 1;
                tally.stalled += view.busy;
            }
            Notice::Action { info, action }
                if matches!(action.outcome, Outcome::Sent | Outcome::WouldSend) =>
            {
                self.tallies.entry(info.id).or_default().actions += 1;
            }
            _ => {}
        }
    }

    /// The notice as a JSON object; `None` for those that have no line. A loop's end is its summary.
    #[must_use]
    pub fn json(&self, notice: &Notice, clock: WallClock) -> Option<Value> {
        let mut line = self.object(notice, clock)?;
        clean(&mut line, usize::MAX);
        Some(line)
    }

    fn object(&self, notice: &Notice, clock: WallClock) -> Option<Value> {
        Some(match notice {
            Notice::Loop { at, info } => {
                let mut line = head("loop", *at, info, clock);
                line.insert("exe".into(), json!(info.exe));
                line.insert("poller".into(), json!(info.poller));
                line.insert("plan".into(), json!(info.plan));
                if let Some(pod) = &info.pod {
                    line.insert("pod".into(), json!(pod));
                }
                Value::Object(line)
            }
            Notice::Placed { at, info } => {
                let pod = info.pod.as_ref()?;
                let mut line = head("placed", *at, info, clock);
                line.insert("pod".into(), json!(pod));
                Value::Object(line)
            }
            Notice::StallOpened { info, view } => {
                Value::Object(stall("stall_opened", info, view, clock))
            }
            Notice::StallUpdated { info, view } => {
                Value::Object(stall("stall_updated", info, view, clock))
            }
            Notice::StallClosed {
                info,
                view,
                rescued,
                ended_by,
                liveness,
            } => {
                let mut line = stall("stall_closed", info, view, clock);
                line.insert("rescued".into(), json!(rescued));
                line.insert("ended_by".into(), json!(ended_by));
                if !view.shares.is_empty() {
                    line.insert("shares".into(), told::shares(view));
                }
                if let Some(outlook) = liveness {
                    line.insert("liveness".into(), Value::Object(told::liveness(outlook)));
                }
                Value::Object(line)
            }
            Notice::Risk { info, risk } => {
                let mut line = head("risk", risk.at, info, clock);
                line.insert("level".into(), json!(risk.level.name()));
                line.extend(told::liveness(&risk.outlook));
                Value::Object(line)
            }
            Notice::Action { info, action } => Value::Object(action_line(info, action, clock)),
            // Of a thread that was never shown to be a loop there is nothing to sum up.
            Notice::LoopEnded { info, .. } if info.poller.is_empty() => return None,
            Notice::LoopEnded {
                at, info, totals, ..
            } => self.summary(*at, info, totals, clock),
            Notice::Lost { at, what, count } => json!({
                "type": "lost", "time": clock.rfc3339(*at), "mono_ns": at.0, "pid": Value::Null, "tid": Value::Null,
                "what": what, "count": count,
            }),
            Notice::Engine { info, news } => {
                let (kind, fields) = engine_news::line(&news.what)?;
                let mut line = head(kind, news.at, info, clock);
                line.extend(fields);
                Value::Object(line)
            }
            Notice::EngineWait { .. } | Notice::Episode { .. } => return None,
        })
    }

    fn summary(&self, at: Mono, info: &LoopInfo, totals: &LoopTotals, clock: WallClock) -> Value {
        let tally = self.tallies.get(&info.id).cloned().unwrap_or_default();
        let quantile = |q| {
            totals
                .histogram
                .quantile(q, totals.max)
                .map_or(0.0, millis::of)
        };
        let stalls: Map<String, Value> = tally
            .stalls
            .iter()
            .map(|(kind, count)| (kind.name().to_owned(), json!(count)))
            .collect();
        let mut line = head("summary", at, info, clock);
        line.insert("iterations".into(), json!(totals.iterations));
        let busy = json!({"p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "max": millis::of(totals.max)});
        line.insert("busy_ms".into(), busy);
        line.insert("stalls".into(), Value::Object(stalls));
        line.insert("stalled_ms".into(), json!(millis::of(tally.stalled)));
        line.insert("actions".into(), json!(tally.actions));
        Value::Object(line)
    }

    /// The last line.
    #[must_use]
    pub fn ended(at: Mono, pid: Pid, reason: &str, status: Option<i32>, clock: WallClock) -> Value {
        let mut line = json!({
            "type": "ended", "time": clock.rfc3339(at), "mono_ns": at.0, "pid": pid, "tid": pid, "reason": reason,
        });
        if let (Some(status), Some(line)) = (status, line.as_object_mut()) {
            line.insert("status".into(), json!(status));
        }
        line
    }

    /// The notice as a sentence; `None` for those that people need not read.
    #[must_use]
    pub fn text(&self, notice: &Notice, clock: WallClock) -> Option<String> {
        let (at, line) = match notice {
            Notice::Loop { at, info } => (
                *at,
                format!(
                    "{} is an event loop polling with {}; watched by {}",
                    name(info),
                    info.poller,
                    info.plan
                ),
            ),
            Notice::Placed { at, info } => {
                let pod = info.pod.as_ref()?;
                (*at, format!("{} runs in pod {pod}", process(info)))
            }
            Notice::StallOpened { info, view } => (
                view.at,
                format!(
                    "{} STALLED for {}: {}",
                    name(info),
                    busy(view),
                    told::text(view)
                ),
            ),
            Notice::StallUpdated { info, view } => (
                view.at,
                format!(
                    "{} stalled for {}: {}",
                    name(info),
                    busy(view),
                    told::text(view)
                ),
            ),
            Notice::Action { info, action } => (action.at, action_text(info, action)),
            Notice::StallClosed {
                info,
                view,
                rescued,
                ended_by,
                ..
            } => {
                let end = match (rescued, ended_by) {
                    (true, _) => "RESCUED: the loop runs again",
                    (false, EndedBy::Poll) => "the loop runs again",
                    (false, EndedBy::Exit) => "the process ended",
                    (false, EndedBy::Exec) => "the process ran another program",
                    (false, EndedBy::Detached) => "not watched any more",
                };
                (
                    view.at,
                    format!(
                        "{} after {}: {end} ({})",
                        name(info),
                        busy(view),
                        told::text(view)
                    ),
                )
            }
            // For people the change is enough.
            Notice::Risk { risk, .. } if !risk.changed => return None,
            Notice::Risk { info, risk } => {
                (risk.at, format!("{} {}", name(info), told::risk_text(risk)))
            }
            Notice::LoopEnded { info, .. } if info.poller.is_empty() => return None,
            Notice::LoopEnded {
                at, info, totals, ..
            } => (*at, self.summary_text(info, totals)),
            Notice::Lost { at, what, count } => (*at, format!("lost {count} x {what}")),
            Notice::Engine { info, news } => {
                let text = engine_news::text(&news.what)?;
                (news.at, format!("{} {text}", name(info)))
            }
            Notice::EngineWait { .. } | Notice::Episode { .. } => return None,
        };
        let line = printable(&without_credentials(&line));
        Some(format!("{} {line}", clock.time_of_day(at)))
    }

    fn summary_text(&self, info: &LoopInfo, totals: &LoopTotals) -> String {
        let tally = self.tallies.get(&info.id).cloned().unwrap_or_default();
        let quantile = |q| {
            totals
                .histogram
                .quantile(q, totals.max)
                .map_or(0.0, millis::of)
        };
        let mut text = format!(
            "{}: {} iterations, busy p50 {:.1} ms, p90 {:.1}, p99 {:.1}, max {:.1}",
            name(info),
            totals.iterations,
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            millis::of(totals.max)
        );
        let count: u64 = tally.stalls.values().sum();
        let _ = write!(
            text,
            "; {count} stalls, {:.1} ms in all",
            millis::of(tally.stalled)
        );
        for (kind, count) in &tally.stalls {
            let _ = write!(text, ", {count} x {}", kind.name());
        }
        let _ = write!(text, "; {} actions", tally.actions);
        text
    }
}

fn head(kind: &str, at: Mono, info: &LoopInfo, clock: WallClock) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("type".into(), json!(kind));
    line.insert("time".into(), json!(clock.rfc3339(at)));
    line.insert("mono_ns".into(), json!(at.0));
    line.insert("pid".into(), json!(info.id.process.pid));
    line.insert("tid".into(), json!(info.id.tid));
    line
}

fn stall(kind: &str, info: &LoopInfo, view: &StallView, clock: WallClock) -> Map<String, Value> {
    let mut line = head(kind, view.at, info, clock);
    line.insert("incident".into(), json!(view.incident));
    line.insert("busy_ms".into(), json!(millis::of(view.busy)));
    if view.busy_is_lower_bound {
        line.insert("busy_is_lower_bound".into(), json!(true));
    }
    line.insert("cause".into(), told::json(view));
    if let Some(evidence) = &view.evidence {
        if let Some(stack) = &evidence.stack {
            line.insert("stack".into(), json!(stack.frames));
        }
        if !evidence.missing.is_empty() {
            line.insert("missing".into(), json!(evidence.missing));
        }
    }
    line
}

fn action_line(info: &LoopInfo, action: &ActionNotice, clock: WallClock) -> Map<String, Value> {
    let mut line = head("action", action.at, info, clock);
    line.insert("incident".into(), json!(action.incident));
    line.insert("child".into(), json!(action.child));
    if !action.child_exe.is_empty() {
        line.insert("exe".into(), json!(action.child_exe));
    }
    line.insert("signal".into(), json!(action.signal));
    line.insert("mode".into(), json!(action.mode));
    line.insert("busy_ms".into(), json!(millis::of(action.busy)));
    line.insert("outcome".into(), json!(action.outcome.name()));
    if let Some(refusal) = action.outcome.refusal() {
        line.insert("refused_by".into(), json!(refusal));
    }
    line.insert("grace_ms".into(), json!(millis::of(action.grace)));
    if let Some(reason) = action.grace_reason {
        line.insert("grace_reason".into(), json!(reason));
    }
    if let Some(detail) = &action.detail {
        line.insert("detail".into(), json!(detail));
    }
    line
}

/// A sentence that stays one line and moves no cursor: an executable may be named with anything, escape codes included.
pub(super) fn printable(line: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    line.chars().map(plain).collect()
}

fn name(info: &LoopInfo) -> String {
    match &info.pod {
        Some(pod) => format!("{} in pod {pod}", process(info)),
        None => process(info),
    }
}

pub(super) fn process(info: &LoopInfo) -> String {
    let thread = if info.id.tid.0 == info.id.process.pid.0 {
        String::new()
    } else {
        format!("/{}", info.id.tid)
    };
    format!("{}[{}{thread}]", info.exe, info.id.process.pid)
}

fn busy(view: &StallView) -> String {
    let bound = if view.busy_is_lower_bound {
        "at least "
    } else {
        ""
    };
    format!("{bound}{:.1} ms", millis::of(view.busy))
}

pub(super) fn action_text(info: &LoopInfo, action: &ActionNotice) -> String {
    let (signal, child) = (
        action.signal.name(),
        format!("{}[{}]", action.child_exe, action.child),
    );
    let waited = format!("after {:.1} ms", millis::of(action.busy));
    let mut text = match action.outcome {
        Outcome::Sent => format!("{}: sent {signal} to {child} {waited}", name(info)),
        Outcome::WouldSend => format!(
            "{}: would send {signal} to {child} {waited} (observe mode)",
            name(info)
        ),
        Outcome::Refused(refusal) => {
            format!(
                "{}: no {signal} to {child} {waited}: {}: {}",
                name(info),
                refusal.name(),
                refusal.sentence()
            )
        }
        Outcome::Failed => format!("{}: {signal} to {child} failed {waited}", name(info)),
        Outcome::Gone => format!("{}: {child} was gone before {signal} {waited}", name(info)),
        Outcome::Ineffective => format!("{}: {signal} did not end {child}", name(info)),
    };
    if let Some(detail) = &action.detail {
        let _ = write!(text, " ({detail})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_forges_no_line_and_no_escape_code() {
        assert_eq!(printable("a\n\u{1b}[2Jb é"), "a\u{fffd}\u{fffd}[2Jb é");
    }

    #[test]
    fn times_are_rfc3339() {
        let clock = WallClock {
            mono: Mono(5_000_000_000),
            wall: Duration::from_micros(1_709_210_096_789_012),
        };
        assert_eq!(
            clock.rfc3339(Mono(5_000_000_000)),
            "2024-02-29T12:34:56.789012Z"
        );
        assert_eq!(
            clock.rfc3339(Mono(4_000_000_000)),
            "2024-02-29T12:34:55.789012Z"
        );
        assert_eq!(clock.time_of_day(Mono(5_000_000_000)), "12:34:56.789");
    }
}
