//! docs/events.md is the schema of the events: every attribute that the code puts on a record stands in its table, with its type
//! and events, and nothing else does.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use loopwarden::export::event::{late, late_race, record};
use loopwarden::export::registry::Now;
use loopwarden::pipeline::collect::{Collector, Step};
use loopwarden::pipeline::engines::record::RaceRecord;
use loopwarden::pipeline::engines::{EngineNews, EngineReady, EngineView, News, StartupRace};
use loopwarden::pipeline::evidence::{ChildDetail, Details, SocketDetail, Stack, StackKind};
use loopwarden::pipeline::liveness::{Level, Outlook, RiskView};
use loopwarden::pipeline::pod::PodName;
use loopwarden::pipeline::record::InForce;
use loopwarden::pipeline::stamp::{Stamp, Tied};
use loopwarden::pipeline::{
    ActionNotice, Cause, CauseKind, ChildCause, EndedBy, Evidence, Frame, GraceReason, IncidentId,
    LoopId, LoopInfo, LoopTotals, Mode, Mono, Notice, NsPid, Outcome, Pid, PidKey, Refusal, Signal,
    Signalled, StallView, StarvedBy, StoppedBy, Tid,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

const NOW: Mono = Mono(10_000_000_000);

/// An attribute of an event, as the page and the code have it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    event: String,
    name: String,
    kind: String,
}

#[test]
fn the_table_of_events_names_every_attribute_and_no_other() {
    let (told, documented) = (told(), documented());
    let lacking: Vec<_> = told.difference(&documented).collect();
    assert!(
        lacking.is_empty(),
        "told, but not in the table of docs/events.md: {lacking:#?}"
    );
    let surplus: Vec<_> = documented.difference(&told).collect();
    assert!(
        surplus.is_empty(),
        "in the table of docs/events.md, but never told: {surplus:#?}"
    );
}

#[test]
fn what_is_lost_is_explained_on_the_page_of_lines() {
    let page = page("lines.md");
    let (_, rest) = page.split_once("\n## `lost`\n").unwrap();
    let section = rest.split("\n## ").next().unwrap_or(rest);
    let mut told: BTreeSet<String> = loopwarden_abi::Counter::ALL
        .map(|counter| counter.name().to_owned())
        .into();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&here, &mut |text| told.extend(lost_in(text)));
    for known in ["ring_full", "scout_queue_full", "journal_records"] {
        assert!(told.contains(known), "{known} was not found in {told:?}");
    }
    for what in told {
        assert!(
            section.contains(&format!("`{what}`")),
            "the section `lost` of docs/lines.md does not explain {what}"
        );
    }
}

/// The words that a source file tells as lost: they stand beside `Notice::Lost`, or in a list of names and counts.
fn lost_in(text: &str) -> Vec<String> {
    let first_word = |text: &str| {
        let word = text.split('"').next()?;
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        (!word.is_empty() && word.chars().all(plain)).then(|| word.to_owned())
    };
    let beside = text.split("Notice::Lost {").skip(1).filter_map(|after| {
        let fields = after.split('}').next()?;
        first_word(fields.split_once("what: \"")?.1)
    });
    // The names of `tell_lost` of the journal.
    let listed = text.split("fn tell_lost(").skip(1).flat_map(|after| {
        let body = after.split("\n    fn ").next().unwrap_or(after);
        body.split('"')
            .skip(1)
            .step_by(2)
            .filter_map(first_word)
            .collect::<Vec<_>>()
    });
    let method = text.split(".lost(\"").skip(1).filter_map(first_word);
    let pushed = text.split("lost.push((\"").skip(1).filter_map(first_word);
    beside.chain(listed).chain(method).chain(pushed).collect()
}

fn sources(folder: &Path, each: &mut impl FnMut(&str)) {
    for entry in std::fs::read_dir(folder).expect("the sources can be listed") {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() {
            sources(&path, each);
        } else if path.extension().is_some_and(|end| end == "rs")
            && !path.to_string_lossy().ends_with("tests.rs")
        {
            each(&std::fs::read_to_string(&path).expect("sources are text"));
        }
    }
}

