//! Reading a journal back: every line that can be read, and what cannot with its place.
//!
//! Takes whatever is on the disk: half lines, garbage, zero bytes, files that rotation takes away meanwhile. Memory is bounded by
//! the longest line that is read, and by what the caller keeps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::dir::{Dir, DirError, failed, file_name};
use super::line::{Aggregate, Line, decode};
use super::writer::Position;
use crate::pipeline::IncidentId;
use crate::pipeline::engines::record::RaceRecord;
use crate::pipeline::record::{IncidentRecord, State};

/// Longest line that is read: four times what is written.
const LONGEST: u64 = 1 << 20;

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In which file.
    pub file: PathBuf,
    /// From which byte on.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// A journal as far as it can be read.
#[derive(Debug, Default)]
pub struct Contents {
    /// The incidents, oldest first: the last word on each.
    pub incidents: BTreeMap<IncidentId, IncidentRecord>,
    /// Startup races, oldest first.
    pub races: BTreeMap<IncidentId, RaceRecord>,
    /// Counts of short stalls, oldest first.
    pub aggregates: Vec<Aggregate>,
    /// The run that writes at this moment: its open incidents last, those of others were never finished.
    pub running: Option<IncidentId>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// Reads a folder, or one file of lines.
pub fn read(path: &Path) -> Result<Contents, DirError> {
    let mut contents = Contents::default();
    let found = std::fs::metadata(path).map_err(|error| failed("read", path, error))?;
    if !found.is_dir() {
        let file = File::open(path).map_err(|error| failed("open", path, error))?;
        lines(file, 0, false, &mut |offset, line| {
            contents.take(path, offset, line);
            true
        })
        .map_err(|error| failed("read", path, error))?;
        return Ok(contents);
    }
    let dir = Dir::for_reading(path)?;
    // Asked first: a run that ends while its files are read must not look as if it had never been there.
    contents.running = dir.running();
    let files = dir.files()?;
    let newest = files.last().map(|(number, _)| *number);
    for (number, _) in files {
        let writing = Some(number) == newest && contents.running.is_some();
        let name = path.join(file_name(number));
        let file = match dir.read(number) {
            Ok(file) => file,
            // Rotation took it.
            Err(DirError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                contents.problem(&name, 0, error.to_string());
                continue;
            }
        };
        let mut take = |offset, line| {
            contents.take(&name, offset, line);
            true
        };
        if let Err(error) = lines(file, 0, writing, &mut take) {
            contents.problem(&name, 0, error.to_string());
        }
    }
    Ok(contents)
}

/// The line at a position, if it still is there.
pub(super) fn at(dir: &Dir, position: Position) -> Option<Line> {
    let mut found = None;
    let file = dir.read(position.file).ok()?;
    let _ = lines(file, position.offset, true, &mut |_, line| {
        found = line.ok();
        false
    });
    found
}

/// The lines from a position on, until `each` says that it is enough.
pub(super) fn from(
    dir: &Dir,
    start: Position,
    mut each: impl FnMut(Position, Line) -> bool,
) -> Result<(), DirError> {
    for (number, _) in dir.files()? {
        if number < start.file {
            continue;
        }
        let offset = if number == start.file {
            start.offset
        } else {
            0
        };
        let Ok(file) = dir.read(number) else {
            continue;
        };
        let mut more = true;
        // What cannot be read is told by `incidents`; here it is passed over.
        let _ = lines(file, offset, true, &mut |offset, line| {
            let position = Position {
                file: number,
                offset,
            };
            more = line.map_or(true, |line| each(position, line));
            more
        });
        if !more {
            break;
        }
    }
    Ok(())
}

impl Contents {
    fn take(&mut self, file: &Path, offset: u64, line: Result<Line, String>) {
        match line {
            Ok(Line::Race(race)) => {
                self.races.insert(race.incident, *race);
            }
            Ok(Line::Aggregate(sum)) => self.aggregates.push(sum),
            Ok(Line::Incident(record)) => {
                let name = record.incident;
                let known = self.incidents.get(&name);
                if known.is_some_and(|known| known.state == State::Closed) {
                    if record.state == State::Closed {
                        self.problem(file, offset, format!("incident {name} is written twice"));
                    }
                    return;
                }
                self.incidents.insert(name, *record);
            }
            Err(what) => self.problem(file, offset, what),
        }
    }

    fn problem(&mut self, file: &Path, offset: u64, what: String) {
        self.problems.push(Problem {
            file: file.to_owned(),
            offset,
            what,
        });
    }

    /// Whether the agent ended while the incident lasted, so that nobody saw its end.
    #[must_use]
    pub fn unfinished(&self, record: &IncidentRecord) -> bool {
        record.state == State::Open && self.running != Some(record.run)
    }
}

/// Hands over every line with its offset, until the answer is no. `growing`: a last line without an end may be about to get
/// one, and is no problem.
fn lines(
    file: impl io::Read + io::Seek,
    start: u64,
    growing: bool,
    each: &mut dyn FnMut(u64, Result<Line, String>) -> bool,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    io::Seek::seek(&mut reader, io::SeekFrom::Start(start))?;
    let (mut offset, mut line) = (start, Vec::new());
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, LONGEST).read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(());
        }
        let (begin, ended) = (offset, line.last() == Some(&b'\n'));
        offset += read;
        if ended {
            line.pop();
        } else if read == LONGEST {
            offset += skip_line(&mut reader)?;
            if !each(begin, Err(format!("a line of {} bytes", offset - begin))) {
                return Ok(());
            }
            continue;
        } else if growing {
            return Ok(());
        }
        let more = match decode(&line) {
            // A record that ends without a line's end is whole, or it would be no JSON.
            Ok(line) => each(begin, Ok(line)),
            Err(_) if line.iter().all(u8::is_ascii_whitespace) => true,
            Err(what) if ended => each(begin, Err(what)),
            Err(what) => each(begin, Err(format!("half a line: {what}"))),
        };
        if !more {
            return Ok(());
        }
    }
}

/// Goes on behind the next line's end; how far that was.
fn skip_line(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        skipped += used as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
