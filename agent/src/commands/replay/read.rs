//! Incidents from journal files: one JSON object a line. What cannot be read is said and skipped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::export::journal::{Line, decode};
use crate::pipeline::IncidentId;
use crate::pipeline::record::{IncidentRecord, State};
use crate::pipeline::replay::Incident;

/// No record is longer.
const LONGEST_LINE: u64 = 4 << 20;
/// Skipped lines that are named; the rest is counted.
const NAMED: usize = 20;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) incidents: Vec<Incident>,
    /// Where and why, the first of them.
    pub(super) skipped: Vec<(String, String)>,
    pub(super) skipped_count: usize,
}

impl Found {
    fn skip(&mut self, place: String, why: String) {
        self.skipped_count += 1;
        if self.skipped.len() < NAMED {
            self.skipped.push((place, why));
        }
    }

    /// Says what was skipped, for people.
    pub(super) fn report(&self) {
        for (place, why) in &self.skipped {
            eprintln!("loopwarden: {place}: skipped: {why}");
        }
        if self.skipped_count > self.skipped.len() {
            eprintln!("loopwarden: {} lines skipped in all", self.skipped_count);
        }
    }
}

/// Reads a file, all files of a folder, or standard input.
pub(super) fn incidents(path: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut records = BTreeMap::new();
    if path == Path::new("-") {
        lines(
            io::stdin().lock(),
            "standard input",
            &mut records,
            &mut found,
        )?;
    } else {
        for file in files(path)? {
            let name = file.display().to_string();
            let open = File::open(&file).with_context(|| format!("cannot open {name}"))?;
            lines(BufReader::new(open), &name, &mut records, &mut found)?;
        }
    }
    found.incidents = records
        .into_values()
        .map(|(_, incident)| incident)
        .collect();
    Ok(found)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let about = || format!("cannot read {}", path.display());
    if !path.metadata().with_context(about)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in path.read_dir().with_context(about)? {
        let entry = entry.with_context(about)?;
        let is_journal = entry
            .path()
            .extension()
            .is_some_and(|suffix| suffix == "jsonl");
        if is_journal && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(entry.path());
        }
    }
    if files.is_empty() {
        bail!(
            "no journal in {}: files of it end in .jsonl",
            path.display()
        );
    }
    files.sort();
    Ok(files)
}

/// An incident may be written more than once: open, then closed.
type Records = BTreeMap<IncidentId, (State, Incident)>;

fn lines(
    mut from: impl BufRead,
    name: &str,
    records: &mut Records,
    found: &mut Found,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let length = from
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .with_context(|| format!("cannot read {name}"))?;
        if length == 0 {
            break;
        }
        let place = || format!("{name}:{number}");
        if u64::try_from(length).unwrap_or(u64::MAX) >= LONGEST_LINE && line.last() != Some(&b'\n')
        {
            found.skip(place(), format!("longer than {} MiB", LONGEST_LINE >> 20));
            // Its end, however far away, without keeping it.
            from.skip_until(b'\n')
                .with_context(|| format!("cannot read {name}"))?;
            continue;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match decode(line.trim_ascii_end()) {
            Ok(Line::Incident(record)) => take(records, &record),
            // Counts of short stalls hold nothing to replay, and about a startup race nothing was decided.
            Ok(Line::Race(_) | Line::Aggregate(_)) => {}
            Err(why) => found.skip(place(), why),
        }
    }
    Ok(())
}