/// What the code puts on records in which everything is set that can be.
fn told() -> BTreeSet<Attribute> {
    let now = Now {
        mono: NOW,
        unix_ns: 1_700_000_000_000_000_000,
    };
    let notices = notices();
    let mut told = BTreeSet::new();
    for notice in &notices {
        let record = record(notice, now);
        let name = record.as_ref().map(|record| record.event_name.as_str());
        assert_eq!(name, expected(notice), "{notice:?}");
        told.extend(record.iter().flat_map(attributes));
    }
    let clock = Tied {
        mono: NOW,
        wall: Stamp(1_700_000_000_000_000),
    };
    let mut collector = Collector::new(IncidentId(2));
    for notice in &notices {
        if let Notice::Engine { info, news } = notice
            && let EngineNews::StartupRace(race) = &news.what
        {
            let record = RaceRecord::new(IncidentId(2), info, race, news.at, clock);
            let events = late_race(&record, now);
            told.extend(events.iter().flat_map(|event| attributes(&event.record)));
        }
        if let Step::Closed(incident) = collector.take(notice, clock, |_| InForce::default()) {
            let events = late(&incident, now);
            assert!(events.len() > 1, "{events:?}");
            told.extend(events.iter().flat_map(|event| attributes(&event.record)));
        }
    }
    told
}

/// Which event a notice is. A new notice does not compile before it is given a place here, and an example below.
fn expected(notice: &Notice) -> Option<&'static str> {
    match notice {
        Notice::StallOpened { .. } => Some("loopwarden.stall_opened"),
        Notice::StallClosed { .. } => Some("loopwarden.stall_closed"),
        Notice::Action { .. } => Some("loopwarden.action"),
        Notice::Risk { .. } => Some("loopwarden.liveness_risk"),
        Notice::Lost { .. } => Some("loopwarden.lost"),
        Notice::Engine { news, .. } => match news.what {
            EngineNews::StartupRace(_) => Some("loopwarden.startup_race"),
            _ => None,
        },
        Notice::Loop { .. }
        | Notice::Placed { .. }
        | Notice::StallUpdated { .. }
        | Notice::Episode { .. }
        | Notice::EngineWait { .. }
        | Notice::LoopEnded { .. } => None,
    }
}

fn attributes(record: &LogRecord) -> Vec<Attribute> {
    let event = record.event_name.trim_start_matches("loopwarden.");
    let attribute = |key: &str, value: Option<&Value>| Attribute {
        event: event.to_owned(),
        name: family(key),
        kind: match value {
            Some(Value::StringValue(_)) => "string",
            Some(Value::IntValue(_)) => "int",
            Some(Value::DoubleValue(_)) => "double",
            Some(Value::BoolValue(_)) => "boolean",
            other => panic!("{key} has a type that the page has no word for: {other:?}"),
        }
        .to_owned(),
    };
    record
        .attributes
        .iter()
        .map(|pair| {
            let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
            attribute(&pair.key, value)
        })
        .collect()
}

/// The name under which the page has a family of attributes.
fn family(key: &str) -> String {
    let kind = key.strip_prefix("loopwarden.share.");
    if kind.is_some_and(|kind| CauseKind::ALL.iter().any(|known| known.name() == kind)) {
        return "loopwarden.share.KIND".to_owned();
    }
    key.to_owned()
}

/// The table of the page: `| attribute | type | unit | events | when |`.
fn documented() -> BTreeSet<Attribute> {
    let page = page("events.md");
    let (_, rest) = page
        .split_once("\n## Attributes\n")
        .expect("docs/events.md has no section \"Attributes\"");
    let section = rest.split("\n## ").next().unwrap_or(rest);
    let mut found = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [names, kind, _unit, events, when] = cells[..] else {
            panic!("not five cells: {row}");
        };
        assert!(!when.is_empty(), "no word of when it is there: {row}");
        for name in words(names) {
            for event in words(events) {
                let new = found.insert(Attribute {
                    event: event.clone(),
                    name: name.clone(),
                    kind: kind.to_owned(),
                });
                assert!(new, "twice in the table: {name} on {event}");
            }
        }
    }
    found
}

fn words(cell: &str) -> Vec<String> {
    cell.split(", ")
        .map(|word| word.trim_matches('`').to_owned())
        .collect()
}

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    std::fs::read_to_string(path).expect("the page can be read")
}

fn notices() -> Vec<Notice> {
    let at = NOW;
    vec![
        Notice::Loop { at, info: info() },
        Notice::StallOpened {
            info: info(),
            view: view(Vec::new()),
        },
        Notice::StallUpdated {
            info: info(),
            view: view(Vec::new()),
        },
        Notice::Action {
            info: info(),
            action: action(),
        },
        Notice::Risk {
            info: info(),
            risk: RiskView {
                at,
                level: Level::Imminent,
                changed: true,
                outlook: outlook(),
            },
        },
        Notice::EngineWait {
            at,
            info: info(),
            lasted: Duration::from_secs(1),
        },
        Notice::Engine {
            info: info(),
            news: News {
                at,
                what: EngineNews::Ready(EngineReady::Accepts),
            },
        },
        Notice::Engine {
            info: info(),
            news: News {
                at,
                what: EngineNews::StartupRace(Box::new(race())),
            },
        },
        Notice::Lost {
            at,
            what: "ring_full".into(),
            count: 1,
        },
        Notice::StallClosed {
            info: info(),
            view: view(vec![(CauseKind::ChildWait, 0.7), (CauseKind::CpuBusy, 0.3)]),
            rescued: true,
            ended_by: EndedBy::Poll,
            liveness: Some(outlook()),
        },
        Notice::LoopEnded {
            at,
            info: info(),
            totals: LoopTotals::default(),
            ended_by: EndedBy::Exit,
        },
    ]
}

