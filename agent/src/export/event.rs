//! Notices as OTLP log records (events).
//!
//! Pure. Texts come from evidence; a credential in one (an address with user information) is taken out here once more.

use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};

use super::delivery::Event;
use super::engine_news;
use super::otlp::attribute;
use super::registry::Now;
use super::told;
use crate::pipeline::engines::{EngineNews, StartupRace};
use crate::pipeline::liveness::{Level, Outlook, RiskView};
use crate::pipeline::redact::without_credentials;
use crate::pipeline::{ActionNotice, IncidentId, LoopInfo, Mono, Notice, Outcome, StallView};

mod late;

pub use late::{late, late_race};

/// The event of a notice, if it is one that is told so.
#[must_use]
pub fn event(notice: &Notice, now: Now) -> Option<Event> {
    let ends = notice.ends();
    record(notice, now).map(|record| Event { record, ends })
}

/// The record of a notice, if it is one that is told as an event.
#[must_use]
pub fn record(notice: &Notice, now: Now) -> Option<LogRecord> {
    let draft = match notice {
        Notice::StallOpened { info, view } => opened(info, view),
        Notice::StallClosed {
            info,
            view,
            rescued,
            ended_by,
            liveness,
        } => {
            let mut draft = closed(info, view, *rescued, ended_by.name());
            draft.attributes.extend(outlook(liveness.as_ref()));
            draft
        }
        Notice::Risk { info, risk } if risk.changed => at_risk(info, risk),
        Notice::Action { info, action } => acted(info, action),
        Notice::Lost { at, what, count } => Draft {
            name: "loopwarden.lost",
            severity: SeverityNumber::Warn,
            at: *at,
            body: format!("lost: {what}, {count} times"),
            attributes: vec![
                string("loopwarden.what", what),
                int("loopwarden.count", *count),
            ],
        },
        Notice::Engine { info, news } => match &news.what {
            EngineNews::StartupRace(race) => raced(info, race, news.at),
            _ => return None,
        },
        Notice::Loop { .. }
        | Notice::Placed { .. }
        | Notice::StallUpdated { .. }
        | Notice::Risk { .. }
        | Notice::EngineWait { .. }
        | Notice::Episode { .. }
        | Notice::LoopEnded { .. } => return None,
    };
    let ago = now.mono.since(draft.at);
    Some(LogRecord {
        time_unix_nano: now
            .unix_ns
            .saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)),
        observed_time_unix_nano: now.unix_ns,
        severity_number: draft.severity.into(),
        severity_text: match draft.severity {
            SeverityNumber::Error => "ERROR",
            SeverityNumber::Warn => "WARN",
            _ => "INFO",
        }
        .to_owned(),
        body: Some(AnyValue {
            value: Some(Value::StringValue(without_credentials(&draft.body))),
        }),
        attributes: draft.attributes,
        event_name: draft.name.to_owned(),
        ..LogRecord::default()
    })
}

struct Draft {
    name: &'static str,
    severity: SeverityNumber,
    at: Mono,
    body: String,
    attributes: Vec<KeyValue>,
}

fn opened(info: &LoopInfo, view: &StallView) -> Draft {
    let mut attributes = common(info);
    attributes.push(uid(view.incident, "opened"));
    attributes.extend(stall(view));
    Draft {
        name: "loopwarden.stall_opened",
        severity: SeverityNumber::Warn,
        at: view.at,
        body: format!("{} stalls: {}", who(info), view.cause.kind.name()),
        attributes,
    }
}

fn closed(info: &LoopInfo, view: &StallView, rescued: bool, ended_by: &str) -> Draft {
    let mut attributes = common(info);
    attributes.push(uid(view.incident, "closed"));
    attributes.extend(stall(view));
    attributes.push(attribute("loopwarden.rescued", Value::BoolValue(rescued)));
    attributes.push(string("loopwarden.ended_by", ended_by));
    let end = if rescued { "rescued" } else { "over" };
    let millis = view.busy.as_millis();
    Draft {
        name: "loopwarden.stall_closed",
        severity: SeverityNumber::Info,
        at: view.at,
        body: format!(
            "{}: {} {end} after {millis} ms ({ended_by})",
            who(info),
            view.cause.kind.name()
        ),
        attributes,
    }
}

