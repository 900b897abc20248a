use super::*;
use crate::export::metric::STALL_BOUNDS;

const BOTH: Readers = Readers {
    page: true,
    otlp: true,
};

fn at(seconds: u64) -> Now {
    Now {
        mono: Mono(seconds * 1_000_000_000),
        unix_ns: (1_700_000_000 + seconds) * 1_000_000_000,
    }
}

fn base(pid: i64) -> Attributes {
    vec![("process.pid", AttributeValue::Int(pid))]
}

fn template() -> Vec<(Metric, Attributes)> {
    vec![
        (Metric::LoopTime, vec![word("state", "idle")]),
        (Metric::StallOpen, vec![word("cause", "sleep")]),
        (Metric::RescueDuration, vec![]),
    ]
}

/// Metric, pid and what is shown, as words.
fn shown(families: &[Family]) -> Vec<String> {
    let mut lines = Vec::new();
    for family in families {
        for point in &family.points {
            let value = match &point.reading {
                Reading::Number(value) => value.to_string(),
                Reading::Histogram { counts, .. } => format!("n={}", counts.iter().sum::<u64>()),
                Reading::Gone => "gone".to_owned(),
            };
            let pid = point.base.first().map_or(0, |(_, v)| {
                if let AttributeValue::Int(pid) = v {
                    *pid
                } else {
                    0
                }
            });
            lines.push(format!("{:?} {pid} {value}", family.metric));
        }
    }
    lines
}

#[test]
fn every_series_of_the_template_exists_at_zero() {
    let mut registry = Registry::new(BOTH, 100);
    registry.open(base(7), &template(), at(0)).unwrap();
    let expected = ["LoopTime 7 0", "StallOpen 7 0", "RescueDuration 7 n=0"];
    assert_eq!(shown(&registry.page(at(0))), expected);
    assert_eq!(shown(&registry.push(Extent::Changed, at(0))), expected);
    assert_eq!(shown(&registry.push(Extent::Changed, at(1))), [""; 0]);
    assert_eq!(shown(&registry.push(Extent::All, at(1))), expected);
}

#[test]
fn a_first_push_past_zero_brings_the_zero_along() {
    let mut registry = Registry::new(BOTH, 100);
    let group = registry.open(base(7), &template(), at(0)).unwrap();
    registry.add(
        group,
        Metric::LoopTime,
        vec![word("state", "idle")],
        2.5,
        at(1),
    );
    registry.observe(group, Metric::RescueDuration, vec![], 0.05, at(1));
    let families = registry.push(Extent::Changed, at(1));
    assert_eq!(
        shown(&families),
        [
            "LoopTime 7 0",
            "LoopTime 7 2.5",
            "StallOpen 7 0",
            "RescueDuration 7 n=0",
            "RescueDuration 7 n=1"
        ]
    );
    assert!(families[0].points[0].time_ns < families[0].points[1].time_ns);
    registry.add(
        group,
        Metric::LoopTime,
        vec![word("state", "idle")],
        1.0,
        at(2),
    );
    assert_eq!(
        shown(&registry.push(Extent::Changed, at(2))),
        ["LoopTime 7 3.5"]
    );
}

#[test]
fn the_zero_is_older_even_within_one_millisecond() {
    let mut registry = Registry::new(BOTH, 100);
    let group = registry.open(base(7), &template(), at(5)).unwrap();
    registry.add(
        group,
        Metric::LoopTime,
        vec![word("state", "idle")],
        1.0,
        at(5),
    );
    let points = &registry.push(Extent::All, at(5))[0].points;
    assert!(points[0].time_ns + 1_000_000 <= points[1].time_ns);
}

#[test]
fn over_otlp_an_ended_process_is_told_once_more_then_ended() {
    let mut registry = Registry::new(
        Readers {
            page: false,
            otlp: true,
        },
        100,
    );
    let group = registry.open(base(7), &template(), at(0)).unwrap();
    let _ = registry.push(Extent::All, at(0));
    registry.add(
        group,
        Metric::LoopTime,
        vec![word("state", "idle")],
        3.0,
        at(1),
    );
    registry.end(group, at(1).mono);
    assert_eq!(
        shown(&registry.push(Extent::Changed, at(2))),
        ["LoopTime 7 3", "StallOpen 7 gone", "RescueDuration 7 n=0"]
    );
    assert_eq!(
        shown(&registry.push(Extent::Changed, at(3))),
        [""; 0],
        "its end waits for the next full push"
    );
    assert_eq!(
        shown(&registry.push(Extent::All, at(15))),
        ["LoopTime 7 gone", "RescueDuration 7 gone"]
    );
    assert_eq!(shown(&registry.push(Extent::All, at(30))), [""; 0]);
    assert_eq!(registry.held(), 0);
}

