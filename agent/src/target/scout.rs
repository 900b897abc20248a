//! The scout: a thread that reads procfs for the rescue thread, so that nothing there ever waits for a file.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::cgroup::CpuStat;
use super::sight::{Sighting, look};
use crate::pipeline::Pid;
use crate::proc;

/// Questions that may wait; further ones are dropped and asked again by the next scan.
const QUEUE: usize = 4096;

/// Which processes belong to which target, and which are its engines. Made from the configuration.
pub trait Matching: Send + Sync + fmt::Debug {
    /// The number of the target a process belongs to.
    fn target(&self, pid: Pid, exe: &str, command_line: &str) -> Option<usize>;
    /// Whether a process is an engine of that target.
    fn is_engine(&self, target: usize, exe: &str, command_line: &str) -> bool;
}

/// A question to the scout.
#[derive(Debug)]
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
        /// Number of its target.
        target: usize,
        /// Whether it is an engine of that target.
        engine: bool,
        /// Whether its threads were looked at.
        threads: bool,
        /// Its cgroup's CPU accounts, opened ahead of need.
        cpu_stat: Option<CpuStat>,
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
    },
    /// To which target a process belongs by the rules that are in force now, if to any.
    Rematched {
        /// Which.
        pid: Pid,
        /// Number of its target.
        target: Option<usize>,
    },
    /// Every process and its parent.
    Scanned(Vec<(Pid, Pid)>),
}

/// The scout's address.
#[derive(Debug)]
pub struct Scout {
    questions: SyncSender<Question>,
    thread: Option<JoinHandle<()>>,
}

impl Scout {
    /// Starts the thread. `answer` is called from it for every answer.
    pub fn start(
        rules: Arc<dyn Matching>,
        answer: impl FnMut(Answer) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (questions, inbox) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("scout".into())
            .spawn(move || {
                Work {
                    rules,
                    appraised: HashMap::new(),
                    answer: Box::new(answer),
                }
                .run(&inbox);
            })?;
        Ok(Self {
            questions,
            thread: Some(thread),
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

    /// Ends the thread once it has answered what waits.
    pub fn stop(mut self) {
        drop(self.questions);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the scout thread panicked");
        }
    }
}

struct Work {
    rules: Arc<dyn Matching>,
    /// Processes already matched, with their start: an id can be reused.
    appraised: HashMap<Pid, u64>,
    answer: Box<dyn FnMut(Answer) + Send>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Question>) {
        while let Ok(question) = inbox.recv() {
            match question {
                Question::Look {
                    pid,
                    target,
                    threads,
                } => self.look(pid, target, threads),
                Question::Appraise(pid) => self.appraise(pid),
                Question::Rematch(pid) => self.rematch(pid),
                Question::Scan { appraise } => self.scan(appraise),
                Question::Rules(rules) => {
                    self.rules = rules;
                    self.appraised.clear();
                }
            }
        }
    }

    fn look(&mut self, pid: Pid, target: usize, threads: bool) {
        match look(pid, threads) {
            Ok(sighting) => {
                let command_line = proc::command_line(pid).unwrap_or_default();
                let engine = self.rules.is_engine(target, &sighting.exe, &command_line);
                (self.answer)(Answer::Seen {
                    sighting: Box::new(sighting),
                    target,
                    engine,
                    threads,
                    cpu_stat: CpuStat::open(pid),
                });
            }
            Err(error) => (self.answer)(Answer::Unreadable {
                pid,
                error: error.to_string(),
            }),
        }
    }

    fn appraise(&mut self, pid: Pid) {
        let exe = proc::exe_name(pid).unwrap_or_default();
        let command_line = proc::command_line(pid).unwrap_or_default();
        if let Some(target) = self.rules.target(pid, &exe, &command_line) {
            (self.answer)(Answer::Matched { pid, target });
        }
    }

    fn rematch(&mut self, pid: Pid) {
        // Who is ending shows nothing by which to judge, and is gone soon.
        let Ok(exe) = proc::exe_name(pid) else {
            return;
        };
        let command_line = proc::command_line(pid).unwrap_or_default();
        let target = self.rules.target(pid, &exe, &command_line);
        (self.answer)(Answer::Rematched { pid, target });
    }

    fn scan(&mut self, appraise: bool) {
        let pids = match proc::processes() {
            Ok(pids) => pids,
            Err(error) => {
                log::warn!("cannot list processes: reading /proc failed: {error}");
                return;
            }
        };
        let mut found = Vec::with_capacity(pids.len());
        let mut starts = HashMap::with_capacity(pids.len());
        for pid in pids {
            let Ok(stat) = proc::stat(pid) else {
                continue;
            };
            found.push((pid, stat.parent));
            starts.insert(pid, stat.start_ticks);
            if appraise && self.appraised.get(&pid) != Some(&stat.start_ticks) {
                self.appraise(pid);
            }
        }
        self.appraised = starts;
        (self.answer)(Answer::Scanned(found));
    }
}
