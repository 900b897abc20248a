//! Sending the journal's backlog, and keeping its cursor on disk.

use std::collections::VecDeque;
use std::time::Duration;

use super::backlog::{Backlog, MOST};
use super::dir::{Dir, DirError};
use super::line::Line;
use super::read::{at, from};
use super::writer::{Position, Writer};
use crate::export::clock;
use crate::export::delivery::{Delivery, EventSink};
use crate::export::event::{late, late_race};
use crate::pipeline::record::State;
use crate::pipeline::{IncidentId, Mono};

/// The file that says up to where everything has arrived.
const CURSOR: &str = "sent";
/// How often the cursor is written, while it moves.
const EVERY: Duration = Duration::from_secs(1);
/// Incidents that are sent at one time.
const PART: usize = 64;

/// What is to be sent, and how.
pub(super) struct Sending {
    backlog: Backlog,
    events: EventSink,
    /// The folder's cursor was read.
    begun: bool,
    written: Position,
    /// When the cursor may be written again.
    next: Mono,
}

impl Sending {
    pub(super) fn new(events: EventSink) -> Self {
        Self {
            backlog: Backlog::default(),
            events,
            begun: false,
            written: Position::default(),
            next: Mono::default(),
        }
    }

    /// Where nothing is exported there is no cursor, so that nothing old is sent should that change.
    pub(super) fn none(dir: &Dir) {
        if let Err(error) = dir.remove_small(CURSOR) {
            log::warn!("{error}");
        }
    }

    /// The folder was opened: what an earlier run left is found out once.
    pub(super) fn opened(&mut self, writer: &Writer, now: Mono) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let (dir, end) = (writer.dir(), writer.end());
        let mut left = VecDeque::new();
        self.written = Position::default();
        match dir.small(CURSOR).map(|text| parse(&text)) {
            // The first time, or nobody can tell: what was before is not sent.
            Ok(None) => {}
            Ok(Some(start)) => {
                self.written = start;
                match self.left_behind(dir, start) {
                    Ok(found) => left = found,
                    Err(error) => cannot_tell(&error),
                }
            }
            Err(error) => cannot_tell(&error),
        }
        if !left.is_empty() {
            log::warn!(
                "{} incidents of earlier runs were not exported, and follow now",
                left.len()
            );
        }
        self.backlog.start(left, end);
        // Before the first record: an agent that is killed right after it must not look as if nothing was ever to be sent.
        self.write_cursor(dir, now);
    }

    /// The newest of the finished incidents from `start` on.
    fn left_behind(
        &mut self,
        dir: &Dir,
        start: Position,
    ) -> Result<VecDeque<(IncidentId, Position)>, DirError> {
        let mut left = VecDeque::new();
        let rotated = dir
            .files()?
            .first()
            .is_some_and(|(oldest, _)| *oldest > start.file);
        if rotated {
            log::warn!(
                "the journal in {} begins after what was exported: rotation has taken incidents that no collector got",
                dir.path.display()
            );
        }
        from(dir, start, |at, line| {
            let over = match line {
                Line::Incident(record) if record.state == State::Closed => Some(record.incident),
                Line::Race(race) => Some(race.incident),
                Line::Incident(_) | Line::Aggregate(_) => None,
            };
            if let Some(incident) = over {
                left.push_back((incident, at));
                if left.len() > MOST {
                    left.pop_front();
                    self.backlog.give_up(1);
                }
            }
            true
        })?;
        Ok(left)
    }

    pub(super) fn appended(&mut self, finished: Option<IncidentId>, at: Position, end: Position) {
        match finished {
            Some(incident) => self.backlog.appended(incident, at, end),
            None => self.backlog.passed(end),
        }
    }

    pub(super) fn delivered(&mut self, delivery: Delivery, incidents: &[IncidentId]) {
        self.backlog.delivered(delivery, incidents);
    }

    pub(super) fn missed_answers(&mut self) {
        self.backlog.missed_answers();
    }

    /// How many will never be sent, since the last call.
    pub(super) fn given_up(&mut self) -> u64 {
        self.backlog.given_up()
    }

    /// Sends the next part, and writes the cursor if it has moved.
    pub(super) fn tick(&mut self, dir: &Dir, now: Mono) {
        self.feed(dir);
        if self.next <= now {
            self.write_cursor(dir, now);
        }
    }

    fn feed(&mut self, dir: &Dir) {
        loop {
            let part = self.backlog.feed(PART);
            if part.is_empty() {
                return;
            }
            let mut events = Vec::new();
            for (incident, place) in part {
                let found = match at(dir, place) {
                    Some(Line::Incident(record)) if record.incident == incident => {
                        late(&record, clock::now())
                    }
                    Some(Line::Race(race)) if race.incident == incident => {
                        late_race(&race, clock::now())
                    }
                    // Rotation or somebody took it.
                    _ => Vec::new(),
                };
                if found.is_empty() {
                    self.backlog.forget(incident);
                    self.backlog.give_up(1);
                }
                events.extend(found);
            }
            if !events.is_empty() {
                (self.events)(events);
                return;
            }
        }
    }

    /// The cursor is to be written then.
    pub(super) fn due(&self) -> Option<Mono> {
        (self.backlog.cursor() != self.written).then_some(self.next)
    }

    /// The folder is left.
    pub(super) fn left(&mut self, dir: &Dir, now: Mono) {
        self.write_cursor(dir, now);
        self.begun = false;
    }

    fn write_cursor(&mut self, dir: &Dir, now: Mono) {
        let cursor = self.backlog.cursor();
        if cursor == self.written {
            return;
        }
        self.next = now.plus(EVERY);
        let text = format!("{} {}\n", cursor.file, cursor.offset);
        match dir.replace_small(CURSOR, &text) {
            Ok(()) => self.written = cursor,
            Err(error) => {
                self.next = now.plus(EVERY * 30);
                log::warn!("{error}; incidents may be exported twice");
            }
        }
    }
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending")
            .field("backlog", &self.backlog)
            .finish_non_exhaustive()
    }
}

fn cannot_tell(error: &DirError) {
    log::warn!("what earlier runs could not export is not sent: {error}");
}

fn parse(text: &str) -> Option<Position> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    let (Some(Ok(file)), Some(Ok(offset)), None) = (numbers.next(), numbers.next(), numbers.next())
    else {
        return None;
    };
    Some(Position { file, offset })
}

#[cfg(test)]
#[path = "sending_tests.rs"]
mod tests;
