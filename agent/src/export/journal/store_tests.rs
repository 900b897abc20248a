use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::super::line;
use super::super::read::read;
use super::super::samples::{RUN, record};
use super::*;

fn store(dir: &std::path::Path) -> Store {
    let settings = JournalSettings {
        dir: dir.to_owned(),
        max_bytes: 1 << 20,
    };
    let mut store = Store::new(settings, RUN, Arc::default(), None);
    store.open(Mono(0));
    store
}

fn write(store: &mut Store, incident: u128, now: Mono) {
    let record = record(incident, Duration::from_secs(1), 3);
    let line = line::incident(&record, store.line_limit());
    store.write(line, Some(record.incident));
    store.tick(now);
}

fn names(path: &std::path::Path) -> Vec<u128> {
    let contents = read(path).unwrap();
    assert_eq!(contents.problems, []);
    contents.incidents.keys().map(|name| name.0).collect()
}

#[test]
fn a_folder_that_vanishes_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("j");
    let mut store = store(&path);
    write(&mut store, 1, Mono(1));
    fs::remove_dir_all(&path).unwrap();
    write(&mut store, 2, Mono(2));
    assert_eq!(names(&path), [2]);
    let file = fs::read_dir(&path)
        .unwrap()
        .flatten()
        .find(|entry| entry.path().extension().is_some());
    fs::remove_file(file.unwrap().path()).unwrap();
    write(&mut store, 3, Mono(3));
    assert_eq!(names(&path), [3]);
    assert_eq!((store.state.written(), store.state.lost()), (3, 0));
}

#[test]
fn lines_wait_while_the_folder_is_another_agents_and_follow_once() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("j");
    let first = store(&path);
    let mut second = store(&path);
    let told = second.state.broken().unwrap();
    assert!(told.contains("another agent"), "{told}");
    write(&mut second, 1, Mono(1));
    write(&mut second, 2, Mono(2));
    assert_eq!(second.due(), Some(Mono(0).plus(AGAIN)));
    assert_eq!(names(&path), [0u128; 0]);
    drop(first);
    let mut later = Mono(0).plus(AGAIN);
    // A test beside this one may be between fork and exec, with a copy of the lock until the exec.
    while second.state.broken().is_some() {
        second.tick(later);
        later = later.plus(AGAIN);
    }
    assert_eq!(names(&path), [1, 2]);
    assert_eq!((second.due(), second.state.lost()), (None, 0));
}

#[test]
fn what_waits_is_bounded_and_what_is_given_up_is_counted() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("j");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let mut store = store(&path);
    assert!(store.state.broken().unwrap().contains("chmod 700"));
    for number in 0..40 {
        store.write(Ok(vec![b'x'; 250 << 10]), Some(IncidentId(number)));
    }
    let (lost, waiting) = (store.lost(), store.pending.len() as u64);
    assert_eq!(lost + waiting, 40);
    assert!(store.pending_bytes <= WAITING && waiting > 0);
    store.finish(Mono(1));
    assert_eq!(store.state.lost(), 40);
}

#[test]
fn a_journal_can_move() {
    let home = tempfile::tempdir().unwrap();
    let (old, new) = (home.path().join("old"), home.path().join("new"));
    let mut store = store(&old);
    write(&mut store, 1, Mono(1));
    let settings = JournalSettings {
        dir: new.clone(),
        max_bytes: 2 << 20,
    };
    store.reload(settings, Mono(2));
    write(&mut store, 2, Mono(3));
    assert_eq!((names(&old), names(&new)), (vec![1], vec![2]));
}