fn acted(info: &LoopInfo, action: &ActionNotice) -> Draft {
    let outcome = action.outcome.name();
    let mut attributes = common(info);
    let (signal, micros) = (action.signal.name(), action.busy.as_micros());
    attributes.push(uid(
        action.incident,
        &format!("{signal}-{outcome}-{micros}"),
    ));
    attributes.extend([
        string("loopwarden.incident", &action.incident.to_string()),
        seconds("loopwarden.busy", action.busy),
        seconds("loopwarden.grace", action.grace),
        int("loopwarden.child.pid", u64::from(action.child.0)),
        string("loopwarden.child.executable.name", &action.child_exe),
        string("signal", action.signal.name()),
        string("mode", action.mode.name()),
        string("outcome", outcome),
    ]);
    let mut body = format!(
        "{}: {} to {} {}: {outcome}",
        who(info),
        action.signal.name(),
        action.child_exe,
        action.child
    );
    if let Some(reason) = action.grace_reason {
        attributes.push(string("loopwarden.grace_reason", reason.name()));
    }
    if let Some(refusal) = action.outcome.refusal() {
        attributes.push(string("refused_by", refusal.name()));
        body = format!("{body}, {}", refusal.sentence());
    }
    if let Some(detail) = &action.detail {
        attributes.push(string("loopwarden.detail", detail));
        body = format!("{body} ({detail})");
    }
    let severity = match action.outcome {
        Outcome::Failed | Outcome::Ineffective => SeverityNumber::Error,
        Outcome::Sent | Outcome::WouldSend | Outcome::Refused(_) => SeverityNumber::Warn,
        Outcome::Gone => SeverityNumber::Info,
    };
    Draft {
        name: "loopwarden.action",
        severity,
        at: action.at,
        body,
        attributes,
    }
}

fn at_risk(info: &LoopInfo, risk: &RiskView) -> Draft {
    let mut attributes = common(info);
    attributes.push(string("level", risk.level.name()));
    attributes.extend(outlook(Some(&risk.outlook)));
    Draft {
        name: "loopwarden.liveness_risk",
        severity: match risk.level {
            Level::None => SeverityNumber::Info,
            Level::Elevated => SeverityNumber::Warn,
            Level::Imminent => SeverityNumber::Error,
        },
        at: risk.at,
        body: format!("{}: {}", who(info), told::risk_text(risk)),
        attributes,
    }
}

fn raced(info: &LoopInfo, race: &StartupRace, at: Mono) -> Draft {
    let engine = &race.engine;
    let mut attributes = common(info);
    attributes.extend([
        uid(race.incident, "startup_race"),
        string("loopwarden.incident", &race.incident.to_string()),
        int("loopwarden.engine.pid", u64::from(engine.pid.0)),
        string("loopwarden.engine.executable.name", &engine.exe),
        int("loopwarden.engine.generation", u64::from(engine.generation)),
        int("loopwarden.refused", race.refused),
        seconds("loopwarden.lasted", race.lasted),
        attribute(
            "loopwarden.engine.listens",
            Value::BoolValue(race.port.is_some()),
        ),
    ]);
    if let Some(startup) = race.startup {
        attributes.push(seconds("loopwarden.engine.startup", startup));
    }
    Draft {
        name: "loopwarden.startup_race",
        severity: SeverityNumber::Warn,
        at,
        body: format!("{}: {}", who(info), engine_news::race_text(race)),
        attributes,
    }
}

fn outlook(liveness: Option<&Outlook>) -> Vec<KeyValue> {
    let Some(liveness) = liveness else {
        return Vec::new();
    };
    let mut attributes = vec![
        int(
            "loopwarden.liveness.failed_probes",
            u64::from(liveness.failed_probes),
        ),
        attribute(
            "loopwarden.liveness.probes_seen",
            Value::BoolValue(liveness.probes_seen),
        ),
    ];
    let spans = [
        ("loopwarden.liveness.time_to_sigterm", liveness.to_decision),
        ("loopwarden.liveness.time_to_sigkill", liveness.to_sigkill),
        ("loopwarden.liveness.uncertainty", liveness.uncertainty),
        (
            "loopwarden.liveness.sigterm_uncertainty",
            liveness.sigterm_uncertainty,
        ),
        (
            "loopwarden.liveness.sigkill_uncertainty",
            liveness.sigkill_uncertainty,
        ),
    ];
    let known = spans
        .into_iter()
        .filter_map(|(name, span)| Some((name, span?)));
    attributes.extend(known.map(|(name, span)| seconds(name, span)));
    attributes
}

