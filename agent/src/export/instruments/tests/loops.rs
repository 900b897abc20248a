//! Loops that share a process, end, and are replaced by others.

use std::sync::Arc;

use super::{at, info, instruments, shown, totals};
use crate::export::instruments::{Instruments, OwnUse, fold, template};
use crate::export::registry::Readers;
use crate::pipeline::{EndedBy, LoopInfo, Notice};

#[test]
fn loops_of_one_process_share_its_series() {
    let mut subject = instruments();
    let (one, two) = (info(7, 7), info(7, 8));
    subject.collect(
        &[
            (one.clone(), totals(10, 100)),
            (two.clone(), totals(20, 300)),
        ],
        at(0),
    );
    let active = "loopwarden_loop_time_seconds_total{state=\"active\"}";
    assert_eq!(shown(&mut subject, at(0), active), Some(0.4));
    let over = |info, totals| Notice::LoopEnded {
        at: at(1).mono,
        info,
        totals,
        ended_by: EndedBy::Exit,
    };
    subject.notice(&over(two.clone(), totals(21, 500)), at(1));
    subject.collect(&[(one.clone(), totals(10, 100))], at(2));
    assert_eq!(
        shown(&mut subject, at(2), active),
        Some(0.6),
        "what the ended loop did stays counted"
    );
    assert!(shown(&mut subject, at(2), "loopwarden_loop_stalled_seconds").is_some());
    subject.notice(&over(one, totals(11, 150)), at(3));
    assert_eq!(shown(&mut subject, at(3), active), Some(0.65));
    assert_eq!(
        shown(&mut subject, at(3), "loopwarden_loop_stalled_seconds"),
        None,
        "the last loop is gone"
    );
}

#[test]
fn loops_that_come_and_go_in_one_process_are_counted_and_not_kept() {
    let mut subject = instruments();
    let main = info(7, 7);
    let mut ms = 0;
    for tid in 100..1100 {
        let brief = info(7, tid);
        ms += 1000;
        let running = [
            (main.clone(), totals(10, 100)),
            (brief.clone(), totals(1, 10)),
        ];
        subject.collect(&running, at(ms));
        let over = Notice::LoopEnded {
            at: at(ms).mono,
            info: brief,
            totals: totals(1, 10),
            ended_by: EndedBy::Exit,
        };
        subject.notice(&over, at(ms));
    }
    let active = "loopwarden_loop_time_seconds_total{state=\"active\"}";
    assert_eq!(shown(&mut subject, at(ms), active), Some(10.1));
    let iterations = "loopwarden_loop_iteration_duration_seconds_count";
    let before = shown(&mut subject, at(ms), iterations);
    let kept = subject.processes.values().map(|known| known.loops.len());
    let kept = kept.sum::<usize>();
    assert!(kept < 100, "{kept} loops are kept, of one that lives");
    subject.collect(&[(main, totals(10, 100))], at(ms + 60_000));
    assert_eq!(shown(&mut subject, at(ms + 60_000), active), Some(10.1));
    assert_eq!(shown(&mut subject, at(ms + 60_000), iterations), before);
}

#[test]
fn an_end_that_nobody_told_is_noticed_and_counted() {
    let mut subject = instruments();
    subject.collect(&[(info(7, 7), totals(10, 100))], at(0));
    subject.collect(&[], at(1));
    assert_eq!(
        shown(&mut subject, at(1), "loopwarden_loop_stalled_seconds"),
        Some(0.0),
        "its notice may be on the way"
    );
    subject.collect(&[], at(6000));
    assert_eq!(
        shown(&mut subject, at(6000), "loopwarden_loop_stalled_seconds"),
        None
    );
    assert_eq!(
        shown(
            &mut subject,
            at(6000),
            "loopwarden_agent_lost_events_total{what=\"loop_ended\"}"
        ),
        Some(1.0)
    );
}

#[test]
fn a_source_that_lags_does_not_begin_an_ended_loop_anew() {
    let mut subject = instruments();
    let me = info(7, 7);
    subject.collect(&[(me.clone(), totals(10, 100))], at(0));
    let over = Notice::LoopEnded {
        at: at(1).mono,
        info: me.clone(),
        totals: totals(11, 200),
        ended_by: EndedBy::Exit,
    };
    subject.notice(&over, at(1));
    subject.collect(&[(me, totals(10, 100))], at(2));
    let count = "loopwarden_loop_iteration_duration_seconds_count";
    assert_eq!(shown(&mut subject, at(2), count), Some(11.0));
    assert_eq!(
        shown(&mut subject, at(2), "loopwarden_loop_stalled_seconds"),
        None
    );
}

#[test]
fn after_an_exec_the_same_process_is_another_program() {
    let mut subject = instruments();
    let old = info(7, 7);
    let new = Arc::new(LoopInfo {
        exe: "node".into(),
        ..LoopInfo::clone(&old)
    });
    subject.collect(&[(old.clone(), totals(10, 100))], at(0));
    let over = Notice::LoopEnded {
        at: at(1).mono,
        info: old,
        totals: totals(10, 100),
        ended_by: EndedBy::Exec,
    };
    subject.notice(&over, at(1));
    subject.collect(&[(new, totals(1, 1))], at(2));
    let count = "loopwarden_loop_iteration_duration_seconds_count";
    let shown = |subject: &mut Instruments, exe: &str| {
        shown(
            subject,
            at(2),
            &format!("{count}{{process_executable_name=\"{exe}\"}}"),
        )
    };
    assert_eq!(
        (
            shown(&mut subject, "python3.11"),
            shown(&mut subject, "node")
        ),
        (Some(10.0), Some(1.0))
    );
}

#[test]
fn a_process_that_found_no_room_is_counted_once_and_taken_when_there_is() {
    let size = template::series().len();
    let mut subject = Instruments::new(
        Readers {
            page: true,
            otlp: false,
        },
        size,
    );
    let (one, two) = (info(1, 1), info(2, 2));
    for ms in 0..5 {
        subject.collect(
            &[(one.clone(), totals(1, 1)), (two.clone(), totals(1, 1))],
            at(ms),
        );
    }
    subject.agent(
        &crate::export::AgentStats::default(),
        OwnUse::default(),
        at(5),
    );
    let refused = "loopwarden_agent_series_refused_total";
    assert_eq!(
        shown(&mut subject, at(5), refused),
        Some(fold::number(size as u64))
    );
    for ms in [6, 6006] {
        subject.collect(&[(two.clone(), totals(5, 5))], at(ms));
    }
    subject.collect(&[(two, totals(5, 5))], at(6007));
    let count = "loopwarden_loop_iteration_duration_seconds_count{process_pid=\"2\"}";
    assert_eq!(shown(&mut subject, at(6007), count), Some(5.0));
}
