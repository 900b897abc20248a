//! kill -9 at any moment.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use loopwarden::export::journal::read::{Contents, read};
use loopwarden::pipeline::IncidentId;
use loopwarden::pipeline::record::State;

use super::writer::{DIR, MAX_BYTES, busy_of};

/// How often the agent is killed; the long form of the tests sets it to more.
const KILLS: &str = "LOOPWARDEN_JOURNAL_KILLS";

fn kills() -> u32 {
    let asked = std::env::var(KILLS).ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(30)
}

fn start(dir: &Path, max_bytes: u64) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .env(DIR, dir)
        .env(MAX_BYTES, max_bytes.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer starts")
}

/// Lets it write for a while, kills it, and tells how many records it knew to be written.
fn run_and_kill(dir: &Path, max_bytes: u64) -> u64 {
    let mut child = start(dir, max_bytes);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut told = || {
        let line = lines.next().expect("the writer lives").expect("a line");
        let (written, lost) = line.split_once(' ').expect("two numbers");
        assert_eq!(lost, "0", "the journal lost something");
        written.parse::<u64>().expect("a number")
    };
    let mut written = told();
    let enough = fastrand::u64(1..40);
    while written < enough {
        written = told();
    }
    // Not to wait for anything: so that the kill comes at any moment of a write.
    std::thread::sleep(Duration::from_micros(fastrand::u64(0..3000)));
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    written
}

fn check(contents: &Contents, killed: u32) -> BTreeSet<IncidentId> {
    for problem in &contents.problems {
        assert!(problem.what.starts_with("half a line"), "{problem:?}");
    }
    assert!(contents.problems.len() <= killed as usize);
    let mut finished = BTreeSet::new();
    for record in contents.incidents.values() {
        if record.state == State::Closed {
            assert_eq!(record.busy(), busy_of(record.incident));
            finished.insert(record.incident);
        } else {
            assert!(contents.unfinished(record));
        }
    }
    finished
}

/// Whatever was finished before stays readable, nothing is there twice, and half a line costs nobody but itself.
pub fn killed_at_any_moment() {
    let kills = kills();
    let (mut left, mut records, mut half) = (kills, 0, 0);
    while left > 0 {
        // A journal that grows for hundreds of rounds is read as often, and shows nothing new.
        let (finished, halves) = killed_over_and_over(left.min(10));
        left = left.saturating_sub(10);
        records += finished;
        half += halves;
    }
    println!(
        "killed {kills} times: {records} finished records, all readable, none twice; {half} half lines"
    );
}

fn killed_over_and_over(kills: u32) -> (usize, usize) {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("journal");
    let (mut before, mut half) = (BTreeSet::new(), 0);
    for round in 1..=kills {
        let written = run_and_kill(&dir, 1 << 30);
        let contents = read(&dir).expect("a journal");
        let finished = check(&contents, round);
        assert!(before.is_subset(&finished), "finished records are gone");
        assert!(
            finished.len() as u64 >= before.len() as u64 + written,
            "round {round}: {written} were written, {} are there",
            finished.len() - before.len()
        );
        half = contents.problems.len();
        before = finished;
    }
    (before.len(), half)
}

/// The same while files come and go: the size holds, and the newest are there.
pub fn rotation_under_fire() {
    const MIB: u64 = 1 << 20;
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("journal");
    for round in 1..=kills().div_ceil(3) {
        run_and_kill(&dir, MIB);
        let size: u64 = std::fs::read_dir(&dir)
            .expect("a folder")
            .map(|entry| {
                entry
                    .and_then(|entry| entry.metadata())
                    .map_or(0, |found| found.len())
            })
            .sum();
        assert!(size <= MIB, "{size} bytes");
        let contents = read(&dir).expect("a journal");
        assert!(!check(&contents, round).is_empty());
    }
}
