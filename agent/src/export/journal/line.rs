//! One line of the journal, from and to bytes.
//!
//! Pure. What goes out has no credentials in it and is never longer than asked; what comes in is not trusted.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::export::clean::clean;
use crate::pipeline::engines::record::RaceRecord;
use crate::pipeline::record::{IncidentRecord, VERSION};
use crate::pipeline::stamp::{Stamp, millis};
use crate::pipeline::{CauseKind, IncidentId};

/// Frames, sockets and entries that are left of a record that is too long.
const FEW: usize = 16;
/// Length of a text in a record, and in one that is too long all the same.
const TEXT: usize = 4096;
const SHORT_TEXT: usize = 200;

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// A record: of an open incident as far as it had come, or of one that is over.
    Incident(Box<IncidentRecord>),
    /// A startup race.
    Race(Box<RaceRecord>),
    /// Short stalls that are only counted.
    Aggregate(Aggregate),
}

/// Stalls of one cause and place that have no records of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Version of the format.
    pub v: u32,
    /// The run of the agent.
    pub run: IncidentId,
    /// End of the first of them …
    pub from: Stamp,
    /// … and of the last.
    pub to: Stamp,
    /// The configured target.
    pub target: String,
    /// What they were stuck on.
    pub cause: CauseKind,
    /// Innermost line of code, empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub line: String,
    /// How many.
    pub count: u64,
    /// Their lengths together.
    #[serde(rename = "total_ms", with = "millis")]
    pub total: Duration,
    /// The longest.
    #[serde(rename = "max_ms", with = "millis")]
    pub max: Duration,
    /// A record that shows one of their kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<IncidentId>,
}

/// The line of a record, at most `limit` bytes with its end.
pub(super) fn incident(record: &IncidentRecord, limit: usize) -> Result<Vec<u8>, String> {
    let line = encode("incident", record, TEXT)?;
    if line.len() <= limit {
        return Ok(line);
    }
    let mut small = record.clone();
    shorten(&mut small);
    let line = encode("incident", &small, TEXT)?;
    if line.len() <= limit {
        return Ok(line);
    }
    small.evidence.clear();
    small.episodes.clear();
    small.actions.truncate(FEW);
    small.cut = vec![
        "all evidence, what replay needs, long texts, most actions and most of the timeline: the record was too long"
            .into(),
    ];
    let line = encode("incident", &small, SHORT_TEXT)?;
    if line.len() <= limit {
        return Ok(line);
    }
    Err(format!(
        "the record of incident {} needs {} bytes even when cut, {limit} are allowed",
        record.incident,
        line.len()
    ))
}

/// The line of a startup race.
pub(super) fn race(race: &RaceRecord) -> Result<Vec<u8>, String> {
    encode("startup_race", race, SHORT_TEXT)
}

/// The line of an aggregate.
pub(super) fn aggregate(aggregate: &Aggregate) -> Result<Vec<u8>, String> {
    encode("aggregate", aggregate, SHORT_TEXT)
}

/// Records that were passed on by a program that keeps only what it knows.
fn incident_type() -> String {
    "incident".to_owned()
}

/// Reads a line without its end.
pub fn decode(bytes: &[u8]) -> Result<Line, String> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "type", default = "incident_type")]
        kind: String,
        v: u32,
    }
    if bytes.contains(&0) {
        return Err("zero bytes, as a loss of power leaves them".to_owned());
    }
    let wrong = |error: serde_json::Error| format!("no record: {error}");
    let head: Head = serde_json::from_slice(bytes).map_err(wrong)?;
    if head.v > VERSION {
        return Err(format!(
            "a record of version {}; this program reads up to {VERSION}: use a newer one",
            head.v
        ));
    }
    match head.kind.as_str() {
        "incident" => serde_json::from_slice(bytes).map(|record| Line::Incident(Box::new(record))),
        "startup_race" => serde_json::from_slice(bytes).map(|race| Line::Race(Box::new(race))),
        "aggregate" => serde_json::from_slice(bytes).map(Line::Aggregate),
        other => {
            let short: String = other.chars().take(40).collect();
            return Err(format!("a line of the unknown type {short:?}"));
        }
    }
    .map_err(wrong)
}

fn encode(kind: &str, what: &impl Serialize, text: usize) -> Result<Vec<u8>, String> {
    let mut value = serde_json::to_value(what).map_err(|error| error.to_string())?;
    clean(&mut value, text);
    if let Value::Object(fields) = &mut value {
        fields.insert("type".into(), kind.into());
    }
    let mut line = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
    line.push(b'\n');
    Ok(line)
}

/// Leaves the first and the last evidence, and of each list the part that says most.
fn shorten(record: &mut IncidentRecord) {
    let mut cut = Vec::new();
    let mut shorter = |what: &str, before: usize, after: usize| {
        if before > after {
            cut.push(format!("{what}: {} of {before} left out", before - after));
        }
    };
    let captures = record.evidence.len();
    if captures > 2 {
        record.evidence.drain(1..captures - 1);
    }
    shorter("evidence", captures, record.evidence.len());
    for capture in &mut record.evidence {
        let found = &mut capture.found;
        for stack in [&mut found.stack, &mut found.holder_stack]
            .into_iter()
            .flatten()
        {
            shorter("frames", stack.frames.len(), FEW);
            stack.frames.truncate(FEW);
        }
        if let Some(child) = &mut found.child {
            shorter("sockets of the child", child.sockets.len(), FEW);
            child.sockets.truncate(FEW);
        }
        shorter("missing", found.missing.len(), FEW);
        found.missing.truncate(FEW);
    }
    let entries = record.timeline.len();
    if entries > FEW {
        record.timeline.drain(FEW / 2..entries - FEW / 2);
    }
    shorter("timeline", entries, record.timeline.len());
    record.cut.extend(cut);
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