fn race() -> StartupRace {
    StartupRace {
        incident: IncidentId(3),
        engine: EngineView {
            pid: Pid(9),
            exe: "query-engine".into(),
            generation: 1,
        },
        began: Mono(1),
        lasted: Duration::from_secs(5),
        refused: 50,
        port: Some(4466),
        startup: Some(Duration::from_secs(6)),
    }
}

fn info() -> Arc<LoopInfo> {
    Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(7),
                start_ns: 9,
            },
            tid: Tid(8),
        },
        slot: 0,
        target: "litellm".into(),
        exe: "python3.11".into(),
        poller: "epoll_wait".into(),
        plan: "fentry",
        pod: Some(PodName {
            uid: "5f0c".into(),
            namespace: "shop".into(),
            name: "a".into(),
            container: Some("proxy".into()),
        }),
    })
}

fn outlook() -> Outlook {
    let span = Some(Duration::from_secs(9));
    Outlook {
        failed_probes: 2,
        to_decision: span,
        to_sigkill: span,
        uncertainty: span,
        sigterm_uncertainty: span,
        sigkill_uncertainty: span,
        probes_seen: false,
    }
}

fn action() -> ActionNotice {
    ActionNotice {
        incident: IncidentId(1),
        at: NOW,
        child: Pid(9),
        child_exe: "query-engine".into(),
        signal: Signal::Kill,
        mode: Mode::Enforce,
        busy: Duration::from_millis(500),
        outcome: Outcome::Refused(Refusal::Budget),
        grace: Duration::from_millis(500),
        grace_reason: Some(GraceReason::Deadline),
        detail: Some("why".into()),
    }
}

/// Every field by its name: one that is added does not compile before it is set here too.
fn view(shares: Vec<(CauseKind, f64)>) -> StallView {
    let text = |text: &str| Some(text.to_owned());
    StallView {
        incident: IncidentId(1),
        at: NOW,
        busy: Duration::from_millis(600),
        busy_is_lower_bound: true,
        cause: Cause {
            kind: CauseKind::ChildWait,
            syscall: text("wait4"),
            child: Some(child()),
            peer: text("10.0.0.5:5432"),
            file: text("/x"),
            holder_pid: Some(Pid(3)),
            holder_exe: text("sh"),
            protocol: text("tcp"),
            socket_state: text("ESTABLISHED"),
            dns: true,
            starved_by: Some(StarvedBy::CgroupQuota),
            stopped_by: Some(StoppedBy::Signal),
            kernel_function: text("futex_do_wait"),
        },
        evidence: Some(Arc::new(evidence())),
        shares,
    }
}

fn child() -> ChildCause {
    ChildCause {
        pid: Pid(9),
        ns_pid: NsPid(9),
        exe: "query-engine".into(),
        state: "sleeping".into(),
        told_to_end_ms_ago: Some(1.0),
        signalled: Some(Signalled {
            by: Pid(7),
            by_exe: "python3".into(),
            signal: "SIGINT".into(),
            ms_ago: 1.0,
        }),
    }
}

fn evidence() -> Evidence {
    let frame = Frame {
        function: "wait".into(),
        file: Some("subprocess.py".into()),
        line: Some(3),
    };
    let stack = Some(Stack {
        kind: StackKind::Python,
        frames: vec![frame],
    });
    Evidence {
        asked: NOW,
        took: Duration::from_millis(1),
        details: Details::default(),
        stack: stack.clone(),
        holder_stack: stack,
        child: Some(ChildDetail {
            pid: Pid(9),
            exe: "query-engine".into(),
            age: Some(Duration::from_secs(4)),
            state: "sleeping".into(),
            kernel_function: Some("futex_do_wait".into()),
            sockets: vec![SocketDetail {
                protocol: "tcp".into(),
                peer: Some("10.0.0.5:5432".into()),
                state: Some("FIN_WAIT1".into()),
                unacknowledged_bytes: Some(1),
            }],
        }),
        missing: Vec::new(),
    }
}
