use serde_json::json;

use super::*;
use crate::accuracy::row::Runtime;
use crate::accuracy::truth::{Began, Ended};

const BEGAN: u64 = 10_000_000_000;
const PID: u32 = 7;

fn line(kind: &str, at_ms: u64, cause: &Value) -> Line {
    let value = json!({"type": kind, "pid": PID, "mono_ns": BEGAN + at_ms * 1_000_000, "incident": "A",
        "busy_ms": at_ms, "cause": cause});
    Line { read_ns: 0, value }
}

fn named(kind: &str, at_ms: u64, name: &str) -> Line {
    line(kind, at_ms, &json!({"kind": name}))
}

fn truth() -> Truth {
    Truth {
        pid: PID,
        began: Began {
            at_ns: BEGAN,
            ..Began::default()
        },
        ended: Ended {
            at_ns: BEGAN + 1_500_000_000,
            ..Ended::default()
        },
        seen: Vec::new(),
    }
}

const SLEEP: Row = Row::new("sleep", Runtime::Native, "sleep_c", &["nanosleep"]);

#[test]
fn a_name_is_right_unknown_or_wrong() {
    type Case<'a> = (&'a [(&'a str, u64, &'a str)], Option<&'a str>, Grade);
    let cases: [Case; 8] = [
        (
            &[("stall_opened", 100, "sleep")],
            Some("sleep"),
            Grade::Right,
        ),
        (
            &[
                ("stall_opened", 100, "unknown"),
                ("stall_updated", 900, "sleep"),
            ],
            Some("sleep"),
            Grade::Right,
        ),
        // Before 300 ms a first guess may be taken back, afterwards not.
        (
            &[
                ("stall_opened", 100, "cpu_busy"),
                ("stall_updated", 200, "sleep"),
            ],
            Some("sleep"),
            Grade::Right,
        ),
        (
            &[
                ("stall_opened", 301, "cpu_busy"),
                ("stall_updated", 400, "sleep"),
            ],
            Some("sleep"),
            Grade::Wrong,
        ),
        (
            &[("stall_opened", 100, "cpu_busy")],
            Some("cpu_busy"),
            Grade::Wrong,
        ),
        (
            &[("stall_opened", 100, "unknown")],
            Some("unknown"),
            Grade::Unknown,
        ),
        // A name given when it is over helps nobody, a wrong one still misleads.
        (
            &[
                ("stall_opened", 100, "unknown"),
                ("stall_closed", 1500, "sleep"),
            ],
            Some("unknown"),
            Grade::Unknown,
        ),
        (
            &[
                ("stall_opened", 100, "sleep"),
                ("stall_closed", 1500, "cpu_busy"),
            ],
            Some("sleep"),
            Grade::Wrong,
        ),
    ];
    for (said, name, grade) in cases {
        let lines: Vec<Line> = said
            .iter()
            .map(|(kind, at, name)| named(kind, *at, name))
            .collect();
        let verdict = judge(&SLEEP, &truth(), &lines);
        assert_eq!(
            (verdict.named.as_deref(), verdict.grade),
            (name, grade),
            "{said:?}"
        );
    }
}

#[test]
fn what_is_said_of_the_time_after_the_stall_does_not_count() {
    let lines = [
        named("stall_opened", 100, "sleep"),
        named("stall_updated", 1550, "cpu_busy"),
        named("stall_closed", 1700, "cpu_busy"),
    ];
    let verdict = judge(&SLEEP, &truth(), &lines);
    assert_eq!(
        (verdict.named.as_deref(), verdict.grade),
        (Some("sleep"), Grade::Right)
    );
}

#[test]
fn what_is_said_of_the_iteration_before_the_stall_does_not_count() {
    let mut early = named("stall_opened", 0, "cpu_busy");
    early.value["mono_ns"] = json!(BEGAN - 5_000_000);
    let lines = [early, named("stall_updated", 320, "sleep")];
    let verdict = judge(&SLEEP, &truth(), &lines);
    assert_eq!((verdict.said.len(), verdict.grade), (1, Grade::Right));
}

#[test]
fn a_stall_that_nobody_told_of_is_not_known() {
    let verdict = judge(&SLEEP, &truth(), &[]);
    assert_eq!((verdict.named, verdict.grade), (None, Grade::Unknown));
}

#[test]
fn an_incident_of_another_moment_or_process_is_another() {
    let mut before = named("stall_closed", 0, "cpu_busy");
    before.value["busy_ms"] = json!(120);
    let mut other = named("stall_opened", 400, "cpu_busy");
    other.value["pid"] = json!(PID + 1);
    let lines = [before, other, named("stall_opened", 100, "sleep")];
    let mut lines = lines.to_vec();
    lines[0].value["incident"] = json!("B");
    let verdict = judge(&SLEEP, &truth(), &lines);
    assert_eq!(
        (verdict.named.as_deref(), verdict.grade),
        (Some("sleep"), Grade::Right)
    );
}

#[test]
fn details_are_compared_where_the_truth_knows_them() {
    let mut truth = truth();
    truth.began.child = Some(12);
    truth.began.file = Some("/a".into());
    let cause =
        json!({"kind": "sleep", "syscall": "nanosleep", "child": {"pid": 13}, "peer": "1.2.3.4:5"});
    let verdict = judge(&SLEEP, &truth, &[line("stall_opened", 100, &cause)]);
    let grades: Vec<(&str, Grade)> = verdict
        .details
        .iter()
        .map(|detail| (detail.what, detail.grade))
        .collect();
    let expected = [
        ("syscall", Grade::Right),
        ("child", Grade::Wrong),
        ("peer", Grade::Wrong),
        ("file", Grade::Unknown),
    ];
    assert_eq!(grades, expected);
}

#[test]
fn the_innermost_python_frame_of_every_stack_counts() {
    let row = Row::new("sleep", Runtime::Asyncio, "sleep", &[]);
    let mut truth = truth();
    truth.began.frames = vec![Frame {
        function: "sleep".into(),
        file: "/app/stalls.py".into(),
        line: 5,
    }];
    let frame = |function: &str, line: u64| json!({"function": function, "file": "/app/stalls.py", "line": line});
    let native = json!({"function": "clock_nanosleep"});
    let with = |stack: Value| {
        let mut line = named("stall_opened", 100, "sleep");
        line.value["stack"] = stack;
        line
    };
    let right = with(json!([native, frame("Box.sleep", 5), frame("main", 9)]));
    let wrong = with(json!([frame("main", 9)]));
    let cases = [
        (vec![right.clone()], Grade::Right),
        (vec![wrong.clone()], Grade::Wrong),
        (vec![wrong, right], Grade::Wrong),
        (vec![with(json!([]))], Grade::Unknown),
        (vec![named("stall_opened", 100, "sleep")], Grade::Unknown),
    ];
    for (lines, grade) in cases {
        let stack = judge(&row, &truth, &lines).stack.unwrap();
        assert_eq!(stack.grade, grade, "{stack:?}");
    }
    truth.began.anywhere = true;
    let lines = [with(json!([frame("main", 9)]))];
    assert_eq!(judge(&row, &truth, &lines).stack, None);
}
