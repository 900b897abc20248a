use super::super::samples::{action, open, record};
use super::*;

const MS: Duration = Duration::from_millis(1);

fn at(seconds: u64) -> Mono {
    Mono(seconds * 1_000_000_000)
}

#[test]
fn one_example_a_minute_of_each_line_and_the_rest_counted() {
    let mut keeper = Keeper::default();
    let mut full = Vec::new();
    for second in 0..150u32 {
        let line = 1 + second % 2;
        let record = record(u128::from(second), MS * (200 + second), line);
        if keeper.finished(&record, false, at(second.into())) {
            full.push(second);
        }
    }
    assert_eq!(full, [0, 1, 60, 61, 120, 121]);
    assert_eq!(keeper.due(), Some(at(62)));
    let counts = keeper.counts();
    assert_eq!(keeper.due(), None);
    let told: Vec<(&str, u64, Duration)> = counts
        .iter()
        .map(|sum| (sum.line.as_str(), sum.count, sum.max))
        .collect();
    assert_eq!(
        told,
        [("app.py:1", 72, MS * 348), ("app.py:2", 72, MS * 349)]
    );
    assert_eq!(counts[0].example, Some(IncidentId(0)));
    assert!(keeper.counts().is_empty());
}

#[test]
fn long_ones_those_acted_on_and_those_with_a_trace_are_never_only_counted() {
    let mut keeper = Keeper::default();
    assert!(keeper.finished(&record(1, MS * 150, 1), false, at(0)));
    assert!(!keeper.finished(&record(2, MS * 999, 1), false, at(1)));
    assert!(keeper.finished(&record(3, LONG, 1), false, at(1)));
    assert!(keeper.finished(&record(4, MS * 150, 1), true, at(1)));
    let mut acted = record(5, MS * 150, 1);
    acted.actions.push(action());
    assert!(keeper.finished(&acted, false, at(1)));
    assert_eq!(keeper.counts()[0].count, 1);
}

#[test]
fn a_trace_is_left_once_a_minute() {
    let mut keeper = Keeper::default();
    let traced: Vec<u64> = (0..125)
        .filter(|second| keeper.trace(&open(1), at(*second)))
        .collect();
    assert_eq!(traced, [0, 60, 120]);
}

#[test]
fn a_program_that_stalls_in_ever_new_places_does_not_grow_it() {
    let mut keeper = Keeper::default();
    let mut full = 0;
    for line in 0..5000 {
        full += u32::from(keeper.finished(&record(line.into(), MS * 200, line), false, at(1)));
    }
    assert!(full <= u32::try_from(KINDS).unwrap());
    assert!(keeper.examples.len() <= KINDS && keeper.counts.len() <= KINDS);
    let counted: u64 = keeper.counts().iter().map(|sum| sum.count).sum();
    assert_eq!(counted + u64::from(full), 5000);
    assert!(keeper.finished(&record(9999, MS * 200, 9999), false, at(62)));
}
