mod engines;
mod liveness;
mod loops;
mod stalls;

use super::*;
use crate::export::metric::Scope;
use crate::export::text::{Format, encode};
use crate::pipeline::{Histogram, Pid, PidKey, Tid};

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
