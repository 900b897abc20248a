use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::pipeline::evidence::{Details, Missing, SocketDetail, Stack, StackKind};
use crate::pipeline::record::EngineInForce;
use crate::pipeline::stamp::Stamp;
use crate::pipeline::{
    Cause, ChildCause, Frame, LoopId, Mode, NsPid, Outcome, Pid, PidKey, Refusal, Signal, Tid,
};

const RUN: IncidentId = IncidentId(7);
const INCIDENT: IncidentId = IncidentId(1);
const CLOCK: Tied = Tied {
    mono: Mono(1_000_000_000_000),
    wall: Stamp(1_709_210_096_000_000),
};

fn info() -> Arc<LoopInfo> {
    Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(42),
                start_ns: 9_123,
            },
            tid: Tid(42),
        },
        slot: 0,
        target: "litellm".into(),
        exe: "python3.11".into(),
        poller: "epoll_wait".into(),
        plan: "fentry",
        pod: None,
    })
}

fn in_force(info: &LoopInfo) -> InForce {
    assert_eq!(info.target, "litellm");
    InForce {
        mode: Mode::Enforce,
        stall_after: Duration::from_millis(100),
        engine: Some(EngineInForce {
            grace: Duration::from_micros(500_250),
            unknown_grace: Duration::from_secs(10),
            untold_grace: None,
            through_wrapper: false,
            max_kills: 20,
            max_kills_per: Duration::from_mins(10),
        }),
        pause: Duration::from_secs(1),
        node_kills: 200,
        node_kills_per: Duration::from_mins(1),
    }
}

fn at(ms: u64) -> Mono {
    CLOCK.mono.plus(Duration::from_millis(ms))
}

fn cause(kind: CauseKind) -> Cause {
    Cause {
        kind,
        syscall: Some("wait4".into()),
        child: Some(ChildCause {
            pid: Pid(99),
            ns_pid: NsPid(12),
            exe: "query-engine".into(),
            state: "sleeping".into(),
            told_to_end_ms_ago: Some(1.5),
            signalled: None,
        }),
        ..Cause::default()
    }
}

fn view(ms: u64, kind: CauseKind, evidence: Option<Evidence>) -> StallView {
    StallView {
        incident: INCIDENT,
        at: at(ms),
        busy: Duration::from_millis(ms),
        busy_is_lower_bound: false,
        cause: cause(kind),
        shares: Vec::new(),
        evidence: evidence.map(Arc::new),
    }
}

fn evidence(line: u32) -> Evidence {
    Evidence {
        asked: at(100),
        took: Duration::from_millis(3),
        details: Details {
            socket: Some(SocketDetail {
                protocol: "tcp".into(),
                peer: Some("10.0.0.5:5432".into()),
                state: Some("CLOSING".into()),
                unacknowledged_bytes: Some(17),
            }),
            ..Details::default()
        },
        stack: Some(Stack {
            kind: StackKind::Python,
            frames: vec![Frame {
                function: "wait".into(),
                file: Some("subprocess.py".into()),
                line: Some(line),
            }],
        }),
        missing: vec![Missing {
            what: "holder".into(),
            why: "not shown".into(),
        }],
        ..Evidence::default()
    }
}

fn action(ms: u64, outcome: Outcome) -> Notice {
    Notice::Action {
        info: info(),
        action: ActionNotice {
            incident: INCIDENT,
            at: at(ms),
            child: Pid(99),
            child_exe: "query-engine".into(),
            signal: Signal::Kill,
            mode: Mode::Enforce,
            busy: Duration::from_millis(ms),
            outcome,
            grace: Duration::from_millis(500),
            grace_reason: None,
            detail: None,
        },
    }
}

fn opened(ms: u64, kind: CauseKind) -> Notice {
    Notice::StallOpened {
        info: info(),
        view: view(ms, kind, None),
    }
}

fn updated(ms: u64, kind: CauseKind, evidence: Option<Evidence>) -> Notice {
    Notice::StallUpdated {
        info: info(),
        view: view(ms, kind, evidence),
    }
}

fn closed(ms: u64, kind: CauseKind) -> Notice {
    Notice::StallClosed {
        info: info(),
        view: view(ms, kind, None),
        rescued: true,
        ended_by: EndedBy::Poll,
        liveness: None,
    }
}

fn collect(notices: &[Notice]) -> IncidentRecord {
    let mut collector = Collector::new(RUN);
    for notice in notices {
        if let Step::Closed(record) = collector.take(notice, CLOCK, in_force) {
            assert_eq!(collector.open(), 0);
            return *record;
        }
    }
    panic!("no record")
}

