use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::pipeline::evidence::{ChildDetail, SocketDetail, Stack, StackKind};
use crate::pipeline::{CauseKind, ChildCause, Evidence, IncidentId, Mono, NsPid, Pid, Signalled};

fn socket(state: &str, bytes: u64) -> SocketDetail {
    SocketDetail {
        protocol: "tcp".into(),
        peer: Some("10.0.0.5:5432".into()),
        state: Some(state.into()),
        unacknowledged_bytes: Some(bytes),
    }
}

fn view(state: &str, sockets: Vec<SocketDetail>) -> StallView {
    let child = ChildCause {
        pid: Pid(9),
        ns_pid: NsPid(9),
        exe: "query-engine".into(),
        state: state.into(),
        told_to_end_ms_ago: Some(99.6),
        signalled: Some(Signalled {
            by: Pid(7),
            by_exe: "python3".into(),
            signal: "SIGINT".into(),
            ms_ago: 99.6,
        }),
    };
    StallView {
        incident: IncidentId(1),
        at: Mono(1),
        busy: Duration::from_millis(100),
        busy_is_lower_bound: false,
        cause: Cause {
            kind: CauseKind::ChildWait,
            syscall: Some("wait4".into()),
            child: Some(child),
            ..Cause::default()
        },
        evidence: Some(Arc::new(Evidence {
            child: Some(ChildDetail {
                pid: Pid(9),
                exe: "query-engine".into(),
                age: Some(Duration::from_secs(4)),
                state: state.into(),
                kernel_function: Some("futex_do_wait".into()),
                sockets,
            }),
            ..Evidence::default()
        })),
        shares: Vec::new(),
    }
}

#[test]
fn the_sentence_says_why_a_child_does_not_end() {
    let table = [
        (
            view("sleeping", vec![socket("FIN_WAIT1", 42)]),
            "stuck closing to 10.0.0.5:5432 (FIN_WAIT1, 42 bytes not acknowledged)",
        ),
        (
            view("sleeping", vec![socket("ESTABLISHED", 7)]),
            "waiting for 10.0.0.5:5432 to acknowledge 7 bytes (ESTABLISHED)",
        ),
        (
            view("sleeping", vec![socket("ESTABLISHED", 0)]),
            "sleeping in the kernel's futex_do_wait",
        ),
        (view("zombie", Vec::new()), "it has ended and is not reaped"),
    ];
    for (view, why) in table {
        let text = text(&view);
        assert!(text.ends_with(why), "{text}");
        assert!(
            text.contains("told to end 100 ms ago (SIGINT from 7 python3)"),
            "{text}"
        );
    }
}

#[test]
fn the_sentence_names_the_line_and_who_called_it() {
    let frame = |function: &str, file: Option<&str>, line| Frame {
        function: function.into(),
        file: file.map(str::to_owned),
        line,
    };
    let library = "/usr/lib/python3.11";
    let site = "/app/venv/lib/python3.11/site-packages";
    let frames = vec![
        frame(
            "Condition.wait",
            Some(&format!("{library}/threading.py")),
            Some(331),
        ),
        frame(
            "Future.result",
            Some(&format!("{library}/concurrent/futures/_base.py")),
            Some(451),
        ),
        frame(
            "PrismaWrapper.__getattr__",
            Some(&format!("{site}/litellm/proxy/db/prisma_client.py")),
            Some(377),
        ),
        frame("native", None, None),
        frame("not shown", None, None),
    ];
    let mut view = view("sleeping", Vec::new());
    view.cause = Cause {
        kind: CauseKind::LockWait,
        syscall: Some("futex".into()),
        ..Cause::default()
    };
    let stack = |frames| {
        Some(Arc::new(Evidence {
            stack: Some(Stack {
                kind: StackKind::Python,
                frames,
            }),
            ..Evidence::default()
        }))
    };
    view.evidence = stack(frames);
    assert_eq!(
        text(&view),
        "lock_wait in futex; at Condition.wait (lib/python3.11/threading.py:331) \
         < Future.result (concurrent/futures/_base.py:451) \
         < PrismaWrapper.__getattr__ (proxy/db/prisma_client.py:377) < native"
    );
    view.evidence = stack(vec![frame("f", Some("app.py"), None)]);
    assert_eq!(text(&view), "lock_wait in futex; at f (app.py)");
    view.evidence = stack(Vec::new());
    assert_eq!(text(&view), "lock_wait in futex");
}

#[test]
fn the_child_of_the_cause_carries_its_details() {
    let json = json(&view("sleeping", vec![socket("FIN_WAIT1", 42)]));
    assert_eq!(json.pointer("/child/age_ms"), Some(&json!(4000)));
    assert_eq!(
        json.pointer("/child/sockets/0/peer"),
        Some(&json!("10.0.0.5:5432"))
    );
    assert_eq!(
        json.pointer("/child/signalled/signal"),
        Some(&json!("SIGINT"))
    );
    // Of another child than the one that the cause is about by now.
    let mut other = view("sleeping", Vec::new());
    other.cause.child.as_mut().unwrap().pid = Pid(10);
    assert_eq!(super::json(&other).pointer("/child/age_ms"), None);
}
