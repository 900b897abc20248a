//! Events of an incident that is over, made from its record in the journal: for a collector that was away at the time.
//!
//! Pure. The same as they would have been then, with the same ids, so that one that had arrived all the same can be recognised.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value;

use super::event;
use crate::export::delivery::Event;
use crate::export::otlp::attribute;
use crate::export::registry::Now;
use crate::pipeline::engines::record::RaceRecord;
use crate::pipeline::engines::{EngineNews, EngineView, News, StartupRace};
use crate::pipeline::record::{Action, IncidentRecord, Who};
use crate::pipeline::stamp::Stamp;
use crate::pipeline::{ActionNotice, LoopId, LoopInfo, Mono, Notice, Outcome, PidKey, StallView};

/// The events of a record: its actions, and its end, which says it all.
#[must_use]
pub fn late(record: &IncidentRecord, now: Now) -> Vec<Event> {
    marked(notices(record), now)
}

/// The event of a startup race.
#[must_use]
pub fn late_race(record: &RaceRecord, now: Now) -> Vec<Event> {
    let race = StartupRace {
        incident: record.incident,
        engine: EngineView {
            pid: record.engine,
            exe: record.exe.clone(),
            generation: record.generation,
        },
        began: Mono(0),
        lasted: record.lasted,
        refused: record.refused,
        port: record.port,
        startup: record.startup,
    };
    let news = News {
        at: Mono(0),
        what: EngineNews::StartupRace(Box::new(race)),
    };
    let info = info(&record.who);
    marked(vec![(record.ended, Notice::Engine { info, news })], now)
}

/// Their events, marked as late.
fn marked(notices: Vec<(Stamp, Notice)>, now: Now) -> Vec<Event> {
    let mut events: Vec<Event> = notices
        .into_iter()
        .filter_map(|(time, notice)| {
            // The notice is of moment 0, and so is `then`.
            let then = Now {
                mono: Mono(0),
                unix_ns: time.0.saturating_mul(1000),
            };
            event(&notice, then)
        })
        .collect();
    for event in &mut events {
        event.record.observed_time_unix_nano = now.unix_ns;
        let late = attribute("loopwarden.late", Value::BoolValue(true));
        event.record.attributes.push(late);
    }
    events
}

/// The notices as they were told, each at moment 0, and when that was.
fn notices(record: &IncidentRecord) -> Vec<(Stamp, Notice)> {
    let Some(end) = record.outcome else {
        return Vec::new();
    };
    let info = info(&record.who);
    let mut notices: Vec<(Stamp, Notice)> = record
        .actions
        .iter()
        .filter_map(|action| {
            let notice = Notice::Action {
                info: info.clone(),
                action: action_notice(record, action)?,
            };
            Some((action.time, notice))
        })
        .collect();
    let whole = end.busy.as_secs_f64().max(1e-9);
    let mixed = record.causes.iter().filter(|_| record.causes.len() > 1);
    let view = StallView {
        incident: record.incident,
        at: Mono(0),
        busy: end.busy,
        busy_is_lower_bound: record.began_earlier,
        cause: record.cause.clone(),
        evidence: record
            .evidence
            .last()
            .map(|capture| Arc::new(capture.found.clone())),
        shares: mixed
            .map(|share| (share.kind, share.lasted.as_secs_f64() / whole))
            .collect(),
    };
    let closed = Notice::StallClosed {
        info,
        view,
        rescued: end.rescued,
        ended_by: end.ended_by,
        liveness: end.liveness,
    };
    notices.push((end.time, closed));
    notices
}

fn action_notice(record: &IncidentRecord, action: &Action) -> Option<ActionNotice> {
    Some(ActionNotice {
        incident: record.incident,
        at: Mono(0),
        child: action.child,
        child_exe: action.exe.clone(),
        signal: action.signal,
        mode: action.mode,
        busy: action.busy,
        outcome: Outcome::from_words(&action.outcome, action.refused_by)?,
        grace: action.grace,
        grace_reason: action.grace_reason,
        detail: action.detail.clone(),
    })
}

fn info(who: &Who) -> Arc<LoopInfo> {
    Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: who.pid,
                start_ns: who.start_ns,
            },
            tid: who.tid,
        },
        slot: 0,
        target: who.target.clone(),
        exe: who.exe.clone(),
        poller: who.poller.clone(),
        plan: "journal",
        pod: who.pod.clone(),
    })
}

#[cfg(test)]
#[path = "late_tests.rs"]
mod tests;
