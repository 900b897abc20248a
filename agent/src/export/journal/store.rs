//! The writer and what surrounds it: lines that wait while the folder cannot be written, and how the journal fares.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::dir::DirError;
use super::sending::Sending;
use super::thread::JournalSettings;
use super::writer::{Position, Writer};
use crate::export::delivery::{Delivery, EventSink};
use crate::pipeline::{IncidentId, Mono};

/// How often a folder that cannot be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Bytes of lines that wait meanwhile; the oldest are given up.
const WAITING: usize = 4 << 20;

/// How the journal fares. Shared: read by the exporters, written by the journal's thread.
#[derive(Debug, Default)]
pub struct JournalState {
    written: AtomicU64,
    counted: AtomicU64,
    lost: AtomicU64,
    bytes: AtomicU64,
    /// Why nothing can be written.
    broken: Mutex<Option<String>>,
}

impl JournalState {
    /// Finished incidents that have their record.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Incidents that were only counted.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    /// Notices and records that were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Bytes in all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why nothing can be written, if so.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A line and the finished incident in it.
#[derive(Debug)]
struct Pending {
    line: Vec<u8>,
    finished: Option<IncidentId>,
}

#[derive(Debug)]
pub(super) struct Store {
    settings: JournalSettings,
    run: IncidentId,
    writer: Option<Writer>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    retry: Option<Mono>,
    /// A finished record is not on the disk yet.
    sync: bool,
    lost: u64,
    state: Arc<JournalState>,
    /// What a collector does not have yet, where events are exported.
    sending: Option<Sending>,
}

impl Store {
    pub(super) fn new(
        settings: JournalSettings,
        run: IncidentId,
        state: Arc<JournalState>,
        events: Option<EventSink>,
    ) -> Self {
        Self {
            settings,
            run,
            writer: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            retry: None,
            sync: false,
            lost: 0,
            state,
            sending: events.map(Sending::new),
        }
    }

    /// Opens the folder and writes what waits.
    pub(super) fn open(&mut self, now: Mono) {
        // Its lock must be free for the new one.
        self.writer = None;
        match Writer::open(&self.settings.dir, self.run, self.settings.max_bytes) {
            Ok(writer) => {
                match &mut self.sending {
                    Some(sending) => sending.opened(&writer, now),
                    None => Sending::none(writer.dir()),
                }
                self.writer = Some(writer);
                self.retry = None;
                if self.flush(now).is_ok() {
                    self.works();
                }
            }
            Err(error) => self.broken(&error, now),
        }
    }

    pub(super) fn reload(&mut self, settings: JournalSettings, now: Mono) {
        if settings == self.settings {
            return;
        }
        let moved = settings.dir != self.settings.dir;
        self.settings = settings;
        match &mut self.writer {
            Some(writer) if !moved => {
                if let Err(error) = writer.limit(self.settings.max_bytes) {
                    self.broken(&error, now);
                }
            }
            _ => {
                self.sync_now(now);
                self.forget_place(now);
                self.open(now);
            }
        }
    }

    /// Longest line that is taken.
    pub(super) fn line_limit(&self) -> usize {
        self.writer.as_ref().map_or(60 << 10, Writer::line_limit)
    }

    /// Takes a line, to be written by the next `tick`.
    pub(super) fn write(&mut self, line: Result<Vec<u8>, String>, finished: Option<IncidentId>) {
        match line {
            Ok(line) => {
                self.pending_bytes += line.len();
                self.pending.push_back(Pending { line, finished });
            }
            Err(error) => {
                log::error!("journal: {error}; it is left out");
                self.lose(1);
            }
        }
        while self.pending_bytes > WAITING
            && let Some(oldest) = self.pending.pop_front()
        {
            self.pending_bytes -= oldest.line.len();
            self.lose(1);
        }
    }

    /// Writes what waits, and waits for the disk where a finished record is among it.
    pub(super) fn tick(&mut self, now: Mono) {
        if self.writer.is_none() {
            if self.retry.is_none_or(|at| at <= now) {
                self.open(now);
            }
        } else if !self.pending.is_empty() {
            if self.vanished() {
                self.forget_place(now);
                self.open(now);
            } else if self.flush(now).is_err() {
                // Once more with the folder opened anew: a file may have been removed.
                self.open(now);
            }
        }
        if let (Some(sending), Some(writer)) = (&mut self.sending, &self.writer) {
            sending.tick(writer.dir(), now);
        }
    }

