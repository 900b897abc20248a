//! The evidence thread: takes questions, finds out what procfs shows, answers, and passes on to who reads stacks.
//!
//! Two threads, because what names the cause takes a millisecond, and a first stack of a large program seconds.

use std::convert::Infallible;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel,
};
use std::sync::{Arc, Mutex, PoisonError};
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

/// How long the end of the agent waits for a read: it may hang for good.
const LAST_READS: Duration = Duration::from_secs(1);

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
    /// Whether the stack is wanted, too: that of a thread that stays where it is need not be read again.
    pub stack: bool,
}

/// A question to the thread.
#[derive(Debug)]
pub enum Question {
    /// A loop was recognised: make ready what takes long.
    Prepare {
        /// Whose.
        id: LoopId,
        /// Also what reading stacks needs.
        stacks: bool,
    },
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
    /// Nothing more comes to this question.
    pub complete: bool,
    /// Budget or deadline left something out: it is worth asking again.
    pub cut: bool,
}

/// Takes the answers; called from both threads.
pub(super) type Reply = Arc<dyn Fn(Answer) + Send + Sync>;

/// The thread's address.
#[derive(Debug)]
pub struct Collector {
    questions: SyncSender<Question>,
    interpreters: Interpreters,
    budget: Arc<Mutex<Budget>>,
    threads: [JoinHandle<()>; 2],
    /// Ends when both threads have.
    running: Receiver<Infallible>,
}

