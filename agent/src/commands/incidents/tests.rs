use crate::commands::incidents::select::Select;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::commands::incidents::render::{markdown, text};
use crate::pipeline::cause::Signalled;
use crate::pipeline::collect::{Collector, Step};
use crate::pipeline::evidence::{ChildDetail, Details, Missing, SocketDetail, Stack, StackKind};
use crate::pipeline::liveness::Outlook;
use crate::pipeline::pod::PodName;
use crate::pipeline::record::{EngineInForce, InForce};
use crate::pipeline::stamp::{Stamp, Tied};
use crate::pipeline::{
    ActionNotice, Cause, CauseKind, ChildCause, Evidence, Frame, IncidentId, LoopId, LoopInfo,
    Mono, Notice, NsPid, Outcome, Pid, PidKey, Signal, StallView, Tid,
};

const EVIL: &str =
    "a|b`c``d\n\n# pwned\n<script>alert(1)</script> [x](http://evil) \u{1b}[31m\u{202e}\\|";

/// The R-incident, with every name in it chosen by an attacker or not.
fn record(name: &str, missing: &[(&str, &str)]) -> IncidentRecord {
    let info = Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(42),
                start_ns: 9,
            },
            tid: Tid(42),
        },
        slot: 0,
        target: name.to_owned(),
        exe: name.to_owned(),
        poller: "epoll_wait".into(),
        plan: "fentry",
        pod: Some(PodName {
            uid: "u1".into(),
            namespace: name.to_owned(),
            name: name.to_owned(),
            container: Some(name.to_owned()),
        }),
    });
    let incident = IncidentId(1 << 100);
    let view = |ms, evidence| StallView {
        incident,
        at: Mono(ms * 1_000_000),
        busy: Duration::from_millis(ms),
        busy_is_lower_bound: false,
        cause: Cause {
            kind: CauseKind::ChildWait,
            syscall: Some("wait4".into()),
            child: Some(ChildCause {
                pid: Pid(99),
                ns_pid: NsPid(12),
                exe: name.to_owned(),
                state: "sleeping".into(),
                told_to_end_ms_ago: Some(90.0),
                signalled: Some(Signalled {
                    by: Pid(42),
                    by_exe: name.to_owned(),
                    signal: "SIGINT".into(),
                    ms_ago: 90.0,
                }),
            }),
            ..Cause::default()
        },
        evidence,
        shares: Vec::new(),
    };
    let evidence = Some(Arc::new(evidence(name, missing)));
    let action = ActionNotice {
        incident,
        at: Mono(500_000_000),
        child: Pid(99),
        child_exe: name.to_owned(),
        signal: Signal::Kill,
        mode: Mode::Enforce,
        busy: Duration::from_millis(500),
        outcome: Outcome::Sent,
        grace: Duration::from_millis(500),
        grace_reason: None,
        detail: Some(name.to_owned()),
    };
    let notices = [
        Notice::StallOpened {
            info: info.clone(),
            view: view(100, None),
        },
        Notice::StallUpdated {
            info: info.clone(),
            view: view(140, evidence.clone()),
        },
        Notice::Action {
            info: info.clone(),
            action,
        },
        Notice::StallClosed {
            info,
            view: view(502, evidence),
            rescued: true,
            ended_by: EndedBy::Poll,
            liveness: None,
        },
    ];
    let clock = Tied {
        mono: Mono(0),
        wall: Stamp(1_709_210_096_000_000),
    };
    let mut collector = Collector::new(IncidentId(5));
    for notice in &notices {
        if let Step::Closed(record) = collector.take(notice, clock, |_| in_force()) {
            return *record;
        }
    }
    panic!("no record")
}

fn evidence(name: &str, missing: &[(&str, &str)]) -> Evidence {
    let socket = SocketDetail {
        protocol: "tcp".into(),
        peer: Some("10.0.0.5:5432".into()),
        state: Some("LAST_ACK".into()),
        unacknowledged_bytes: Some(117),
    };
    Evidence {
        details: Details::default(),
        stack: (!missing.iter().any(|(what, _)| *what == "stack")).then(|| Stack {
            kind: StackKind::Python,
            frames: vec![Frame {
                function: name.to_owned(),
                file: Some("subprocess.py".into()),
                line: Some(1264),
            }],
        }),
        child: Some(ChildDetail {
            pid: Pid(99),
            exe: name.to_owned(),
            state: "sleeping".into(),
            sockets: vec![socket],
            ..ChildDetail::default()
        }),
        missing: missing
            .iter()
            .map(|(what, why)| Missing {
                what: (*what).to_owned(),
                why: (*why).to_owned(),
            })
            .collect(),
        ..Evidence::default()
    }
}