    /// The folder is another from here on, or empty.
    fn forget_place(&mut self, now: Mono) {
        if let (Some(sending), Some(writer)) = (&mut self.sending, &self.writer) {
            sending.left(writer.dir(), now);
        }
    }

    /// What became of events.
    pub(super) fn delivered(&mut self, delivery: Delivery, incidents: &[IncidentId]) {
        if let Some(sending) = &mut self.sending {
            sending.delivered(delivery, incidents);
        }
    }

    /// Some of that was not told.
    pub(super) fn missed_answers(&mut self) {
        if let Some(sending) = &mut self.sending {
            sending.missed_answers();
        }
    }

    /// How many ends of incidents will never be exported, since the last call.
    pub(super) fn unsent(&mut self) -> u64 {
        self.sending.as_mut().map_or(0, Sending::given_up)
    }

    fn vanished(&self) -> bool {
        self.writer
            .as_ref()
            .is_some_and(|writer| !writer.dir().is_there())
    }

    fn flush(&mut self, now: Mono) -> Result<(), ()> {
        while let Some(next) = self.pending.front() {
            let Some(writer) = &mut self.writer else {
                return Err(());
            };
            if next.line.len() > writer.line_limit() {
                // Made for a larger journal.
                self.pending_bytes -= next.line.len();
                self.pending.pop_front();
                self.lose(1);
                continue;
            }
            match writer.append(&next.line) {
                Ok(position) => {
                    self.pending_bytes -= next.line.len();
                    let finished = next.finished;
                    self.pending.pop_front();
                    self.appended(finished, position);
                }
                Err(error) => {
                    self.broken(&error, now);
                    return Err(());
                }
            }
        }
        self.sync_now(now);
        if self.writer.is_some() {
            Ok(())
        } else {
            Err(())
        }
    }

    fn appended(&mut self, finished: Option<IncidentId>, position: Position) {
        if let Some(writer) = &self.writer {
            self.state.bytes.store(writer.bytes(), Ordering::Relaxed);
            if let Some(sending) = &mut self.sending {
                sending.appended(finished, position, writer.end());
            }
        }
        if finished.is_some() {
            self.sync = true;
            self.state.written.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sync_now(&mut self, now: Mono) {
        if std::mem::take(&mut self.sync)
            && let Some(writer) = &mut self.writer
            && let Err(error) = writer.sync()
        {
            self.broken(&error, now);
        }
    }

    pub(super) fn due(&self) -> Option<Mono> {
        match &self.writer {
            None => self.retry,
            Some(_) => self.sending.as_ref().and_then(Sending::due),
        }
    }

    /// Writes what still waits; what cannot be written is lost.
    pub(super) fn finish(&mut self, now: Mono) {
        self.retry = None;
        self.tick(now);
        self.lose(self.pending.len() as u64);
        self.pending.clear();
        self.forget_place(now);
    }

    /// An incident was only counted.
    pub(super) fn counted(&self) {
        self.state.counted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lose(&mut self, count: u64) {
        self.lost += count;
        self.lose_silently(count);
    }

    /// Counted here, told by the caller.
    pub(super) fn lose_silently(&self, count: u64) {
        self.state.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// How many were lost since the last call.
    pub(super) fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn broken(&mut self, error: &DirError, now: Mono) {
        self.writer = None;
        self.retry = Some(now.plus(AGAIN));
        let text = error.to_string();
        let mut broken = self
            .state
            .broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if broken.as_ref() != Some(&text) {
            log::warn!(
                "the journal is not written: {text}. The agent goes on and tries again every {AGAIN:?}"
            );
        }
        *broken = Some(text);
    }

    fn works(&self) {
        let mut broken = self
            .state
            .broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if broken.take().is_some() {
            log::warn!(
                "the journal in {} is written again",
                self.settings.dir.display()
            );
        }
        if let Some(writer) = &self.writer {
            self.state.bytes.store(writer.bytes(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
