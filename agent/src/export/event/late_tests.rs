use std::time::Duration;

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::*;
use crate::pipeline::collect::{Collector, Step};
use crate::pipeline::record::InForce;
use crate::pipeline::stamp::Tied;
use crate::pipeline::{
    Cause, CauseKind, ChildCause, EndedBy, IncidentId, Mode, NsPid, Pid, Refusal, Signal, Tid,
};

const NOW: Now = Now {
    mono: Mono(10_000_000_000),
    unix_ns: 1_700_000_000_000_000_000,
};

fn loop_info() -> Arc<LoopInfo> {
    Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(7),
                start_ns: 9,
            },
            tid: Tid(8),
        },
        slot: 3,
        target: "litellm".into(),
        exe: "python3.11".into(),
        poller: "epoll_wait".into(),
        plan: "fentry",
        pod: None,
    })
}

fn view(ago_ms: u64, busy_us: u64) -> StallView {
    let child = ChildCause {
        pid: Pid(9),
        ns_pid: NsPid(9),
        exe: "query-engine".into(),
        state: "sleeping".into(),
        told_to_end_ms_ago: None,
        signalled: None,
    };
    StallView {
        incident: IncidentId(1),
        at: Mono(NOW.mono.0 - ago_ms * 1_000_000),
        busy: Duration::from_micros(busy_us),
        busy_is_lower_bound: true,
        cause: Cause {
            kind: CauseKind::ChildWait,
            syscall: Some("wait4".into()),
            child: Some(child),
            ..Cause::default()
        },
        evidence: None,
        shares: Vec::new(),
    }
}

fn action(outcome: Outcome, busy_us: u64) -> Notice {
    Notice::Action {
        info: loop_info(),
        action: ActionNotice {
            incident: IncidentId(1),
            at: Mono(NOW.mono.0 - 50_000_000),
            child: Pid(9),
            child_exe: "query-engine".into(),
            signal: Signal::Kill,
            mode: Mode::Enforce,
            busy: Duration::from_micros(busy_us),
            outcome,
            grace: Duration::from_millis(500),
            grace_reason: None,
            detail: Some("why".into()),
        },
    }
}

/// As they are told, and the record of it all after its way through a file.
fn told() -> (Vec<Notice>, IncidentRecord) {
    let info = loop_info();
    let notices = vec![
        Notice::StallOpened {
            info: info.clone(),
            view: view(500, 100_001),
        },
        action(Outcome::Refused(Refusal::Budget), 500_123),
        action(Outcome::Sent, 550_777),
        Notice::StallClosed {
            info,
            view: view(0, 600_001),
            rescued: true,
            ended_by: EndedBy::Poll,
            liveness: None,
        },
    ];
    let clock = Tied {
        mono: NOW.mono,
        wall: Stamp(NOW.unix_ns / 1000),
    };
    let mut collector = Collector::new(IncidentId(2));
    let mut last = Step::Nothing;
    for notice in &notices {
        last = collector.take(notice, clock, |_| InForce::default());
    }
    let Step::Closed(record) = last else {
        panic!("{last:?}");
    };
    let line = serde_json::to_string(&record).unwrap();
    (notices, serde_json::from_str(&line).unwrap())
}

fn attributes(record: &LogRecord) -> Vec<String> {
    let mut texts: Vec<String> = record
        .attributes
        .iter()
        .map(|attribute| format!("{attribute:?}"))
        .collect();
    texts.sort();
    texts
}

#[test]
fn a_late_event_is_the_one_that_was_missed() {
    let (notices, record) = told();
    let later = Now {
        mono: Mono(5),
        unix_ns: NOW.unix_ns + 3_600_000_000_000,
    };
    let late = late(&record, later);
    // The opening is in the end.
    let missed: Vec<Event> = notices[1..]
        .iter()
        .filter_map(|notice| event(notice, NOW))
        .collect();
    assert_eq!(late.len(), missed.len());
    for (late, missed) in late.iter().zip(&missed) {
        assert_eq!(late.ends, missed.ends);
        let (is, was) = (&late.record, &missed.record);
        assert_eq!(
            (&is.event_name, &is.body, is.severity_number),
            (&was.event_name, &was.body, was.severity_number)
        );
        assert_eq!(is.time_unix_nano, was.time_unix_nano);
        assert_eq!(is.observed_time_unix_nano, later.unix_ns);
        let mut expected = was.clone();
        expected
            .attributes
            .push(attribute("loopwarden.late", Value::BoolValue(true)));
        assert_eq!(attributes(is), attributes(&expected));
    }
    assert_eq!(late.last().unwrap().ends, Some(IncidentId(1)));
}

#[test]
fn a_late_startup_race_is_the_one_that_was_missed() {
    let race = StartupRace {
        incident: IncidentId(5),
        engine: EngineView {
            pid: Pid(9),
            exe: "query-engine".into(),
            generation: 2,
        },
        began: Mono(3_000_000_000),
        lasted: Duration::from_secs(5),
        refused: 312,
        port: Some(4466),
        startup: Some(Duration::from_secs(4)),
    };
    let info = loop_info();
    let clock = Tied {
        mono: NOW.mono,
        wall: Stamp(NOW.unix_ns / 1000),
    };
    let at = Mono(8_000_000_000);
    let record = RaceRecord::new(IncidentId(2), &info, &race, at, clock);
    let what = EngineNews::StartupRace(Box::new(race));
    let news = News { at, what };
    let missed = event(&Notice::Engine { info, news }, NOW).unwrap();
    assert_eq!(missed.ends, Some(IncidentId(5)));
    let [late] = &late_race(&record, NOW)[..] else {
        panic!("one event is expected");
    };
    assert_eq!(late.ends, missed.ends);
    assert_eq!(late.record.time_unix_nano, missed.record.time_unix_nano);
    assert_eq!(late.record.body, missed.record.body);
    let mut expected = missed.record;
    let mark = attribute("loopwarden.late", Value::BoolValue(true));
    expected.attributes.push(mark);
    assert_eq!(attributes(&late.record), attributes(&expected));
}

#[test]
fn an_incident_that_lasts_has_no_late_events() {
    let (_, mut record) = told();
    record.outcome = None;
    assert_eq!(late(&record, NOW), []);
}

#[test]
fn no_two_events_of_an_incident_have_the_same_id() {
    let (notices, _) = told();
    let ids: std::collections::BTreeSet<String> = notices
        .iter()
        .filter_map(|notice| event(notice, NOW))
        .flat_map(|event| event.record.attributes)
        .filter(|attribute| attribute.key == "log.record.uid")
        .map(|attribute| format!("{:?}", attribute.value))
        .collect();
    assert_eq!(ids.len(), notices.len());
}