fn in_force() -> InForce {
    InForce {
        mode: Mode::Enforce,
        stall_after: Duration::from_millis(100),
        engine: Some(EngineInForce {
            grace: Duration::from_millis(500),
            unknown_grace: Duration::from_secs(10),
            untold_grace: None,
            through_wrapper: false,
            max_kills: 20,
            max_kills_per: Duration::from_mins(10),
        }),
        ..InForce::default()
    }
}

fn post_mortem(record: &IncidentRecord) -> String {
    markdown(&report(record, false, Style::Markdown))
}

#[test]
fn a_post_mortem_tells_what_an_expert_would_ask() {
    let written = post_mortem(&record("query-engine", &[("holder", "nothing holds it.")]));
    for part in [
        "# Incident 00000100000000000000000000: the event loop of `query-engine` was blocked for 502.0 ms",
        "it waited for its child `query-engine` (pid 99) in `wait4`. Loopwarden sent SIGKILL to `query-engine` (pid 99) after 500.0 ms.",
        "| 12:34:56.010 | 10.0 ms | `query-engine` (pid 42) told the child `query-engine` (pid 99) to end (`SIGINT`) |",
        "| 12:34:56.140 | 140.0 ms | evidence: in `query-engine (subprocess.py:1264)` |",
        "The child `query-engine` (pid 99), 12 as the process itself numbers it, was `sleeping`; `query-engine` (pid 42) had told it to end (`SIGINT`).",
        "Why it did not end: it was closing a connection whose other end did not answer: `tcp` to `10.0.0.5:5432`, `LAST_ACK`, 117 bytes not acknowledged.",
        "```text\nquery-engine (subprocess.py:1264)\n```",
        "- engine: grace 500.0 ms, unknown_grace 10.00 s, untold_grace never",
        "## Open questions\n\n- No `holder`: `nothing holds it`.\n",
    ] {
        assert!(written.contains(part), "{part}\nis not in\n{written}");
    }
}

#[test]
fn the_impact_tells_what_is_known_of_liveness_probes() {
    let mut record = record("query-engine", &[]);
    let written = post_mortem(&record);
    assert!(
        written.contains("No liveness probe is known to have failed"),
        "{written}"
    );
    for (left, said) in [
        (
            7500,
            "in a row: 2. The kubelet would have decided to kill the container 7.50 s later, give or take 5.00 s.",
        ),
        (
            0,
            "in a row: 2. The kubelet's decision to kill the container was due.",
        ),
    ] {
        record.outcome.as_mut().unwrap().liveness = Some(Outlook {
            failed_probes: 2,
            to_decision: Some(Duration::from_millis(left)),
            to_sigkill: None,
            uncertainty: Some(Duration::from_secs(5)),
            sigterm_uncertainty: Some(Duration::from_secs(5)),
            sigkill_uncertainty: Some(Duration::from_secs(5)),
            probes_seen: false,
        });
        let line = serde_json::to_string(&record).unwrap();
        let read: IncidentRecord = serde_json::from_str(&line).unwrap();
        assert_eq!(read, record, "as the journal keeps it");
        let written = post_mortem(&read);
        assert!(written.contains(said), "{written}");
    }
}

