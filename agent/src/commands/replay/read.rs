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
            // Counts of short stalls hold nothing to replay.
            Ok(Line::Aggregate(_)) => {}
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
