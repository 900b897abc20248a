//! Writing lines on a thread of its own: who reads slowly delays nobody but himself.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde_json::Value;

use crate::export::lines::{Lines, WallClock};
use crate::kernel::clock;
use crate::pipeline::Notice;

/// Notices that may wait to be written; what comes on top is counted and told as lost.
const QUEUE: usize = 16_384;

/// Where lines go.
pub(super) struct Sinks {
    /// JSON lines.
    pub(super) json: Option<Box<dyn Write + Send>>,
    /// Sentences.
    pub(super) text: Option<Box<dyn Write + Send>>,
}

enum Job {
    Notice(Box<Notice>),
    Line(Value, String),
}

/// The writer's address.
pub(super) struct Output {
    jobs: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// Hands notices to the writer; cheap to clone into the rescue thread.
#[derive(Clone)]
pub(super) struct Teller {
    jobs: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

impl Teller {
    /// Never blocks.
    pub(super) fn tell(&self, notice: Notice) {
        if let Err(TrySendError::Full(_)) = self.jobs.try_send(Job::Notice(Box::new(notice))) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Output {
    /// Starts the writer. `observe` sees every notice before it is written.
    pub(super) fn start(
        sinks: Sinks,
        observe: impl FnMut(&Notice) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            observe: Box::new(observe),
            sinks,
            lines: Lines::default(),
            dropped: dropped.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("output".into())
            .spawn(move || writer.run(&inbox))?;
        Ok(Self {
            jobs,
            dropped,
            thread: Some(thread),
        })
    }

    pub(super) fn teller(&self) -> Teller {
        Teller {
            jobs: self.jobs.clone(),
            dropped: self.dropped.clone(),
        }
    }

    /// Writes a line of the command's own.
    pub(super) fn line(&self, json: Value, text: String) {
        // The writer ends only after this side: a failure is a writer that panicked, and has said so.
        let _ = self.jobs.send(Job::Line(json, text));
    }

    /// Writes what waits, and ends.
    pub(super) fn finish(mut self) {
        drop(self.jobs);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the output thread panicked");
        }
    }
}

struct Writer {
    observe: Box<dyn FnMut(&Notice) + Send>,
    sinks: Sinks,
    lines: Lines,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            let clock = wall_clock();
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                self.notice(
                    &Notice::Lost {
                        at: clock::now(),
                        what: "output_full".into(),
                        count: dropped,
                    },
                    clock,
                );
            }
            match job {
                Job::Notice(notice) => self.notice(&notice, clock),
                Job::Line(json, text) => {
                    self.json(&json);
                    self.text(&text);
                }
            }
        }
    }

    fn notice(&mut self, notice: &Notice, clock: WallClock) {
        (self.observe)(notice);
        self.lines.count(notice);
        if let Some(line) = self.lines.json(notice, clock) {
            self.json(&line);
        }
        if let Some(line) = self.lines.text(notice, clock) {
            self.text(&line);
        }
    }

    fn json(&mut self, line: &Value) {
        write_line(&mut self.sinks.json, &line.to_string());
    }

    fn text(&mut self, line: &str) {
        if !line.is_empty() {
            write_line(&mut self.sinks.text, line);
        }
    }
}

/// Writes and flushes one line. A reader that has gone away ends the writing, not the guarding.
fn write_line(sink: &mut Option<Box<dyn Write + Send>>, line: &str) {
    let Some(out) = sink else {
        return;
    };
    let written = out
        .write_all(line.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    if let Err(error) = written {
        log::warn!("writing lines failed: {error}; going on without them");
        *sink = None;
    }
}

/// The wall clock of this moment.
pub(super) fn wall_clock() -> WallClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "lines carry wall-clock time; nothing is decided by it"
    )]
    WallClock::tie(clock::now(), SystemTime::now())
}
