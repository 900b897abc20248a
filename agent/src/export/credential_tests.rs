//! A credential planted in every text that watched processes choose: none is in a line, an event or the journal.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::event::record as event_record;
use super::journal::encoded;
use super::lines::{Lines, WallClock};
use super::registry::Now;
use crate::pipeline::collect::{Collector, Step};
use crate::pipeline::evidence::{
    ChildDetail, Details, Holder, Missing, SocketDetail, Stack, StackKind,
};
use crate::pipeline::record::InForce;
use crate::pipeline::stamp::{Stamp, Tied};
use crate::pipeline::{
    ActionNotice, Cause, CauseKind, ChildCause, EndedBy, Evidence, Frame, IncidentId, LoopId,
    LoopInfo, LoopTotals, Mode, Mono, Notice, NsPid, Outcome, Pid, PidKey, Refusal, Signal,
    Signalled, StallView, Tid,
};

const SECRET: &str = "hunter2";
const NOW: Mono = Mono(10_000_000_000);

fn planted(what: &str) -> String {
    format!("postgres://{what}:{SECRET}@db/{what}.py")
}

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
        target: planted("target"),
        exe: planted("exe"),
        poller: planted("poller"),
        plan: "fentry",
        pod: None,
    })
}

fn frames() -> Stack {
    let frame = |function: String, file: Option<String>, line| Frame {
        function,
        file,
        line,
    };
    Stack {
        kind: StackKind::Python,
        frames: vec![
            frame("f".into(), Some(planted("file")), Some(3)),
            frame(planted("function"), None, None),
            // Short enough that its end alone would show the password without its scheme.
            frame("g".into(), Some(format!("x://u:{SECRET}@db")), None),
        ],
    }
}

fn socket() -> SocketDetail {
    SocketDetail {
        protocol: "unix".into(),
        peer: Some(planted("socket")),
        state: Some("FIN_WAIT1".into()),
        unacknowledged_bytes: Some(1),
    }
}

fn evidence() -> Evidence {
    Evidence {
        details: Details {
            socket: Some(socket()),
            file: Some(planted("details")),
            holder: Some(Holder {
                pid: Pid(3),
                tid: None,
                exe: planted("holder"),
            }),
        },
        stack: Some(frames()),
        holder_stack: Some(frames()),
        child: Some(ChildDetail {
            pid: Pid(9),
            exe: planted("detail"),
            state: "sleeping".into(),
            kernel_function: Some(planted("kernel")),
            sockets: vec![socket()],
            ..ChildDetail::default()
        }),
        missing: vec![Missing {
            what: "stack".into(),
            why: format!("cannot read {}", planted("why")),
        }],
        ..Evidence::default()
    }
}

fn view() -> StallView {
    StallView {
        incident: IncidentId(1),
        at: NOW,
        busy: Duration::from_millis(600),
        busy_is_lower_bound: false,
        cause: Cause {
            kind: CauseKind::ChildWait,
            syscall: Some("wait4".into()),
            peer: Some(planted("peer")),
            file: Some(planted("path")),
            holder_pid: Some(Pid(3)),
            holder_exe: Some(planted("holder")),
            kernel_function: Some(planted("kernel")),
            child: Some(ChildCause {
                pid: Pid(9),
                ns_pid: NsPid(9),
                exe: planted("child"),
                state: "sleeping".into(),
                told_to_end_ms_ago: Some(1.0),
                signalled: Some(Signalled {
                    by: Pid(7),
                    by_exe: planted("by"),
                    signal: "SIGINT".into(),
                    ms_ago: 1.0,
                }),
            }),
            ..Cause::default()
        },
        evidence: Some(Arc::new(evidence())),
        shares: Vec::new(),
    }
}

fn action(outcome: Outcome) -> Notice {
    Notice::Action {
        info: info(),
        action: ActionNotice {
            incident: IncidentId(1),
            at: NOW,
            child: Pid(9),
            child_exe: planted("child"),
            signal: Signal::Kill,
            mode: Mode::Enforce,
            busy: Duration::from_millis(500),
            outcome,
            grace: Duration::from_millis(500),
            grace_reason: None,
            detail: Some(format!("{} said no", planted("call"))),
        },
    }
}

fn notices() -> Vec<Notice> {
    vec![
        Notice::Loop {
            at: NOW,
            info: info(),
        },
        Notice::StallOpened {
            info: info(),
            view: view(),
        },
        Notice::StallUpdated {
            info: info(),
            view: view(),
        },
        action(Outcome::Refused(Refusal::Budget)),
        action(Outcome::Failed),
        Notice::Lost {
            at: NOW,
            what: planted("lost"),
            count: 1,
        },
        Notice::StallClosed {
            info: info(),
            view: view(),
            rescued: false,
            ended_by: EndedBy::Poll,
            liveness: None,
        },
        Notice::LoopEnded {
            at: NOW,
            info: info(),
            totals: LoopTotals::default(),
            ended_by: EndedBy::Exit,
        },
    ]
}

#[test]
fn no_credential_is_in_a_line_for_programs() {
    let (lines, clock) = (Lines::default(), WallClock::tie(NOW, UNIX_EPOCH));
    for notice in notices() {
        let line = lines.json(&notice, clock).unwrap().to_string();
        assert!(!line.contains(SECRET), "{line}");
    }
    // What is no credential stays.
    let opened = lines.json(&notices()[1], clock).unwrap();
    let file = opened.pointer("/stack/0/file").unwrap();
    assert_eq!(file, "postgres://db/file.py");
}

#[test]
fn no_credential_is_in_a_line_for_people() {
    let (lines, clock) = (Lines::default(), WallClock::tie(NOW, UNIX_EPOCH));
    for notice in notices() {
        let line = lines.text(&notice, clock).unwrap();
        assert!(!line.contains(SECRET), "{line}");
    }
    let opened = lines.text(&notices()[1], clock).unwrap();
    assert!(opened.contains("f (/db/file.py:3)"), "{opened}");
}

#[test]
fn no_credential_is_in_an_event() {
    let now = Now {
        mono: NOW,
        unix_ns: 1_700_000_000_000_000_000,
    };
    let events: Vec<String> = notices()
        .iter()
        .filter_map(|notice| event_record(notice, now))
        .map(|record| format!("{record:?}"))
        .collect();
    assert_eq!(events.len(), 5);
    for event in events {
        assert!(!event.contains(SECRET), "{event}");
    }
}

#[test]
fn no_credential_is_in_the_journal() {
    let clock = Tied {
        mono: NOW,
        wall: Stamp(1_700_000_000_000_000),
    };
    let mut collector = Collector::new(IncidentId(2));
    let mut closed = None;
    for notice in notices() {
        if let Step::Closed(record) = collector.take(&notice, clock, |_| InForce::default()) {
            closed = Some(record);
        }
    }
    let record = closed.expect("the incident ended");
    assert!(serde_json::to_string(&record).unwrap().contains(SECRET));
    let line = encoded(&record);
    assert!(line.contains("postgres://db/file.py"), "{line}");
    assert!(!line.contains(SECRET), "{line}");
}
