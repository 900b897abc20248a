//! Which incidents are written in full, and which are only counted.
//!
//! Pure. A loop that stalls a hundred times a second for 120 ms would fill any journal with one sentence. So one full example
//! a minute is kept of each target, cause and line of code, and everything that took a second or saw an action; the rest
//! is counted, and the counts are written each minute.

use std::collections::HashMap;
use std::time::Duration;

use super::line::Aggregate;
use crate::pipeline::record::{IncidentRecord, VERSION};
use crate::pipeline::{CauseKind, IncidentId, Mono};

/// From this length on every stall has its record.
pub(super) const LONG: Duration = Duration::from_secs(1);
/// How often there is an example, and how often counts are written.
const EVERY: Duration = Duration::from_mins(1);
/// Kinds that are told apart at one time; what comes on top has no line of code of its own.
const KINDS: usize = 512;

type Key = (String, CauseKind, String);

/// Knows what was kept lately.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// When the last example of a kind was opened, and when one was finished.
    opened: HashMap<(String, CauseKind), Mono>,
    examples: HashMap<Key, (Mono, IncidentId)>,
    counts: HashMap<Key, Aggregate>,
    /// When the first of the counts began.
    since: Option<Mono>,
}

impl Keeper {
    /// Whether an incident that opens leaves a trace at once, in case the agent is killed while it lasts.
    pub(super) fn trace(&mut self, record: &IncidentRecord, now: Mono) -> bool {
        let key = (record.who.target.clone(), record.cause.kind);
        if self
            .opened
            .get(&key)
            .is_some_and(|last| now.since(*last) < EVERY)
        {
            return false;
        }
        if self.opened.len() >= KINDS {
            self.opened.retain(|_, last| now.since(*last) < EVERY);
        }
        self.opened.insert(key, now);
        true
    }

    /// Whether an incident that is over gets its record; else it is counted. `traced`: it has left a trace, which must not
    /// stay without its end.
    pub(super) fn finished(&mut self, record: &IncidentRecord, traced: bool, now: Mono) -> bool {
        let mut key = (
            record.who.target.clone(),
            record.cause.kind,
            line_of(record),
        );
        if !self.examples.contains_key(&key) && self.examples.len() >= KINDS {
            self.examples
                .retain(|_, (last, _)| now.since(*last) < EVERY);
            if self.examples.len() >= KINDS {
                key.2.clear();
            }
        }
        let example = self.examples.get(&key).copied();
        let fresh = example.is_none_or(|(last, _)| now.since(last) >= EVERY);
        if fresh && (self.examples.len() < KINDS || example.is_some()) {
            self.examples.insert(key, (now, record.incident));
            return true;
        }
        if traced || record.busy() >= LONG || !record.actions.is_empty() {
            return true;
        }
        self.count(key, record, example.map(|(_, id)| id));
        self.since.get_or_insert(now);
        false
    }

    fn count(&mut self, mut key: Key, record: &IncidentRecord, example: Option<IncidentId>) {
        if !self.counts.contains_key(&key) && self.counts.len() >= KINDS {
            key.2.clear();
        }
        let busy = record.busy();
        let end = record.outcome.map_or(record.opened, |end| end.time);
        let (target, cause, line) = key.clone();
        let sum = self.counts.entry(key).or_insert_with(|| Aggregate {
            v: VERSION,
            run: record.run,
            from: end,
            to: end,
            target,
            cause,
            line,
            count: 0,
            total: Duration::ZERO,
            max: Duration::ZERO,
            example,
        });
        sum.to = end;
        sum.count += 1;
        sum.total += busy;
        sum.max = sum.max.max(busy);
    }

    /// When the counts are due.
    pub(super) fn due(&self) -> Option<Mono> {
        self.since.map(|since| since.plus(EVERY))
    }

    /// Takes the counts out, in the order of their first stall.
    pub(super) fn counts(&mut self) -> Vec<Aggregate> {
        self.since = None;
        let mut counts: Vec<Aggregate> = self.counts.drain().map(|(_, sum)| sum).collect();
        counts.sort_by(|a, b| (a.from, &a.target, &a.line).cmp(&(b.from, &b.target, &b.line)));
        counts
    }
}

/// The innermost line of code, if there is a stack.
pub(super) fn line_of(record: &IncidentRecord) -> String {
    let Some((_, stack)) = record.newest(|found| found.stack.as_ref()) else {
        return String::new();
    };
    stack.frames.first().map_or_else(String::new, |frame| {
        let file = frame.file.as_deref().unwrap_or(&frame.function);
        let place = frame
            .line
            .map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
        place.chars().take(200).collect()
    })
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
