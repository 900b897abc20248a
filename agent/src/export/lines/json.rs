//! Lines for programs: one JSON object each, a contract (`docs/lines.md`).

use serde_json::{Map, Value, json};

use super::{Lines, WallClock, quantile};
use crate::export::clean::clean;
use crate::export::{engine_news, told};
use crate::pipeline::liveness::Outlook;
use crate::pipeline::stamp::millis;
use crate::pipeline::{ActionNotice, LoopInfo, LoopTotals, Mono, Notice, Pid, StallView};

impl Lines {
    /// The notice as a JSON object; `None` for those that have no line. A loop's end is its summary.
    #[must_use]
    pub fn json(&self, notice: &Notice, clock: WallClock) -> Option<Value> {
        let mut line = self.object(notice, clock)?;
        clean(&mut line, usize::MAX);
        Some(line)
    }

    fn object(&self, notice: &Notice, clock: WallClock) -> Option<Value> {
        Some(match notice {
            Notice::Loop { at, info } => Value::Object(loop_line(*at, info, clock)),
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
                let mut line = closed(info, view, liveness.as_ref(), clock);
                line.insert("rescued".into(), json!(rescued));
                line.insert("ended_by".into(), json!(ended_by));
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
        let quantile = |q| quantile(totals, q);
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

fn loop_line(at: Mono, info: &LoopInfo, clock: WallClock) -> Map<String, Value> {
    let mut line = head("loop", at, info, clock);
    line.insert("exe".into(), json!(info.exe));
    line.insert("poller".into(), json!(info.poller));
    line.insert("plan".into(), json!(info.plan));
    if let Some(pod) = &info.pod {
        line.insert("pod".into(), json!(pod));
    }
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

fn closed(
    info: &LoopInfo,
    view: &StallView,
    liveness: Option<&Outlook>,
    clock: WallClock,
) -> Map<String, Value> {
    let mut line = stall("stall_closed", info, view, clock);
    if !view.shares.is_empty() {
        line.insert("shares".into(), told::shares(view));
    }
    if let Some(outlook) = liveness {
        line.insert("liveness".into(), Value::Object(told::liveness(outlook)));
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