fn common(info: &LoopInfo) -> Vec<KeyValue> {
    let mut attributes = vec![
        string("loopwarden.target", &info.target),
        string("process.executable.name", &info.exe),
        int("process.pid", u64::from(info.id.process.pid.0)),
        int("thread.id", u64::from(info.id.tid.0)),
    ];
    if let Some(pod) = &info.pod {
        attributes.push(string("k8s.namespace.name", &pod.namespace));
        attributes.push(string("k8s.pod.name", &pod.name));
        attributes.push(string("k8s.pod.uid", &pod.uid));
        let container = pod.container.as_ref();
        attributes.extend(container.map(|name| string("k8s.container.name", name)));
    }
    attributes
}

fn stall(view: &StallView) -> Vec<KeyValue> {
    let cause = &view.cause;
    let mut attributes = vec![
        string("loopwarden.incident", &view.incident.to_string()),
        seconds("loopwarden.busy", view.busy),
        attribute(
            "loopwarden.busy_is_lower_bound",
            Value::BoolValue(view.busy_is_lower_bound),
        ),
        string("cause", cause.kind.name()),
    ];
    let texts = [
        ("loopwarden.syscall", &cause.syscall),
        ("loopwarden.peer", &cause.peer),
        ("loopwarden.file", &cause.file),
        ("loopwarden.holder.executable.name", &cause.holder_exe),
        ("loopwarden.socket.protocol", &cause.protocol),
        ("loopwarden.socket.state", &cause.socket_state),
        ("loopwarden.kernel_function", &cause.kernel_function),
    ];
    attributes.extend(
        texts
            .into_iter()
            .filter_map(|(key, text)| Some(string(key, text.as_ref()?))),
    );
    if let Some(pid) = cause.holder_pid {
        attributes.push(int("loopwarden.holder.pid", u64::from(pid.0)));
    }
    if cause.dns {
        attributes.push(attribute("loopwarden.dns", Value::BoolValue(true)));
    }
    if let Some(by) = cause.starved_by {
        attributes.push(string("loopwarden.starved_by", by.name()));
    }
    if let Some(by) = cause.stopped_by {
        attributes.push(string("loopwarden.stopped_by", by.name()));
    }
    for (kind, part) in &view.shares {
        attributes.push(attribute(
            &format!("loopwarden.share.{}", kind.name()),
            Value::DoubleValue(*part),
        ));
    }
    if let Some(child) = &cause.child {
        if let Some(why) = told::why_wedged(view) {
            attributes.push(string("loopwarden.child.wedged", &why));
        }
        if let Some(signalled) = &child.signalled {
            attributes.push(string("loopwarden.child.signal", &signalled.signal));
            attributes.push(int("loopwarden.child.signalled_by", signalled.by.0.into()));
        }
        attributes.push(int("loopwarden.child.pid", u64::from(child.pid.0)));
        attributes.push(string("loopwarden.child.executable.name", &child.exe));
        attributes.push(string("loopwarden.child.state", &child.state));
    }
    let stack = view
        .evidence
        .as_ref()
        .and_then(|found| found.stack.as_ref());
    if let Some(stack) = stack {
        let lines: Vec<String> = stack
            .frames
            .iter()
            .map(|frame| match (&frame.file, frame.line) {
                (Some(file), Some(line)) => format!("{} ({file}:{line})", frame.function),
                (Some(file), None) => format!("{} ({file})", frame.function),
                _ => frame.function.clone(),
            })
            .collect();
        attributes.push(string("code.stacktrace", &lines.join("\n")));
    }
    attributes
}

/// The id by which a log record that comes twice is recognised, as OpenTelemetry names it.
fn uid(incident: IncidentId, what: &str) -> KeyValue {
    string("log.record.uid", &format!("{incident}-{what}"))
}

fn who(info: &LoopInfo) -> String {
    let place = info
        .pod
        .as_ref()
        .map_or_else(String::new, |pod| format!(" in pod {pod}"));
    format!(
        "{} {} ({}){place}",
        info.exe, info.id.process.pid, info.target
    )
}

fn string(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(without_credentials(value)))
}

fn int(key: &str, value: u64) -> KeyValue {
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

fn seconds(key: &str, value: Duration) -> KeyValue {
    attribute(key, Value::DoubleValue(value.as_secs_f64()))
}

#[cfg(test)]
mod tests;
