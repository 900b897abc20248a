use super::*;
use crate::export::metric::Scope;
use crate::export::registry::{Extent, Reading};
use crate::export::text::{Format, encode};
use crate::pipeline::engines::{EngineNews, EngineReady, News};
use crate::pipeline::liveness::{Level, Outlook, RiskView};
use crate::pipeline::{
    Cause, CauseKind, EndedBy, Histogram, IncidentId, Mode, Outcome, Pid, PidKey, Refusal, Signal,
    Tid,
};

pub(super) fn at(ms: u64) -> Now {
    Now {
        mono: Mono(ms * 1_000_000),
        unix_ns: 1_700_000_000_000_000_000 + ms * 1_000_000,
    }
}

pub(super) fn info(pid: u32, tid: u32) -> Arc<LoopInfo> {
    Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(pid),
                start_ns: 9,
            },
            tid: Tid(tid),
        },
        slot: 0,
        target: "litellm".into(),
        exe: "python3.11".into(),
        poller: "epoll_wait".into(),
        plan: "raw",
        pod: None,
    })
}

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

pub(super) fn totals(iterations: u64, busy_ms: u64) -> LoopTotals {
    LoopTotals {
        iterations,
        idle: Duration::from_secs(10),
        busy: Duration::from_millis(busy_ms),
        max: Duration::ZERO,
        histogram: Histogram {
            bounds: vec![1 << 20, u64::MAX],
            counts: vec![iterations, 0],
        },
    }
}

pub(super) fn instruments() -> Instruments {
    Instruments::new(
        Readers {
            page: true,
            otlp: true,
        },
        SERIES_LIMIT,
    )
}