#[test]
fn on_the_page_gauges_go_at_once_and_counters_after_two_minutes() {
    let mut registry = Registry::new(
        Readers {
            page: true,
            otlp: false,
        },
        100,
    );
    let group = registry.open(base(7), &template(), at(0)).unwrap();
    registry.end(group, at(10).mono);
    assert_eq!(
        shown(&registry.page(at(129))),
        ["LoopTime 7 0", "RescueDuration 7 n=0"]
    );
    assert_eq!(shown(&registry.page(at(130))), [""; 0]);
    assert_eq!(registry.held(), 0);
}

#[test]
fn a_reused_process_id_begins_anew() {
    let mut registry = Registry::new(BOTH, 100);
    let old = registry.open(base(7), &template(), at(0)).unwrap();
    registry.add(
        old,
        Metric::LoopTime,
        vec![word("state", "idle")],
        3.0,
        at(1),
    );
    registry.end(old, at(2).mono);
    registry.open(base(7), &template(), at(3)).unwrap();
    assert_eq!(
        shown(&registry.page(at(3))),
        ["LoopTime 7 0", "StallOpen 7 0", "RescueDuration 7 n=0"]
    );
}

#[test]
fn the_number_of_series_is_bounded_and_what_ended_makes_room() {
    let mut registry = Registry::new(BOTH, 6);
    let first = registry.open(base(1), &template(), at(0)).unwrap();
    registry.open(base(2), &template(), at(1)).unwrap();
    assert_eq!(registry.open(base(3), &template(), at(2)), None);
    assert_eq!(
        registry.refused(),
        0,
        "the caller says whether it is the first try"
    );
    registry.refuse(3);
    registry.end(first, at(3).mono);
    assert!(registry.open(base(3), &template(), at(4)).is_some());
    assert_eq!((registry.held(), registry.refused()), (6, 6));
    assert!(
        !shown(&registry.page(at(4)))
            .iter()
            .any(|line| line.contains(" 1 "))
    );
}

#[test]
fn processes_without_end_leave_a_bounded_number_of_series() {
    let mut registry = Registry::new(BOTH, 30);
    for pid in 0..1000 {
        let group = registry.open(base(pid), &template(), at(0)).unwrap();
        registry.end(group, at(0).mono);
        assert!(registry.held() <= 30);
    }
    assert_eq!(registry.refused(), (1000 - 10) * 3);
}

#[test]
fn values_obey_their_kind() {
    let mut registry = Registry::new(BOTH, 100);
    let group = registry.open(base(7), &template(), at(0)).unwrap();
    let idle = || vec![word("state", "idle")];
    registry.raise(group, Metric::LoopTime, idle(), 5.0, at(1));
    registry.raise(group, Metric::LoopTime, idle(), 4.0, at(1));
    registry.add(group, Metric::LoopTime, idle(), -4.0, at(1));
    registry.set(group, Metric::LoopTime, idle(), 1.0, at(1));
    assert_eq!(
        shown(&registry.page(at(1)))[0],
        "LoopTime 7 5",
        "a counter never goes down"
    );
    for value in [0.02, 0.020_000_1, 500.0] {
        registry.observe(group, Metric::RescueDuration, vec![], value, at(1));
    }
    let page = registry.page(at(1));
    let Reading::Histogram {
        bounds,
        counts,
        sum,
    } = &page.last().unwrap().points[0].reading
    else {
        panic!("no histogram: {page:?}");
    };
    assert_eq!(
        (bounds[0], counts[0], counts[1], counts[STALL_BOUNDS.len()]),
        (0.02, 1, 1, 1),
        "bounds are inclusive"
    );
    assert!((sum - 500.040_000_1).abs() < 1e-9);
}
