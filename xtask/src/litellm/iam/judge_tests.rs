use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::litellm::cost::Cost;
use crate::litellm::probe::Figures;

/// The three files that the stack leads to, with the lines that are meant.
struct Files {
    folder: tempfile::TempDir,
    source: Source,
}

fn files() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    write(
        "threading.py",
        "def wait(self):\n    gotit = waiter.acquire(True, timeout)\n",
    );
    write(
        "concurrent/futures/_base.py",
        "class Future:\n    def result(self):\n        self._condition.wait(timeout)\n    def exception(self):\n        self._condition.wait(timeout)\n",
    );
    let file = write(
        "prisma_client.py",
        "class PrismaWrapper:\n    def __getattr__(self):\n        future.result(timeout=30)\n        raise\n",
    );
    let source = Source::read(&file).unwrap();
    Files { folder, source }
}

fn good(files: &Files) -> Seen {
    let frame = |function: &str, file: &str, line: u32| json!({"function": function, "file": files.folder.path().join(file), "line": line});
    let stack = json!([
        frame("Condition.wait", "threading.py", 2),
        frame("Future.result", "concurrent/futures/_base.py", 3),
        frame("PrismaWrapper.__getattr__", "prisma_client.py", 3),
    ]);
    let line = |kind: &str, busy: f64, mono: u64| json!({"type": kind, "incident": "I", "busy_ms": busy, "mono_ns": mono, "cause": {"kind": "lock_wait"}});
    let mut updated = line("stall_updated", 102.0, 1_102_000_000);
    updated["stack"] = stack.clone();
    let mut closed = line("stall_closed", 30_020.0, 31_020_000_000);
    closed["stack"] = stack;
    Seen {
        lines: vec![line("stall_opened", 100.0, 1_100_000_000), updated, closed],
        probed: Vec::new(),
        shown_in_time: true,
        asked_ns: 999_000_000,
        request: Duration::from_millis(30_021),
        status: 500,
        liveliness: Figures::of(&[]),
        cost: Cost {
            cpu_ms: 1.5,
            memory_mib: 0.5,
        },
    }
}

fn failures(seen: &Seen, source: &Source) -> usize {
    let checks = of(seen, source);
    checks.iter().filter(|check| !check.passed).count()
}

#[test]
fn a_good_run_passes() {
    let files = files();
    assert_eq!(failures(&good(&files), &files.source), 0);
}

#[test]
fn each_criterion_can_fail() {
    type Spoil = fn(&mut Seen);
    let cases: [(&str, Spoil, usize); 16] = [
        ("no stall", |seen| seen.lines.clear(), 1),
        (
            "too short",
            |seen| seen.lines[2]["busy_ms"] = json!(900.0),
            1,
        ),
        (
            "another stall than ours",
            |seen| seen.request = Duration::from_secs(2),
            1,
        ),
        (
            "another cause at the end",
            |seen| seen.lines[2]["cause"]["kind"] = json!("unknown"),
            1,
        ),
        (
            "another cause with the stack",
            |seen| seen.lines[1]["cause"]["kind"] = json!("sleep"),
            1,
        ),
        (
            "stack only at the end",
            |seen| seen.lines[1]["stack"] = Value::Null,
            1,
        ),
        (
            "read only after the answer",
            |seen| seen.shown_in_time = false,
            1,
        ),
        (
            "stack too late",
            |seen| seen.lines[1]["busy_ms"] = json!(2_001.0),
            1,
        ),
        (
            "began before the request",
            |seen| seen.asked_ns = 1_000_000_001,
            1,
        ),
        (
            "another caller",
            |seen| seen.lines[1]["stack"][2]["function"] = json!("f"),
            1,
        ),
        (
            "another line of the caller",
            |seen| seen.lines[1]["stack"][2]["line"] = json!(4),
            1,
        ),
        (
            "another function of the library",
            |seen| seen.lines[1]["stack"][1]["line"] = json!(5),
            1,
        ),
        (
            "an innermost line that cannot block",
            |seen| seen.lines[1]["stack"][0]["line"] = json!(1),
            1,
        ),
        ("too dear", |seen| seen.cost.cpu_ms = 50.1, 1),
        ("too large", |seen| seen.cost.memory_mib = 8.1, 1),
        (
            "an action",
            |seen| {
                seen.lines
                    .push(json!({"type": "action", "outcome": "would_send"}));
            },
            1,
        ),
    ];
    let files = files();
    for (what, spoil, expected) in cases {
        let mut seen = good(&files);
        spoil(&mut seen);
        assert_eq!(failures(&seen, &files.source), expected, "{what}");
    }
}

#[test]
fn an_old_python_names_no_classes() {
    let files = files();
    let mut seen = good(&files);
    for (frame, name) in ["wait", "result", "__getattr__"].iter().enumerate() {
        seen.lines[1]["stack"][frame]["function"] = json!(name);
    }
    assert_eq!(failures(&seen, &files.source), 0);
}