#[test]
fn a_record_tells_the_whole_story_and_reads_back_the_same() {
    let record = collect(&[
        opened(100, CauseKind::Unknown),
        updated(120, CauseKind::ChildWait, None),
        updated(140, CauseKind::ChildWait, Some(evidence(7))),
        action(300, Outcome::Refused(Refusal::Paused)),
        action(500, Outcome::Sent),
        closed(520, CauseKind::ChildWait),
    ]);
    let lasted = |kind, ms| Share {
        kind,
        lasted: Duration::from_millis(ms),
    };
    assert_eq!(
        record.causes,
        [
            lasted(CauseKind::ChildWait, 400),
            lasted(CauseKind::Unknown, 120)
        ]
    );
    let told: Vec<(u128, &str)> = record
        .timeline
        .iter()
        .map(|entry| {
            let word = match entry.what {
                What::Opened { .. } => "opened",
                What::Cause { .. } => "cause",
                What::Evidence { .. } => "evidence",
                What::Action { .. } => "action",
                What::Closed => "closed",
            };
            (entry.busy.as_millis(), word)
        })
        .collect();
    assert_eq!(
        told,
        [
            (100, "opened"),
            (120, "cause"),
            (140, "evidence"),
            (300, "action"),
            (500, "action"),
            (520, "closed")
        ]
    );
    assert_eq!(record.began, CLOCK.wall);
    assert_eq!(record.busy(), Duration::from_millis(520));
    assert_eq!(record.actions[0].refused_by, Some(Refusal::Paused));
    assert_eq!(record.actions[1].outcome, "sent");
    assert!(record.outcome.is_some_and(|end| end.rescued));
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(
        serde_json::from_str::<IncidentRecord>(&text).unwrap(),
        record
    );
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    let record = collect(&[opened(100, CauseKind::Sleep), closed(200, CauseKind::Sleep)]);
    let mut value = serde_json::to_value(&record).unwrap();
    value["later"] = serde_json::json!({"a": [1]});
    value["who"]["later"] = "web-1".into();
    value["settings"]["engine"]["later"] = 5.into();
    assert_eq!(
        serde_json::from_value::<IncidentRecord>(value).unwrap(),
        record
    );
}

#[test]
fn an_open_record_shows_what_is_known_so_far() {
    let mut collector = Collector::new(RUN);
    let step = collector.take(&opened(100, CauseKind::Unknown), CLOCK, in_force);
    let progress = |acted| Step::Progress {
        incident: INCIDENT,
        acted,
    };
    assert_eq!(step, progress(false));
    collector.take(&updated(150, CauseKind::ChildWait, None), CLOCK, in_force);
    assert_eq!(
        collector.take(&action(500, Outcome::Sent), CLOCK, in_force),
        progress(true)
    );
    let record = collector.record(INCIDENT).unwrap();
    assert_eq!(
        (record.state, record.outcome, record.actions.len()),
        (State::Open, None, 1)
    );
    assert_eq!(record.cause.kind, CauseKind::ChildWait);
    assert_eq!(record.busy(), Duration::from_millis(500));
}

#[test]
fn a_stall_that_changes_its_mind_for_hours_stays_small() {
    let mut notices = vec![opened(100, CauseKind::ChildWait)];
    for turn in 0..5000u32 {
        let kind = CauseKind::ALL[usize::try_from(turn % 2).unwrap()];
        let ms = 200 + 100 * u64::from(turn);
        notices.push(updated(ms, kind, Some(evidence(turn))));
        notices.push(action(ms, Outcome::Refused(Refusal::Budget)));
    }
    notices.push(closed(600_000, CauseKind::ChildWait));
    let record = collect(&notices);
    assert_eq!(
        (
            record.timeline.len(),
            record.evidence.len(),
            record.actions.len()
        ),
        (TIMELINE, CAPTURES, ACTIONS)
    );
    assert!(record.timeline_left_out > 4000);
    assert!(matches!(record.timeline[0].what, What::Opened { .. }));
    assert!(matches!(
        record.timeline.last().map(|entry| &entry.what),
        Some(What::Closed)
    ));
    let newest = record.newest(|found| found.stack.as_ref()).unwrap().1;
    assert_eq!(newest.frames[0].line, Some(4999));
    let whole: Duration = record.causes.iter().map(|share| share.lasted).sum();
    assert_eq!(whole, Duration::from_mins(10));
}

#[test]
fn what_was_not_seen_to_open_is_not_made_up() {
    let mut collector = Collector::new(RUN);
    for notice in [
        updated(150, CauseKind::ChildWait, None),
        action(500, Outcome::Sent),
        closed(520, CauseKind::ChildWait),
    ] {
        assert_eq!(collector.take(&notice, CLOCK, in_force), Step::Nothing);
    }
}
