use std::sync::Arc;

use super::*;
use crate::pipeline::evidence::{Stack, StackKind};
use crate::pipeline::{
    Cause, CauseKind, ChildCause, EndedBy, Evidence, Frame, IncidentId, LoopId, Mode, NsPid, Pid,
    PidKey, Refusal, Signal, Tid,
};

const NOW: Now = Now {
    mono: Mono(10_000_000_000),
    unix_ns: 1_700_000_000_000_000_000,
};

fn info() -> Arc<LoopInfo> {
    Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(7),
                start_ns: 9,
            },
            tid: Tid(8),
        },
        slot: 0,
        target: "litellm".into(),
        exe: "python3.11".into(),
        poller: "epoll_wait".into(),
        plan: "raw",
        pod: None,
    })
}

fn view() -> StallView {
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
        at: Mono(9_000_000_000),
        busy: Duration::from_millis(600),
        busy_is_lower_bound: false,
        cause: Cause {
            kind: CauseKind::ChildWait,
            syscall: Some("wait4".into()),
            child: Some(child),
            file: Some("postgresql://me:hunter2@db/x".into()),
            ..Cause::default()
        },
        evidence: Some(Arc::new(Evidence {
            stack: Some(Stack {
                kind: StackKind::Python,
                frames: vec![Frame {
                    function: "wait".into(),
                    file: Some("subprocess.py".into()),
                    line: Some(3),
                }],
            }),
            ..Evidence::default()
        })),
        shares: Vec::new(),
    }
}

fn action(outcome: Outcome) -> Notice {
    let action = ActionNotice {
        incident: IncidentId(1),
        at: Mono(9_000_000_000),
        child: Pid(9),
        child_exe: "query-engine".into(),
        signal: Signal::Kill,
        mode: Mode::Enforce,
        busy: Duration::from_millis(500),
        outcome,
        grace: Duration::from_millis(500),
        grace_reason: None,
        detail: Some("https://me:hunter2@host said no".into()),
    };
    Notice::Action {
        info: info(),
        action,
    }
}

fn value(record: &LogRecord, key: &str) -> Option<String> {
    let found = record
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        other => format!("{other:?}"),
    })
}

#[test]
fn a_stall_tells_what_it_is_stuck_on_and_when() {
    let record = record(
        &Notice::StallOpened {
            info: info(),
            view: view(),
        },
        NOW,
    )
    .unwrap();
    assert_eq!(record.event_name, "loopwarden.stall_opened");
    assert_eq!(record.time_unix_nano, NOW.unix_ns - 1_000_000_000);
    assert_eq!(record.severity_number, 13);
    for (key, expected) in [
        ("process.pid", "7"),
        ("thread.id", "8"),
        ("cause", "child_wait"),
        ("loopwarden.busy", "0.6"),
        ("loopwarden.child.executable.name", "query-engine"),
        ("loopwarden.incident", "00000000000000000000000001"),
        ("code.stacktrace", "wait (subprocess.py:3)"),
    ] {
        assert_eq!(value(&record, key).as_deref(), Some(expected), "{key}");
    }
}

#[test]
fn an_end_tells_how() {
    let closed = Notice::StallClosed {
        info: info(),
        view: view(),
        rescued: true,
        ended_by: EndedBy::Poll,
        liveness: None,
    };
    let record = record(&closed, NOW).unwrap();
    assert_eq!(
        (record.event_name.as_str(), record.severity_number),
        ("loopwarden.stall_closed", 9)
    );
    assert_eq!(
        value(&record, "loopwarden.rescued").as_deref(),
        Some("true")
    );
    assert_eq!(
        value(&record, "loopwarden.ended_by").as_deref(),
        Some("poll")
    );
}

#[test]
fn an_action_has_the_severity_of_its_outcome() {
    for (outcome, severity) in [
        (Outcome::Sent, 13),
        (Outcome::WouldSend, 13),
        (Outcome::Refused(Refusal::Budget), 13),
        (Outcome::Failed, 17),
        (Outcome::Ineffective, 17),
        (Outcome::Gone, 9),
    ] {
        let record = record(&action(outcome), NOW).unwrap();
        assert_eq!(record.severity_number, severity, "{outcome:?}");
        assert_eq!(value(&record, "outcome").as_deref(), Some(outcome.name()));
        assert_eq!(
            value(&record, "refused_by").as_deref(),
            outcome.refusal().map(Refusal::name)
        );
    }
}

#[test]
fn loss_is_an_event_and_recognition_is_not() {
    let lost = Notice::Lost {
        at: NOW.mono,
        what: "ring_full".into(),
        count: 3,
    };
    assert_eq!(
        value(&record(&lost, NOW).unwrap(), "loopwarden.count").as_deref(),
        Some("3")
    );
    assert!(
        record(
            &Notice::Loop {
                at: NOW.mono,
                info: info()
            },
            NOW
        )
        .is_none()
    );
}

#[test]
fn no_credential_gets_out() {
    for notice in [
        Notice::StallOpened {
            info: info(),
            view: view(),
        },
        action(Outcome::Failed),
    ] {
        let record = format!("{:?}", record(&notice, NOW).unwrap());
        assert!(!record.contains("hunter2"), "{record}");
    }
    for (text, expected) in [
        ("a://b@c/d e://f:g@h", "a://c/d e://h"),
        ("a://b/c@d", "a://b/c@d"),
        ("me@host", "me@host"),
        ("x://a@b@c", "x://c"),
    ] {
        assert_eq!(without_credentials(text), expected);
    }
}

#[test]
fn a_change_of_the_risk_is_an_event_and_its_going_on_is_not() {
    let notice = |changed| Notice::Risk {
        info: info(),
        risk: RiskView {
            at: Mono(NOW.mono.0),
            level: Level::Imminent,
            changed,
            outlook: Outlook {
                failed_probes: 1,
                to_decision: Some(Duration::from_millis(9500)),
                to_sigkill: Some(Duration::from_millis(39_500)),
                uncertainty: Some(Duration::from_secs(5)),
                sigterm_uncertainty: Some(Duration::from_secs(5)),
                sigkill_uncertainty: Some(Duration::from_secs(7)),
                probes_seen: false,
            },
        },
    };
    assert_eq!(record(&notice(false), NOW), None);
    let told = record(&notice(true), NOW).unwrap();
    assert_eq!(told.event_name, "loopwarden.liveness_risk");
    assert_eq!(told.severity_text, "ERROR");
    for (key, expected) in [
        ("level", "imminent"),
        ("loopwarden.liveness.failed_probes", "1"),
        ("loopwarden.liveness.time_to_sigterm", "9.5"),
        ("loopwarden.liveness.time_to_sigkill", "39.5"),
        ("loopwarden.liveness.uncertainty", "5"),
        ("loopwarden.liveness.sigterm_uncertainty", "5"),
        ("loopwarden.liveness.sigkill_uncertainty", "7"),
        ("loopwarden.liveness.probes_seen", "false"),
    ] {
        assert_eq!(value(&told, key).as_deref(), Some(expected), "{key}");
    }
    let body = format!("{:?}", told.body);
    assert!(
        body.contains("decides to kill in 9.5 s (+/- 5.0 s)"),
        "{body}"
    );
}
