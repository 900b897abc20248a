//! The result as one JSON object, described in `docs/replay.md`.

use serde_json::{Value, json};

use super::read::Found;
use crate::pipeline::replay::{Action, Blocked, Incident, Lag, Replayed, Report, Side, Totals};
use crate::pipeline::stamp::millis;

pub(super) fn object(found: &Found, report: &Report, configuration: &str) -> Value {
    let (old, new) = Totals::of(&report.incidents);
    let replayed = report.incidents.iter();
    let incidents: Vec<Value> = replayed
        .filter_map(|replayed| Some(incident(found.incidents.get(replayed.index)?, replayed)))
        .collect();
    let skipped = found.skipped.iter();
    let skipped: Vec<Value> = skipped
        .map(|(place, why)| json!({"where": place, "why": why}))
        .collect();
    json!({
        "type": "replay",
        "configuration": configuration,
        "incidents": incidents,
        "totals": {
            "incidents": report.incidents.len(),
            "not_replayable": report.incidents.iter().filter(|one| one.new.is_none()).count(),
            "recorded": totals(&old),
            "replayed": totals(&new),
        },
        "self_check": {
            "same": report.check.same,
            "of": report.check.of,
            "differing": report.check.differing,
            "largest_shift_ms": millis::of(report.check.largest_shift),
        },
        "lags": {"exit": lag(&report.lags.exit), "poll": lag(&report.lags.poll)},
        "gaps": report.gaps,
        "skipped": skipped,
        "skipped_count": found.skipped_count,
    })
}

fn incident(incident: &Incident, replayed: &Replayed) -> Value {
    json!({
        "incident": incident.id,
        "time": incident.began,
        "pid": incident.pid,
        "exe": incident.exe,
        "target": incident.target,
        "cause": incident.cause,
        "ended_by": incident.ended_by.name(),
        "recorded": side(incident, &replayed.old),
        "replayed": replayed.new.as_ref().map(|new| side(incident, new)),
        "notes": replayed.notes,
    })
}

fn side(incident: &Incident, side: &Side) -> Value {
    let actions: Vec<Value> = side
        .actions
        .iter()
        .map(|one| action(incident, one))
        .collect();
    json!({
        "reported": side.reported,
        "actions": actions,
        "blocked_ms": blocked(&side.blocked),
    })
}

fn action(incident: &Incident, action: &Action) -> Value {
    let mut value = json!({
        "busy_ms": millis::of(action.at.since(incident.since)),
        "signal": action.signal,
        "outcome": action.outcome,
    });
    if action.child.0 != 0 {
        value["child"] = json!(action.child);
    }
    if let Some(refusal) = action.refused_by {
        value["refused_by"] = json!(refusal);
    }
    value
}

fn blocked(blocked: &Blocked) -> Value {
    let mut value = json!({
        "at_least": millis::of(blocked.at_least),
        "basis": blocked.basis,
    });
    if let Some(at_most) = blocked.at_most {
        value["at_most"] = json!(millis::of(at_most));
    }
    value
}

fn totals(totals: &Totals) -> Value {
    json!({
        "stalls": totals.stalls,
        "sent": totals.sent,
        "would_send": totals.would_send,
        "refused": totals.refused,
        "blocked_ms": blocked(&totals.blocked),
    })
}

fn lag(lag: &Lag) -> Value {
    json!({"ms": millis::of(lag.span), "measured": lag.measured})
}
