use super::super::samples::{action, record};
use super::*;
use crate::pipeline::evidence::{ChildDetail, SocketDetail};
use crate::pipeline::record::{Entry, What};
use crate::pipeline::{Frame, Pid};

const LIMIT: usize = 64 << 10;

fn back(line: &[u8]) -> IncidentRecord {
    let (end, line) = line.split_last().unwrap();
    assert_eq!(*end, b'\n');
    assert!(!line.contains(&b'\n'));
    match decode(line).unwrap() {
        Line::Incident(record) => *record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_reads_back_as_written() {
    let mut record = record(1, Duration::from_micros(1_234_567), 8);
    record.actions.push(action());
    assert_eq!(back(&incident(&record, LIMIT).unwrap()), record);
}

#[test]
fn hostile_names_stay_on_their_line_and_credentials_stay_inside() {
    let mut record = record(1, Duration::from_secs(1), 8);
    record.who.exe = "a\n{\"type\":\"incident\"}\u{1b}[2J\0".into();
    record.cause.peer = Some("postgres://me:hunter2@db:5432".into());
    record.evidence[0].found.details.file = Some("nfs://root:hunter2@nas/x".into());
    let line = incident(&record, LIMIT).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains("hunter2"));
    let read = back(&line);
    assert_eq!(read.who.exe, record.who.exe);
    assert_eq!(read.cause.peer.as_deref(), Some("postgres://db:5432"));
}

#[test]
fn a_huge_record_is_cut_with_a_note() {
    let mut record = record(1, Duration::from_secs(1), 8);
    let frame = |n: usize| Frame {
        function: format!("f{n}"),
        file: Some("x".repeat(500)),
        line: Some(3),
    };
    let socket = SocketDetail {
        peer: Some("y".repeat(300)),
        ..SocketDetail::default()
    };
    let found = &mut record.evidence[0].found;
    found.stack.as_mut().unwrap().frames = (0..1000).map(frame).collect();
    found.child = Some(ChildDetail {
        pid: Pid(3),
        sockets: vec![socket; 1000],
        ..ChildDetail::default()
    });
    let line = incident(&record, LIMIT).unwrap();
    assert!(line.len() <= LIMIT);
    let read = back(&line);
    assert_eq!(
        read.cut,
        [
            "frames: 984 of 1000 left out",
            "sockets of the child: 984 of 1000 left out"
        ]
    );
    let stack = read.newest(|found| found.stack.as_ref()).unwrap().1;
    assert_eq!(stack.frames[0].function, "f0");

    record.cause.file = Some("\u{1}".repeat(100_000));
    let entry = Entry {
        what: What::Cause {
            cause: record.cause.clone(),
        },
        ..record.timeline[0].clone()
    };
    record.timeline = vec![entry; 64];
    record.who.exe = "ü".repeat(100_000);
    let line = incident(&record, LIMIT).unwrap();
    assert!(line.len() <= LIMIT);
    assert!(
        back(&line).cut[0].starts_with("all evidence"),
        "{:?}",
        back(&line).cut
    );
    assert!(incident(&record, 100).is_err());
}

#[test]
fn what_is_no_line_of_ours_is_said_to_be_none() {
    for (line, what) in [
        (&b""[..], "no record"),
        (b"{", "no record"),
        (b"\xff\xfe", "no record"),
        (b"\0\0\0", "zero bytes"),
        (br#"{"type":"incident","v":2}"#, "version 2"),
        (br#"{"type":"party","v":1}"#, "unknown type \"party\""),
        (br#"{"type":"incident","v":1}"#, "missing field"),
        (br#"{"type":7,"v":1}"#, "no record"),
    ] {
        let error = decode(line).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
    let deep = "[".repeat(100_000);
    assert!(decode(deep.as_bytes()).is_err());
}

#[test]
fn a_startup_race_comes_back_without_credentials() {
    use crate::pipeline::engines::{EngineView, StartupRace};
    use crate::pipeline::stamp::Tied;
    use crate::pipeline::{LoopId, LoopInfo, Mono, Pid, PidKey, Tid};
    let info = LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(7),
                start_ns: 9,
            },
            tid: Tid(7),
        },
        slot: 0,
        target: "litellm".into(),
        exe: "python3".into(),
        poller: "epoll_wait".into(),
        plan: "fentry",
        pod: None,
    };
    let told = StartupRace {
        incident: IncidentId(3),
        engine: EngineView {
            pid: Pid(9),
            exe: "http://user:secret@host/engine".into(),
            generation: 2,
        },
        began: Mono(1_000_000),
        lasted: Duration::from_secs(5),
        refused: 50,
        port: None,
        startup: None,
    };
    let clock = Tied {
        mono: Mono(0),
        wall: Stamp(1_700_000_000_000_000),
    };
    let record = RaceRecord::new(IncidentId(1), &info, &told, Mono(5_001_000_000), clock);
    let mut line = race(&record).unwrap();
    assert_eq!(line.pop(), Some(b'\n'));
    let text = String::from_utf8_lossy(&line).into_owned();
    assert!(!text.contains("secret"), "{text}");
    let Line::Race(found) = decode(&line).unwrap() else {
        panic!("{text}");
    };
    assert_eq!((found.refused, found.lasted), (50, Duration::from_secs(5)));
    assert_eq!((found.port, found.who.pid), (None, Pid(7)));
}
