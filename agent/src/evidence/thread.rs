//! The evidence thread: takes questions, gathers, answers.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::facts;
use super::interpreters::Interpreters;
use super::stacks::{ReadRegisters, Stacks};
use crate::pipeline::classify::ThreadFacts;
use crate::pipeline::evidence::Evidence;
use crate::pipeline::interpreter::Word;
use crate::pipeline::{IncidentId, LoopId, Mono, Pid, PidKey};

/// Questions that may wait: a node-wide outage stalls every proxy at once. Further ones are refused, and said to be missing.
const QUEUE: usize = 256;

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
    /// The child waited for, if it is known.
    pub child: Option<Pid>,
}

/// A question to the thread.
#[derive(Debug)]
pub enum Question {
    /// A loop was recognised: make ready what takes long.
    Prepare(LoopId),
    /// Find out about a stall.
    Collect(Box<Request>),
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
                    // The rescue's looks need this one first: whose lock a futex is.
                    self.interpreters.look_up(id.process);
                    self.stacks.prepare(id);
                }
                Question::Forget(pid) => {
                    self.interpreters.forget(pid);
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
        evidence.details = facts::details(&request, &mut evidence.missing);
        self.stacks.collect(request.id, &mut evidence);
        evidence.took = (self.clock)().since(request.asked);
        Answer {
            incident: request.incident,
            id: request.id,
            about: request.facts,
            evidence,
        }
    }
}
