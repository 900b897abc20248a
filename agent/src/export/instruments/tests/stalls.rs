//! Stalls, actions and rescues.

use std::time::Duration;

use super::{at, info, instruments, shown, totals};
use crate::pipeline::{
    ActionNotice, Cause, CauseKind, EndedBy, IncidentId, Mode, Notice, Outcome, Pid, Refusal,
    Signal, StallView,
};

fn view(ms: u64, busy_ms: u64, kind: CauseKind) -> StallView {
    StallView {
        incident: IncidentId(1),
        at: at(ms).mono,
        busy: Duration::from_millis(busy_ms),
        busy_is_lower_bound: false,
        cause: Cause {
            kind,
            ..Cause::default()
        },
        evidence: None,
        shares: Vec::new(),
    }
}

#[expect(clippy::too_many_lines, reason = "one story, told in order")]
#[test]
fn one_stall_from_opening_to_rescue() {
    let mut subject = instruments();
    let me = info(7, 7);
    subject.notice(
        &Notice::Loop {
            at: at(0).mono,
            info: me.clone(),
        },
        at(0),
    );
    let open = |kind| Notice::StallOpened {
        info: me.clone(),
        view: view(1100, 100, kind),
    };
    assert!(subject.notice(&open(CauseKind::Unknown), at(1100)));
    assert_eq!(
        shown(
            &mut subject,
            at(1100),
            "loopwarden_stall_open{cause=\"unknown\"}"
        ),
        Some(1.0)
    );
    let update = |kind| Notice::StallUpdated {
        info: me.clone(),
        view: view(1200, 200, kind),
    };
    assert!(
        subject.notice(&update(CauseKind::ChildWait), at(1200)),
        "the cause is news"
    );
    assert!(
        !subject.notice(&update(CauseKind::ChildWait), at(1200)),
        "the same again is not"
    );
    assert_eq!(
        shown(
            &mut subject,
            at(1200),
            "loopwarden_stall_open{cause=\"unknown\"}"
        ),
        Some(0.0)
    );
    assert_eq!(
        shown(
            &mut subject,
            at(1200),
            "loopwarden_stall_open{cause=\"child_wait\"}"
        ),
        Some(1.0)
    );
    subject.collect(&[(me.clone(), totals(100, 500))], at(1500));
    assert_eq!(
        shown(&mut subject, at(1500), "loopwarden_loop_stalled_seconds"),
        Some(0.5)
    );
    let action = ActionNotice {
        incident: IncidentId(1),
        at: at(1500).mono,
        child: Pid(8),
        child_exe: "query-engine".into(),
        signal: Signal::Kill,
        mode: Mode::Enforce,
        busy: Duration::from_millis(500),
        outcome: Outcome::Sent,
        grace: Duration::from_millis(500),
        grace_reason: None,
        detail: None,
    };
    assert!(subject.notice(
        &Notice::Action {
            info: me.clone(),
            action
        },
        at(1500)
    ));
    let closed = Notice::StallClosed {
        info: me.clone(),
        view: view(1520, 520, CauseKind::ChildWait),
        rescued: true,
        ended_by: EndedBy::Poll,
        liveness: None,
    };
    assert!(subject.notice(&closed, at(1520)));
    subject.notice(
        &Notice::EngineWait {
            at: at(1520).mono,
            info: me.clone(),
            lasted: Duration::from_millis(515),
        },
        at(1520),
    );
    for (series, value) in [
        ("loopwarden_loop_stalled_seconds", 0.0),
        ("loopwarden_stall_open{cause=\"child_wait\"}", 0.0),
        (
            "loopwarden_stall_duration_seconds_sum{cause=\"child_wait\"}",
            0.52,
        ),
        (
            "loopwarden_stall_duration_seconds_bucket{cause=\"child_wait\",le=\"0.5\"}",
            0.0,
        ),
        (
            "loopwarden_stall_duration_seconds_bucket{cause=\"child_wait\",le=\"1.0\"}",
            1.0,
        ),
        ("loopwarden_rescue_duration_seconds_sum", 0.52),
        ("loopwarden_engine_wait_duration_seconds_sum", 0.515),
        (
            "loopwarden_action_signals_total{signal=\"SIGKILL\",mode=\"enforce\",outcome=\"sent\"}",
            1.0,
        ),
        ("loopwarden_loop_time_seconds_total{state=\"active\"}", 0.5),
        ("loopwarden_loop_iteration_duration_seconds_count", 100.0),
        ("loopwarden_agent_loops", 1.0),
    ] {
        assert_eq!(
            shown(&mut subject, at(1520), series),
            Some(value),
            "{series}"
        );
    }
}

#[test]
fn a_refusal_is_counted_by_its_guard() {
    let mut subject = instruments();
    let action = ActionNotice {
        incident: IncidentId(1),
        at: at(0).mono,
        child: Pid(8),
        child_exe: String::new(),
        signal: Signal::Kill,
        mode: Mode::Observe,
        busy: Duration::ZERO,
        outcome: Outcome::Refused(Refusal::Traced),
        grace: Duration::ZERO,
        grace_reason: None,
        detail: None,
    };
    subject.notice(
        &Notice::Action {
            info: info(7, 7),
            action,
        },
        at(0),
    );
    let series = "loopwarden_action_signals_total{mode=\"observe\",outcome=\"refused\",refused_by=\"traced\"";
    assert_eq!(
        shown(
            &mut subject,
            at(0),
            &format!("{series},signal=\"SIGKILL\"}}")
        ),
        Some(1.0)
    );
}

#[test]
fn a_stall_whose_end_nobody_told_does_not_stay_open() {
    let mut subject = instruments();
    let me = info(7, 7);
    subject.notice(
        &Notice::StallOpened {
            info: me.clone(),
            view: view(100, 100, CauseKind::Sleep),
        },
        at(100),
    );
    subject.collect(&[(me.clone(), totals(10, 100))], at(200));
    assert_eq!(
        shown(
            &mut subject,
            at(200),
            "loopwarden_stall_open{cause=\"sleep\"}"
        ),
        Some(1.0)
    );
    subject.collect(&[(me, totals(12, 300))], at(300));
    assert_eq!(
        shown(
            &mut subject,
            at(300),
            "loopwarden_stall_open{cause=\"sleep\"}"
        ),
        Some(0.0)
    );
}