impl Collector {
    /// Starts the threads. `answer` is called from them for every answer; `clock` is the clock of the kernel events;
    /// `cpu_percent` of one core is what all evidence may take.
    pub fn start(
        clock: fn() -> Mono,
        registers: ReadRegisters,
        cpu_percent: u8,
        answer: impl Fn(Answer) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (questions, inbox) = sync_channel(QUEUE);
        let (to_stacks, for_stacks) = sync_channel(QUEUE);
        let interpreters = Interpreters::start()?;
        let budget = Arc::new(Mutex::new(Budget::new(cpu_percent)));
        let answer: Reply = Arc::new(answer);
        let work = Work {
            clock,
            interpreters: interpreters.clone(),
            remembered: Remembered::default(),
            budget: budget.clone(),
            stacks: to_stacks,
            answer: answer.clone(),
        };
        let stacks = StackWork {
            clock,
            stacks: Stacks::new(registers),
            budget: budget.clone(),
            answer,
        };
        let (runs, running) = channel::<Infallible>();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let runs = runs.clone();
            let run = move || {
                run();
                drop(runs);
            };
            std::thread::Builder::new().name(name.into()).spawn(run)
        };
        Ok(Self {
            questions,
            interpreters,
            budget,
            threads: [
                spawn("evidence", Box::new(move || work.run(&inbox)))?,
                spawn("evidence-stacks", Box::new(move || stacks.run(&for_stacks)))?,
            ],
            running,
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

    /// What all evidence may take from now on, in hundredths of one core.
    pub fn set_share(&self, cpu_percent: u8) {
        self.budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set_share(cpu_percent);
    }

    /// Whose lock an address in the memory of a process is, as far as it is known by now. Never waits.
    #[must_use]
    pub fn word(&self, process: PidKey, address: u64) -> Word {
        self.interpreters.word(process, address)
    }

    /// Ends the threads once they have answered what waits, or leaves them behind: they end with the agent.
    pub fn stop(self) {
        drop(self.questions);
        if let Err(RecvTimeoutError::Timeout) = self.running.recv_timeout(LAST_READS) {
            log::warn!(
                "evidence is still being read after {LAST_READS:?}: not waited for any longer"
            );
            return;
        }
        for thread in self.threads {
            if thread.join().is_err() {
                log::error!("an evidence thread panicked");
            }
        }
    }
}

/// What procfs shows.
struct Work {
    clock: fn() -> Mono,
    interpreters: Interpreters,
    remembered: Remembered,
    budget: Arc<Mutex<Budget>>,
    stacks: SyncSender<StackQuestion>,
    answer: Reply,
}

/// A question to the thread that reads stacks.
enum StackQuestion {
    Prepare(LoopId),
    Collect(Box<Request>, Box<Evidence>),
    Forget(Pid),
}

impl Work {
    fn run(mut self, inbox: &Receiver<Question>) {
        while let Ok(question) = inbox.recv() {
            match question {
                Question::Collect(request) => self.collect(request),
                Question::Prepare { id, stacks } => {
                    self.interpreters.look_up(id.process);
                    if stacks {
                        self.pass_on(StackQuestion::Prepare(id));
                    }
                }
                Question::Remember(pid) => self.remembered.remember(pid),
                Question::Forget(pid) => {
                    self.interpreters.forget(pid);
                    self.remembered.forget(pid);
                    self.pass_on(StackQuestion::Forget(pid));
                }
            }
        }
    }

    fn pass_on(&self, question: StackQuestion) {
        if self.stacks.try_send(question).is_err() {
            log::debug!(
                "a process is not made ready for stacks, or not forgotten: too many questions wait"
            );
        }
    }

    fn collect(&mut self, request: Box<Request>) {
        let mut evidence = Evidence {
            asked: request.asked,
            ..Evidence::default()
        };
        let may = may(&self.budget, self.clock, &request, "details", &mut evidence);
        if may {
            let before = thread_cpu();
            self.details(&request, &mut evidence);
            let used = thread_cpu().saturating_sub(before);
            spend(&self.budget, used);
            let thread = request.id.tid;
            log::debug!("details of {thread} took {} µs of CPU", used.as_micros());
        }
        evidence.took = (self.clock)().since(request.asked);
        let complete = !request.stack;
        (self.answer)(answer_to(&request, evidence.clone(), complete, !may));
        if complete {
            return;
        }
        let question = StackQuestion::Collect(request, Box::new(evidence));
        if let Err(TrySendError::Full(question) | TrySendError::Disconnected(question)) =
            self.stacks.try_send(question)
            && let StackQuestion::Collect(request, mut evidence) = question
        {
            evidence.missing.push(Missing {
                what: "stack".into(),
                why: "too many stalls at once: the queue of the thread that reads stacks is full"
                    .into(),
            });
            (self.answer)(answer_to(&request, *evidence, true, true));
        }
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
}

/// Where in its code the thread is.
struct StackWork {
    clock: fn() -> Mono,
    stacks: Stacks,
    budget: Arc<Mutex<Budget>>,
    answer: Reply,
}

impl StackWork {
    fn run(mut self, inbox: &Receiver<StackQuestion>) {
        while let Ok(question) = inbox.recv() {
            match question {
                StackQuestion::Prepare(id) => self.stacks.prepare(id),
                StackQuestion::Forget(pid) => self.stacks.forget(pid),
                StackQuestion::Collect(request, mut evidence) => {
                    let may = may(&self.budget, self.clock, &request, "stack", &mut evidence);
                    if may {
                        self.collect(&request, &mut evidence);
                    }
                    evidence.took = (self.clock)().since(request.asked);
                    (self.answer)(answer_to(&request, *evidence, true, !may));
                }
            }
        }
    }

    fn collect(&mut self, request: &Request, evidence: &mut Evidence) {
        let before = (thread_cpu(), self.stacks.helper_cpu());
        self.stacks.collect(request.id, evidence);
        // A helper that was replaced meanwhile has used less than the one before: what that used is not known.
        let after = (thread_cpu(), self.stacks.helper_cpu());
        spend(
            &self.budget,
            after.0.saturating_sub(before.0) + after.1.saturating_sub(before.1),
        );
    }
}

fn answer_to(request: &Request, evidence: Evidence, complete: bool, cut: bool) -> Answer {
    Answer {
        incident: request.incident,
        id: request.id,
        about: request.facts.clone(),
        evidence,
        complete,
        cut,
    }
}

fn spend(budget: &Mutex<Budget>, used: Duration) {
    budget
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .spend(used);
}

/// Whether a part may be gathered now. What may not is said to be missing.
fn may(
    budget: &Mutex<Budget>,
    clock: fn() -> Mono,
    request: &Request,
    what: &str,
    evidence: &mut Evidence,
) -> bool {
    let now = clock();
    let why = if now.since(request.asked) > DEADLINE {
        Some("deadline: it was too late, evidence about others came first".to_owned())
    } else {
        budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refusal(now)
    };
    let Some(why) = why else {
        return true;
    };
    evidence.missing.push(Missing {
        what: what.to_owned(),
        why,
    });
    false
}

/// CPU time of this thread so far.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