/// The value of a series on the page, by name and the labels that are not common to all.
pub(super) fn shown(instruments: &mut Instruments, now: Now, series: &str) -> Option<f64> {
    let page = encode(&instruments.registry().page(now), Format::Prometheus);
    let (name, own) = series.split_once('{').unwrap_or((series, ""));
    page.lines()
        .filter(|line| {
            line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))
        })
        .filter(|line| {
            own.trim_end_matches('}')
                .split(',')
                .all(|label| line.contains(label))
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .next()
}

#[test]
fn every_value_an_alert_can_read_is_there_from_the_start() {
    let mut subject = instruments();
    subject.notice(
        &Notice::Loop {
            at: at(0).mono,
            info: info(7, 7),
        },
        at(0),
    );
    for series in [
        "loopwarden_loop_time_seconds_total{state=\"idle\"}",
        "loopwarden_loop_iteration_duration_seconds_count",
        "loopwarden_loop_stalled_seconds",
        "loopwarden_stall_duration_seconds_count{cause=\"child_wait\"}",
        "loopwarden_stall_open{cause=\"unknown\"}",
        "loopwarden_engine_wait_duration_seconds_count",
        "loopwarden_rescue_duration_seconds_count",
        "loopwarden_action_signals_total{signal=\"SIGKILL\",mode=\"enforce\",outcome=\"sent\"}",
        "loopwarden_action_signals_total{mode=\"enforce\",outcome=\"refused\",refused_by=\"budget\"}",
    ] {
        assert_eq!(shown(&mut subject, at(0), series), Some(0.0), "{series}");
    }
    let process: HashSet<Metric> = template::series()
        .iter()
        .map(|(metric, _)| *metric)
        .collect();
    for metric in Metric::ALL {
        // Where no probe is known, there is nothing to say of one; nor of engines where there are none.
        let name = metric.instrument().name;
        let engines = name.starts_with("loopwarden.engine.") && *metric != Metric::EngineWait
            || *metric == Metric::RescueRecovery;
        let later = name.starts_with("loopwarden.liveness.") || engines;
        assert_eq!(
            metric.instrument().scope == Scope::Process && !later,
            process.contains(metric),
            "{metric:?}"
        );
    }
}

#[test]
fn every_attribute_is_in_the_table() {
    for (metric, own) in template::series() {
        let row = metric.instrument();
        assert!(
            own.iter().all(|(key, _)| row.attributes.contains(key)),
            "{metric:?} {own:?}"
        );
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

fn at_risk(ms: u64, level: Level, left: Option<u64>) -> Notice {
    let risk = RiskView {
        at: at(ms).mono,
        level,
        changed: true,
        outlook: Outlook {
            failed_probes: 2,
            to_decision: left.map(Duration::from_secs),
            to_sigkill: left.map(|left| Duration::from_secs(left + 30)),
            uncertainty: None,
            sigterm_uncertainty: None,
            sigkill_uncertainty: None,
            probes_seen: false,
        },
    };
    Notice::Risk {
        info: info(7, 7),
        risk,
    }
}

#[test]
fn the_countdown_counts_down_and_is_absent_while_the_loop_runs() {
    const SIGTERM: &str = "loopwarden_liveness_time_to_sigterm_seconds";
    const SIGKILL: &str = "loopwarden_liveness_time_to_sigkill_seconds";
    const IMMINENT: &str = "loopwarden_liveness_risk{level=\"imminent\"}";
    const ELEVATED: &str = "loopwarden_liveness_risk{level=\"elevated\"}";
    let mut subject = instruments();
    let loop_there = Notice::Loop {
        at: at(0).mono,
        info: info(7, 7),
    };
    subject.notice(&loop_there, at(0));
    assert_eq!(
        shown(&mut subject, at(0), IMMINENT),
        None,
        "no probe is known"
    );

    assert!(subject.notice(&at_risk(1000, Level::Imminent, Some(10)), at(1000)));
    assert_eq!(shown(&mut subject, at(1000), IMMINENT), Some(1.0));
    assert_eq!(shown(&mut subject, at(1000), ELEVATED), Some(0.0));
    let failed = shown(&mut subject, at(1000), "loopwarden_liveness_failed_probes");
    assert_eq!(failed, Some(2.0));
    subject.collect(&[(info(7, 7), totals(1, 1))], at(5000));
    assert_eq!(shown(&mut subject, at(5000), SIGTERM), Some(6.0));
    assert_eq!(shown(&mut subject, at(5000), SIGKILL), Some(36.0));
    let _ = subject.registry().push(Extent::All, at(5000));

    subject.notice(&at_risk(6000, Level::Elevated, None), at(6000));
    assert_eq!(shown(&mut subject, at(6000), IMMINENT), Some(0.0));
    assert_eq!(shown(&mut subject, at(6000), SIGTERM), None);
    let ends = |subject: &mut Instruments, ms| {
        let pushed = subject.registry().push(Extent::Changed, at(ms));
        let points = pushed.into_iter().flat_map(|family| family.points);
        points
            .filter(|point| point.reading == Reading::Gone)
            .count()
    };
    assert_eq!(ends(&mut subject, 6000), 2, "told once over OTLP");
    assert_eq!(ends(&mut subject, 7000), 0);
    subject.notice(&at_risk(8000, Level::Imminent, Some(3)), at(8000));
    assert_eq!(
        shown(&mut subject, at(8000), SIGTERM),
        Some(3.0),
        "there again"
    );
}

fn told(at_ms: u64, what: EngineNews) -> Notice {
    Notice::Engine {
        info: info(7, 7),
        news: News {
            at: at(at_ms).mono,
            what,
        },
    }
}

#[test]
fn series_of_engines_begin_at_zero_with_the_first_word_about_them() {
    let mut subject = instruments();
    let recognised = Notice::Loop {
        at: at(0).mono,
        info: info(7, 7),
    };
    subject.notice(&recognised, at(0));
    let refused = "loopwarden_engine_connects_total{outcome=\"refused\"}";
    assert_eq!(shown(&mut subject, at(0), refused), None);
    let starting = EngineReady::Starting {
        since: Mono(0),
        refused: Some(0),
    };
    subject.notice(&told(1, EngineNews::Ready(starting)), at(1));
    let zero = [
        refused,
        "loopwarden_engine_connects_total{outcome=\"ok\"}",
        "loopwarden_engine_generations_total{reason=\"planned\"}",
        "loopwarden_engine_generations_total{reason=\"killed\"}",
        "loopwarden_engine_generations_total{reason=\"crashed\"}",
        "loopwarden_engine_startup_duration_seconds_count{stage=\"listening\"}",
        "loopwarden_engine_startup_duration_seconds_count{stage=\"accepting\"}",
        "loopwarden_rescue_recovery_duration_seconds_count",
        "loopwarden_engine_zombies",
        "loopwarden_engine_ready{state=\"accepts\"}",
    ];
    for series in zero {
        assert_eq!(shown(&mut subject, at(1), series), Some(0.0), "{series}");
    }
    subject.notice(&told(2, EngineNews::Connects { ok: 2, refused: 3 }), at(2));
    assert_eq!(shown(&mut subject, at(2), refused), Some(3.0));
    subject.notice(&told(3, EngineNews::Ready(EngineReady::Accepts)), at(3));
    assert_eq!(shown(&mut subject, at(3), refused), Some(3.0));
    let ready = "loopwarden_engine_ready{state=\"accepts\"}";
    assert_eq!(shown(&mut subject, at(3), ready), Some(1.0));
}

#[test]
fn where_connections_are_not_seen_there_is_no_number_of_them() {
    let mut subject = instruments();
    let sampled = Arc::new(LoopInfo {
        plan: "sampling",
        ..LoopInfo::clone(&info(7, 7))
    });
    let recognised = Notice::Loop {
        at: at(0).mono,
        info: sampled.clone(),
    };
    subject.notice(&recognised, at(0));
    let ready = Notice::Engine {
        info: sampled,
        news: News {
            at: at(1).mono,
            what: EngineNews::Ready(EngineReady::Unknown),
        },
    };
    subject.notice(&ready, at(1));
    let refused = "loopwarden_engine_connects_total{outcome=\"refused\"}";
    assert_eq!(shown(&mut subject, at(1), refused), None);
    let planned = "loopwarden_engine_generations_total{reason=\"planned\"}";
    assert_eq!(shown(&mut subject, at(1), planned), Some(0.0));
}

#[test]
fn news_of_a_process_that_is_over_begin_nothing() {
    let mut subject = instruments();
    subject.notice(&told(1, EngineNews::Ready(EngineReady::Accepts)), at(1));
    let ready = "loopwarden_engine_ready{state=\"accepts\"}";
    assert_eq!(shown(&mut subject, at(1), ready), None);
}

#[test]
fn a_process_that_gets_its_pods_name_keeps_its_engines() {
    let mut subject = instruments();
    let recognised = Notice::Loop {
        at: at(0).mono,
        info: info(7, 7),
    };
    subject.notice(&recognised, at(0));
    subject.notice(&told(1, EngineNews::Ready(EngineReady::Accepts)), at(1));
    let placed = Notice::Placed {
        at: at(2).mono,
        info: info(7, 7),
    };
    subject.notice(&placed, at(2));
    let ready = "loopwarden_engine_ready{state=\"accepts\"}";
    assert_eq!(shown(&mut subject, at(2), ready), Some(1.0));
    let refused = "loopwarden_engine_connects_total{outcome=\"refused\"}";
    assert_eq!(shown(&mut subject, at(2), refused), Some(0.0));
}