#[test]
fn what_is_missing_becomes_a_question() {
    let mut record = record("query-engine", &[("stack", "the process ended first")]);
    let asked =
        |record: &IncidentRecord, unfinished| questions(record, unfinished, Style::Text).join("\n");
    assert_eq!(asked(&record, false), "No stack: the process ended first.");
    record.evidence.clear();
    for entry in &mut record.timeline {
        if let What::Opened { cause } | What::Cause { cause } = &mut entry.what {
            let child = cause.child.as_mut().unwrap();
            (child.told_to_end_ms_ago, child.signalled) = (None, None);
        }
    }
    let child = record.cause.child.as_mut().unwrap();
    (child.told_to_end_ms_ago, child.signalled) = (None, None);
    record.began_earlier = true;
    record.outcome = None;
    assert_eq!(
        asked(&record, true).lines().collect::<Vec<_>>(),
        [
            "How it ended: the agent ended while it lasted.",
            "When it began: the loop was away already when the agent came.",
            "Who told query-engine (pid 99) to end is unknown because the wait is older than the agent.",
            "Why query-engine (pid 99) did not end: none of its connections was shown.",
            "Which line of code it was: no stack was taken.",
        ]
    );
    let written = text(&report(&record, true, Style::Text));
    assert!(written.contains("at least 502.0 ms"), "{written}");
    assert!(written.contains("its end was not seen"), "{written}");
}

/// The structure of a document: its headings, table rows' cells and code fences must not depend on names.
fn shape(written: &str) -> Vec<String> {
    let mut fence: Option<String> = None;
    let mut shape = Vec::new();
    for line in written.lines() {
        let ticks: String = line.chars().take_while(|c| *c == '`').collect();
        if let Some(open) = &fence {
            if line == open {
                fence = None;
                shape.push("fence".to_owned());
            }
            continue;
        }
        if ticks.len() >= 3 && line[ticks.len()..] == *"text" {
            shape.push("fence".to_owned());
            fence = Some(ticks);
        } else if line.starts_with('#') {
            shape.push(line.split(' ').next().unwrap_or_default().to_owned());
        } else if line.starts_with('|') {
            shape.push(format!("cells {}", line.matches('|').count()));
        } else if line.starts_with('-') {
            shape.push("item".to_owned());
        } else {
            shape.push((if line.is_empty() { "" } else { "text" }).to_owned());
        }
    }
    assert_eq!(fence, None, "{written}");
    shape
}

/// What a Markdown reader takes for text, with code spans taken out as `CommonMark` does.
fn outside_code(line: &str) -> String {
    let (mut outside, mut rest) = (String::new(), line);
    while let Some(start) = rest.find('`') {
        outside.push_str(&rest[..start]);
        let run = rest[start..].chars().take_while(|c| *c == '`').count();
        let after = &rest[start + run..];
        let mut search = 0;
        let end = loop {
            let found = search
                + after[search..]
                    .find('`')
                    .unwrap_or_else(|| panic!("open code in {line}"));
            let length = after[found..].chars().take_while(|c| *c == '`').count();
            if length == run {
                break found + length;
            }
            search = found + length;
        };
        rest = &after[end..];
    }
    outside + rest
}

#[test]
fn hostile_names_change_no_structure_and_move_no_cursor() {
    let harmless = post_mortem(&record("x", &[("holder", "x")]));
    let hostile = post_mortem(&record(EVIL, &[("holder", EVIL)]));
    assert_eq!(shape(&hostile), shape(&harmless));
    let prose = hostile.split("text\n").next().unwrap();
    for line in prose.lines().filter(|line| !line.starts_with("```")) {
        let outside = outside_code(line);
        assert!(
            !outside.contains("script") && !outside.contains("evil"),
            "{outside}"
        );
    }
    let plain = text(&report(
        &record(EVIL, &[("holder", EVIL)]),
        false,
        Style::Text,
    ));
    for written in [&hostile, &plain] {
        assert!(
            !written
                .chars()
                .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}')
        );
        assert!(!written.contains("\n# pwned"));
    }
}

#[test]
fn incidents_are_found_by_their_pod() {
    let mut shown = record("x", &[]);
    let pod = shown.who.pod.as_mut().unwrap();
    (pod.namespace, pod.name) = ("shop".into(), "a".into());
    let mut nowhere = record("x", &[]);
    nowhere.incident = IncidentId(2 << 100);
    nowhere.who.pod = None;
    let incidents = [shown, nowhere]
        .map(|record| (record.incident, record))
        .into();
    for (wanted, found) in [
        ("a", 1),
        ("shop/a", 1),
        ("shop", 0),
        ("other/a", 0),
        ("", 0),
    ] {
        let select = Select {
            pod: Some(wanted.into()),
            ..Select::default()
        };
        assert_eq!(select.records(&incidents).len(), found, "{wanted:?}");
    }
    assert_eq!(Select::default().records(&incidents).len(), 2);
}
