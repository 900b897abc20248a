//! Records for the tests of this folder.

use std::time::Duration;

use crate::pipeline::engines::record::RaceRecord;
use crate::pipeline::evidence::{Stack, StackKind};
use crate::pipeline::record::{
    Action, Capture, End, Entry, InForce, IncidentRecord, State, VERSION, What, Who,
};
use crate::pipeline::stamp::Stamp;
use crate::pipeline::{
    Cause, CauseKind, EndedBy, Evidence, Frame, IncidentId, Mode, Mono, Pid, Signal, Tid,
};

pub(super) const RUN: IncidentId = IncidentId(7);

/// A finished record of this length, stuck in `line` of a file.
pub(super) fn record(incident: u128, busy: Duration, line: u32) -> IncidentRecord {
    let time = Stamp(1_709_210_096_000_000);
    let end = End {
        time,
        busy,
        rescued: false,
        ended_by: EndedBy::Poll,
        liveness: None,
    };
    let cause = Cause {
        kind: CauseKind::Sleep,
        syscall: Some("clock_nanosleep".into()),
        ..Cause::default()
    };
    let stack = Stack {
        kind: StackKind::Python,
        frames: vec![Frame {
            function: "nap".into(),
            file: Some("app.py".into()),
            line: Some(line),
        }],
    };
    IncidentRecord {
        v: VERSION,
        incident: IncidentId(incident),
        run: RUN,
        state: State::Closed,
        who: Who {
            pod: None,
            target: "web".into(),
            exe: "python3.11".into(),
            pid: Pid(42),
            tid: Tid(42),
            start_ns: 9,
            poller: "epoll_wait".into(),
            plan: "fentry".into(),
        },
        began: time.minus(busy),
        began_mono_ns: Mono(5),
        opened: time,
        began_earlier: false,
        settings: InForce::default(),
        cause: cause.clone(),
        causes: Vec::new(),
        timeline: vec![Entry {
            time,
            busy,
            what: What::Opened { cause },
        }],
        timeline_left_out: 0,
        evidence: vec![Capture {
            time,
            kind: CauseKind::Sleep,
            found: Evidence {
                stack: Some(stack),
                ..Evidence::default()
            },
        }],
        actions: Vec::new(),
        episodes: Vec::new(),
        outcome: Some(end),
        cut: Vec::new(),
    }
}

/// The same while it lasts.
pub(super) fn open(incident: u128) -> IncidentRecord {
    IncidentRecord {
        state: State::Open,
        outcome: None,
        ..record(incident, Duration::from_millis(150), 1)
    }
}

pub(super) fn action() -> Action {
    Action {
        time: Stamp(1_709_210_096_000_000),
        busy: Duration::from_millis(500),
        child: Pid(99),
        exe: "query-engine".into(),
        signal: Signal::Kill,
        mode: Mode::Enforce,
        outcome: "sent".into(),
        refused_by: None,
        grace: Duration::from_millis(500),
        grace_reason: None,
        detail: None,
    }
}

/// The record of a startup race.
pub(super) fn race(incident: u128) -> RaceRecord {
    let of = record(incident, Duration::from_secs(1), 3);
    RaceRecord {
        v: of.v,
        incident: of.incident,
        run: of.run,
        began: of.opened,
        ended: of.opened,
        who: of.who,
        lasted: Duration::from_secs(5),
        refused: 50,
        engine: Pid(9),
        exe: "engine".into(),
        generation: 1,
        port: None,
        startup: None,
    }
}
