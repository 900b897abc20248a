//! The scout: a thread that reads procfs for the rescue thread, so that nothing there ever waits for a file.
//!
//! A read of `/proc/PID/cmdline` waits for a lock that the process, or the file system below it, may never give back. The thread says
//! what it reads and since when ([`activity`]); one that hangs is left behind, and another takes over its queue.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use self::activity::{Activity, Reading};
use self::reader::{Procfs, Reader};
use self::work::{Shared, Work};
use super::cgroup::CpuStat;
use super::sight::Sighting;
use crate::pipeline::engines::Zombie;
use crate::pipeline::event::Listener;
use crate::pipeline::liveness::sharing::Hold;
use crate::pipeline::place::Seat;
use crate::pipeline::pod::Found;
use crate::pipeline::{Mono, Pid};
use crate::sockets::Doors;

pub mod activity;
mod reader;
#[cfg(test)]
mod tests;
mod work;

/// Questions that may wait; further ones are dropped and asked again by the next scan.
const QUEUE: usize = 4096;
/// A single read that takes longer hangs.
const HANGS: Duration = Duration::from_secs(5);
/// Threads that may hang at a time: each is one that the agent cannot end.
const MOST_HANGING: usize = 8;

/// Which processes belong to which target, and which are its engines. Made from the configuration.
pub trait Matching: Send + Sync + fmt::Debug {
    /// Numbers of targets mean something only together with the rules they are of: an answer by others is asked for again.
    fn version(&self) -> u64;
    /// The number of the target a process belongs to.
    fn target(&self, candidate: &Candidate<'_>) -> Option<usize>;
    /// Whether a process is an engine of that target.
    fn is_engine(&self, target: usize, exe: &str, command_line: &str) -> bool;
    /// The number under which the target of that name holds for a process in that container; nothing if there is none, or nothing
    /// in that pod is to be watched.
    fn number(&self, name: &str, seat: Option<&Seat>) -> Option<usize>;
    /// The pod that a container belongs to.
    fn pod(&self, seat: &Seat) -> Option<Found>;
}

/// What is known of a process that may belong to a target.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Which.
    pub pid: Pid,
    /// Basename of its executable.
    pub exe: &'a str,
    /// Its arguments, joined by spaces.
    pub command_line: &'a str,
    /// In which container of a pod it runs.
    pub seat: Option<&'a Seat>,
}

/// A question to the scout.
#[derive(Debug, Clone)]
pub enum Question {
    /// Look at a process that belongs to a target.
    Look {
        /// Which.
        pid: Pid,
        /// Number of its target.
        target: usize,
        /// Also at its threads: it is to be watched.
        threads: bool,
    },
    /// A process ran a program: does it belong to a target?
    Appraise(Pid),
    /// The rules changed: to which target does a process belong that was matched by the old ones?
    Rematch(Pid),
    /// List all processes, and appraise those not seen before if `appraise`.
    Scan {
        /// Match unknown processes against the targets.
        appraise: bool,
    },
    /// On which ports does a process listen, or where is the one that is probed?
    Ports {
        /// Which process.
        pid: Pid,
        /// The port, if it is known.
        port: Option<u16>,
    },
    /// On which ports does an engine listen, and has it accepted a connection there?
    Doors(Pid),
    /// The configuration changed.
    Rules(Arc<dyn Matching>),
}

/// An answer of the scout.
#[derive(Debug)]
pub enum Answer {
    /// A look at a process.
    Seen {
        /// What was seen.
        sighting: Box<Sighting>,
        /// Whether it is an engine of the target that was asked about.
        engine: bool,
        /// Whether its threads were looked at.
        threads: bool,
        /// Its cgroup's CPU accounts, opened ahead of need.
        cpu_stat: Option<CpuStat>,
        /// Version of the rules by which that was judged.
        version: u64,
    },
    /// The process could not be read: it has ended, or it is not ours to read.
    Unreadable {
        /// Which.
        pid: Pid,
        /// What came back.
        error: String,
    },
    /// A process belongs to a target and is to be watched.
    Matched {
        /// Which.
        pid: Pid,
        /// Number of its target.
        target: usize,
        /// Version of the rules.
        version: u64,
    },
    /// To which target a process belongs by the rules that are in force now, if to any.
    Rematched {
        /// Which.
        pid: Pid,
        /// Number of its target.
        target: Option<usize>,
        /// Version of the rules.
        version: u64,
    },
    /// On which ports a process listens.
    Ports {
        /// Which process.
        pid: Pid,
        /// Where.
        holdings: Vec<(Listener, Hold)>,
    },
    /// Where an engine listens.
    Doors {
        /// Which engine.
        pid: Pid,
        /// What was found.
        doors: Doors,
    },
    /// Every process that has ended and is not reaped; comes just before `Scanned`.
    Unreaped(Vec<Zombie>),
    /// Every process and its parent.
    Scanned(Vec<(Pid, Pid)>),
}

/// A read that hangs: what the thread was doing when it was left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Of which process; `None` while listing all.
    pub pid: Option<Pid>,
    /// What was read.
    pub reading: Reading,
    /// For how long so far.
    pub lasts: Duration,
    /// Whether another thread took over.
    pub replaced: bool,
}

/// The scout's address.
#[derive(Debug)]
pub struct Scout {
    questions: SyncSender<Question>,
    shared: Arc<Shared>,
    /// What the thread does; `None` while there is none.
    thread: Option<Arc<Activity>>,
}

impl Scout {
    /// Starts the thread. `answer` is called from it for every answer.
    pub fn start(
        rules: Arc<dyn Matching>,
        answer: impl Fn(Answer) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        Self::with_reader(Box::new(Procfs), rules, answer)
    }

    fn with_reader(
        reader: Box<dyn Reader>,
        rules: Arc<dyn Matching>,
        answer: impl Fn(Answer) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (questions, inbox) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::new(inbox, reader, rules, Box::new(answer)));
        let thread = Some(Work::start(&shared)?);
        Ok(Self {
            questions,
            shared,
            thread,
        })
    }

    /// Asks; false if the queue is full.
    #[must_use]
    pub fn ask(&self, question: Question) -> bool {
        match self.questions.try_send(question) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Leaves the thread behind if it hangs in one read, and has another take over. Call it now and then; it never waits.
    pub fn check(&mut self, now: Mono) -> Option<Stuck> {
        for question in self.shared.take_unanswered() {
            // If there is no room, the next scan or stall asks.
            let _ = self.ask(question);
        }
        let Some(activity) = &self.thread else {
            self.replace();
            if self.thread.is_some() {
                log::warn!("another thread reads procfs again");
            }
            return None;
        };
        let doing = activity.doing()?;
        let lasts = now.since(doing.since);
        if lasts < HANGS {
            return None;
        }
        self.shared.leave(activity, doing.pid);
        self.thread = None;
        self.replace();
        Some(Stuck {
            pid: doing.pid,
            reading: doing.reading,
            lasts,
            replaced: self.thread.is_some(),
        })
    }

    fn replace(&mut self) {
        if self.shared.hanging.load(Ordering::Relaxed) >= MOST_HANGING {
            return;
        }
        match Work::start(&self.shared) {
            Ok(activity) => self.thread = Some(activity),
            Err(error) => log::error!("cannot start another scout thread: {error}; tried again"),
        }
    }

    /// Lets the thread end by itself. Does not wait for it: it may hang, and it holds nothing that outlives the agent.
    pub fn stop(self) {
        if let Some(activity) = &self.thread {
            self.shared.leave(activity, None);
        }
    }
}