fn take(records: &mut Records, record: &IncidentRecord) {
    let known = records.get(&record.incident);
    if known.is_none_or(|(state, _)| *state == State::Open) {
        records.insert(record.incident, (record.state, Incident::from(record)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Mono;
    use crate::pipeline::collect::{Collector, Step};
    use crate::pipeline::notice::{EndedBy, LoopInfo, Notice, StallView};
    use crate::pipeline::record::InForce;
    use crate::pipeline::stamp::{Stamp, Tied};
    use crate::pipeline::{Cause, CauseKind, LoopId, Pid, PidKey, Tid};
    use std::sync::Arc;
    use std::time::Duration;

    /// The record of a stall of that kind, open and closed.
    fn written(number: u128, kind: CauseKind) -> (String, String) {
        let process = PidKey {
            pid: Pid(7),
            start_ns: 1,
        };
        let info = Arc::new(LoopInfo {
            id: LoopId {
                process,
                tid: Tid(7),
            },
            slot: 0,
            target: "t".into(),
            exe: "app".into(),
            poller: "epoll_wait".into(),
            plan: "fentry",
            pod: None,
        });
        let incident = IncidentId(number);
        let view = StallView {
            incident,
            at: Mono(5_000_000_000),
            busy: Duration::from_millis(150),
            busy_is_lower_bound: false,
            cause: Cause {
                kind,
                ..Cause::default()
            },
            shares: Vec::new(),
            evidence: None,
        };
        let clock = Tied {
            mono: Mono(0),
            wall: Stamp(1_700_000_000_000_000),
        };
        let mut collector = Collector::new(IncidentId(1));
        let opened = Notice::StallOpened {
            info: info.clone(),
            view: view.clone(),
        };
        collector.take(&opened, clock, |_| InForce::default());
        let open = serde_json::to_string(collector.record(incident).unwrap()).unwrap();
        let closed = Notice::StallClosed {
            info,
            view,
            rescued: false,
            ended_by: EndedBy::Poll,
            liveness: None,
        };
        let Step::Closed(record) = collector.take(&closed, clock, |_| InForce::default()) else {
            panic!("the incident is over");
        };
        (open, serde_json::to_string(&record).unwrap())
    }

    fn read(text: &[u8]) -> Found {
        let (mut found, mut records) = (Found::default(), BTreeMap::new());
        lines(text, "file", &mut records, &mut found).unwrap();
        found.incidents = records
            .into_values()
            .map(|(_, incident)| incident)
            .collect();
        found
    }

    #[test]
    fn what_cannot_be_read_is_named_and_skipped() {
        let (_, closed) = written(5, CauseKind::Sleep);
        let newer = closed.replacen("\"v\":1", "\"v\":99", 1);
        let (torn, _) = closed.split_at(closed.len() / 2);
        let mut text = format!("{torn}\n\n{newer}\n{{\"type\":\"other\"}}\n").into_bytes();
        text.extend(b"\xff\xfe\n");
        text.extend(closed.as_bytes());
        let found = read(&text);
        assert_eq!(found.incidents.len(), 1);
        let places: Vec<&str> = found
            .skipped
            .iter()
            .map(|(place, _)| place.as_str())
            .collect();
        assert_eq!(places, ["file:1", "file:3", "file:4", "file:5"]);
        assert!(
            found.skipped[1].1.contains("version 99"),
            "{:?}",
            found.skipped
        );
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let (_, closed) = written(5, CauseKind::Sleep);
        let mut text = vec![b'x'; usize::try_from(LONGEST_LINE).unwrap() + 5];
        text.push(b'\n');
        text.extend(closed.as_bytes());
        let found = read(&text);
        assert_eq!((found.incidents.len(), found.skipped_count), (1, 1));
        assert_eq!(found.skipped[0].0, "file:1");
    }

    #[test]
    fn the_closed_record_of_an_incident_wins() {
        let (open, closed) = written(5, CauseKind::Sleep);
        for text in [format!("{open}\n{closed}\n"), format!("{closed}\n{open}\n")] {
            let found = read(text.as_bytes());
            assert_eq!(found.incidents.len(), 1);
            assert_eq!(found.incidents[0].unreplayable, None);
        }
        let alone = read(open.as_bytes());
        assert!(alone.incidents[0].unreplayable.is_some());
    }

    #[test]
    fn a_wait_without_a_story_is_not_replayable_and_any_other_stall_is() {
        let (_, wait) = written(5, CauseKind::ChildWait);
        let (_, other) = written(6, CauseKind::CpuBusy);
        let found = read(format!("{wait}\n{other}").as_bytes());
        let why: Vec<bool> = found
            .incidents
            .iter()
            .map(|one| one.unreplayable.is_some())
            .collect();
        assert_eq!(why, [true, false]);
    }
}
