use std::path::Path;
use std::sync::{Arc, Mutex};

use super::super::line;
use super::super::samples::{RUN, race, record};
use super::*;
use crate::export::delivery::Event;
use crate::export::journal::DirError;

const MIB: u64 = 1 << 20;

type Sent = Arc<Mutex<Vec<Event>>>;

/// What was sent since the last call.
fn sent(events: &Sent) -> Vec<u128> {
    let events = std::mem::take(&mut *events.lock().unwrap());
    events
        .iter()
        .filter_map(|event| Some(event.ends?.0))
        .collect()
}

/// A run of the agent. A test beside this one may be between fork and exec, with a copy of the lock of an earlier run.
fn run(path: &Path) -> (Writer, Sending, Sent) {
    let writer = loop {
        match Writer::open(path, RUN, MIB) {
            Err(DirError::Locked { .. }) => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    let events = Sent::default();
    let into = events.clone();
    let mut sending = Sending::new(Arc::new(move |more| into.lock().unwrap().extend(more)));
    sending.opened(&writer, Mono(0));
    sending.tick(writer.dir(), Mono(0));
    (writer, sending, events)
}

fn finish(writer: &mut Writer, sending: &mut Sending, incident: u128) {
    let record = record(incident, Duration::from_secs(1), 3);
    let line = line::incident(&record, writer.line_limit()).unwrap();
    let at = writer.append(&line).unwrap();
    sending.appended(Some(record.incident), at, writer.end());
}

fn ids(range: std::ops::Range<u128>) -> Vec<IncidentId> {
    range.map(IncidentId).collect()
}

#[test]
fn what_one_run_did_not_get_rid_of_the_next_one_sends_once() {
    let home = tempfile::tempdir().unwrap();
    {
        let (mut writer, mut sending, events) = run(home.path());
        for incident in 0..70 {
            finish(&mut writer, &mut sending, incident);
        }
        sending.delivered(Delivery::Taken, &ids(0..2));
        sending.tick(writer.dir(), Mono(10_000_000_000));
        assert_eq!(sent(&events), [], "the exporters have them");
        // Killed here: nothing is written at the end.
    }
    {
        let (writer, mut sending, events) = run(home.path());
        assert_eq!(sent(&events), (2..66).collect::<Vec<u128>>());
        sending.tick(writer.dir(), Mono(1));
        assert_eq!(sent(&events), [], "the first part is unanswered");
        sending.delivered(Delivery::Taken, &ids(2..66));
        sending.tick(writer.dir(), Mono(1));
        assert_eq!(sent(&events), [66, 67, 68, 69]);
        sending.delivered(Delivery::Refused, &ids(66..70));
        sending.left(writer.dir(), Mono(2));
        assert_eq!(sending.given_up(), 0);
    }
    let (_, sending, events) = run(home.path());
    assert_eq!((sent(&events), sending.due()), (Vec::new(), None));
}

#[test]
fn a_startup_race_that_no_collector_got_is_sent_too() {
    let home = tempfile::tempdir().unwrap();
    let write = |writer: &mut Writer, sending: &mut Sending, incident: u128| {
        let race = race(incident);
        let at = writer.append(&line::race(&race).unwrap()).unwrap();
        sending.appended(Some(race.incident), at, writer.end());
    };
    {
        let (mut writer, mut sending, events) = run(home.path());
        write(&mut writer, &mut sending, 1);
        finish(&mut writer, &mut sending, 2);
        write(&mut writer, &mut sending, 3);
        sending.delivered(Delivery::GivenUp, &ids(1..2));
        sending.tick(writer.dir(), Mono(0));
        assert_eq!(sent(&events), [1]);
        sending.delivered(Delivery::Taken, &ids(1..2));
        sending.left(writer.dir(), Mono(10_000_000_000));
    }
    let (_, mut sending, events) = run(home.path());
    assert_eq!(sent(&events), [2, 3]);
    assert_eq!(sending.given_up(), 0);
}

#[test]
fn the_cursor_is_written_once_a_second_at_most() {
    let home = tempfile::tempdir().unwrap();
    let (mut writer, mut sending, _) = run(home.path());
    let cursor = |writer: &Writer| writer.dir().small(CURSOR).unwrap();
    let at_first = cursor(&writer);
    assert_eq!(parse(&at_first), Some(writer.end()));
    finish(&mut writer, &mut sending, 1);
    sending.delivered(Delivery::Taken, &ids(1..2));
    let due = sending.due().unwrap();
    sending.tick(writer.dir(), Mono(due.0 - 1));
    assert_eq!(cursor(&writer), at_first);
    sending.tick(writer.dir(), due);
    assert_eq!(parse(&cursor(&writer)), Some(writer.end()));
    assert_eq!(sending.due(), None);
}

#[test]
fn what_rotation_took_is_counted_and_another_record_in_its_place_not_taken_for_it() {
    let home = tempfile::tempdir().unwrap();
    let (mut writer, mut sending, events) = run(home.path());
    for incident in 0..3 {
        finish(&mut writer, &mut sending, incident);
    }
    // In the place of the first there is another, and nothing in the places of the others.
    let mut other = Writer::open(&home.path().join("other"), RUN, MIB).unwrap();
    let unrelated = record(98, Duration::from_secs(1), 3);
    let line = line::incident(&unrelated, other.line_limit()).unwrap();
    other.append(&line).unwrap();
    sending.delivered(Delivery::GivenUp, &ids(0..3));
    sending.tick(other.dir(), Mono(0));
    assert_eq!((sent(&events), sending.given_up()), (Vec::new(), 3));
}

#[test]
fn a_folder_without_a_cursor_or_with_a_damaged_one_has_nothing_to_send() {
    for damage in [None, Some(""), Some("1"), Some("1 2 3"), Some("-1 x\n")] {
        let home = tempfile::tempdir().unwrap();
        {
            let (mut writer, mut sending, _) = run(home.path());
            finish(&mut writer, &mut sending, 1);
        }
        let path = home.path().join(CURSOR);
        match damage {
            None => std::fs::remove_file(path).unwrap(),
            Some(text) => std::fs::write(path, text).unwrap(),
        }
        let (writer, _, events) = run(home.path());
        assert_eq!(sent(&events), [], "{damage:?}");
        assert_eq!(
            parse(&writer.dir().small(CURSOR).unwrap()),
            Some(writer.end())
        );
    }
}

#[test]
fn an_agent_that_exports_nothing_leaves_no_cursor() {
    let home = tempfile::tempdir().unwrap();
    let (writer, _, _) = run(home.path());
    Sending::none(writer.dir());
    assert!(!home.path().join(CURSOR).exists());
}
