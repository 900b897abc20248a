//! The evidence thread: takes questions, gathers, answers.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::budget::Budget;
use super::facts;
use super::facts::child::{self, Remembered};
use super::interpreters::Interpreters;
use super::stacks::{ReadRegisters, Stacks};
use crate::pipeline::classify::ThreadFacts;
use crate::pipeline::evidence::{Evidence, Missing};
use crate::pipeline::interpreter::Word;
use crate::pipeline::{IncidentId, LoopId, Mono, Pid, PidKey};

/// Questions that may wait: a node-wide outage stalls every proxy at once. Further ones are refused, and said to be missing.
const QUEUE: usize = 256;

/// Evidence that is not there this long after it was asked for is not waited for.
const DEADLINE: Duration = Duration::from_secs(2);

/// A stall to find out about.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its incident, which the answer names.
    pub incident: IncidentId,
    /// Who stalls.
    pub id: LoopId,
    /// When it was asked.
    pub asked: Mono,
    /// What the quick look saw.
    pub facts: ThreadFacts,
    /// The child waited for, if it is known, and the basename of its executable.
    pub child: Option<(Pid, String)>,
}

/// A question to the thread.
#[derive(Debug)]
pub enum Question {
    /// A loop was recognised: make ready what takes long.
    Prepare(LoopId),
    /// Find out about a stall.
    Collect(Box<Request>),
    /// A child was told to end: take down what it has open, which cannot be seen any more when it is ending.
    Remember(Pid),
    /// A process has ended.
    Forget(Pid),
}

/// What was found out.
#[derive(Debug)]
pub struct Answer {
    /// The incident asked about.
    pub incident: IncidentId,
    /// Who stalls.
    pub id: LoopId,
    /// What the look saw that the question was about.
    pub about: ThreadFacts,
    /// What was found.
    pub evidence: Evidence,
}

/// The thread's address.
#[derive(Debug)]
pub struct Collector {
    questions: SyncSender<Question>,
    interpreters: Interpreters,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts the thread. `answer` is called from it for every answer; `clock` is the clock of the kernel events.
    pub fn start(
        clock: fn() -> Mono,
        registers: ReadRegisters,
        answer: impl FnMut(Answer) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (questions, inbox) = sync_channel(QUEUE);
        let interpreters = Interpreters::start()?;
        let known = interpreters.clone();
        let thread = std::thread::Builder::new()
            .name("evidence".into())
            .spawn(move || {
                Work {
                    clock,
                    stacks: Stacks::new(registers),
                    interpreters: known,
                    remembered: Remembered::default(),
                    budget: Budget::default(),
                    answer: Box::new(answer),
                }
                .run(&inbox);
            })?;
        Ok(Self {
            questions,
            interpreters,
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

    /// Whose lock an address in the memory of a process is, as far as it is known by now. Never waits.
    #[must_use]
    pub fn word(&self, process: PidKey, address: u64) -> Word {
        self.interpreters.word(process, address)
    }

    /// Ends the thread once it has answered what waits.
    pub fn stop(mut self) {
        drop(self.questions);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the evidence thread panicked");
        }
    }
}

struct Work {
    clock: fn() -> Mono,
    stacks: Stacks,
    interpreters: Interpreters,
    remembered: Remembered,
    budget: Budget,
    answer: Box<dyn FnMut(Answer) + Send>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Question>) {
        while let Ok(question) = inbox.recv() {
            match question {
                Question::Collect(request) => {
                    let answer = self.collect(*request);
                    (self.answer)(answer);
                }
                Question::Prepare(id) => {
                    self.interpreters.look_up(id.process);
                    self.stacks.prepare(id);
                }
                Question::Remember(pid) => self.remembered.remember(pid),
                Question::Forget(pid) => {
                    self.interpreters.forget(pid);
                    self.remembered.forget(pid);
                    self.stacks.forget(pid);
                }
            }
        }
    }

    fn collect(&mut self, request: Request) -> Answer {
        let mut evidence = Evidence {
            asked: request.asked,
            ..Evidence::default()
        };
        self.gather(&request, &mut evidence);
        evidence.took = (self.clock)().since(request.asked);
        Answer {
            incident: request.incident,
            id: request.id,
            about: request.facts,
            evidence,
        }
    }

    /// Part by part, each only if budget and deadline allow: what is not gathered is said to be missing.
    fn gather(&mut self, request: &Request, evidence: &mut Evidence) {
        let before = (thread_cpu(), self.stacks.helper_cpu());
        if self.may(request, "details", evidence) {
            self.details(request, evidence);
            let used = thread_cpu().saturating_sub(before.0).as_micros();
            log::debug!("details of {} took {used} µs of CPU", request.id.tid);
        }
        if self.may(request, "stack", evidence) {
            self.stacks.collect(request.id, evidence);
        }
        // A helper that was replaced meanwhile has used less than the one before: what that used is not known.
        let after = (thread_cpu(), self.stacks.helper_cpu());
        let used = after.0.saturating_sub(before.0) + after.1.saturating_sub(before.1);
        self.budget.spend(used);
    }

    fn details(&mut self, request: &Request, evidence: &mut Evidence) {
        evidence.details = facts::details(request, &mut evidence.missing);
        if let Some((child, exe)) = &request.child {
            evidence.child = child::detail(
                *child,
                request.id.process.pid,
                exe,
                &self.remembered,
                &mut evidence.missing,
            );
        }
    }

    /// Whether a part may be gathered now.
    fn may(&mut self, request: &Request, what: &str, evidence: &mut Evidence) -> bool {
        let now = (self.clock)();
        let why = if now.since(request.asked) > DEADLINE {
            Some("deadline: it was too late, evidence about other stalls came first")
        } else {
            self.budget.refusal(now)
        };
        if let Some(why) = why {
            evidence.missing.push(Missing {
                what: what.to_owned(),
                why: why.to_owned(),
            });
        }
        why.is_none()
    }
}

/// CPU time of this thread so far.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
