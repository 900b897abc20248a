//! Asking the evidence thread about stalls, and taking its answers in.

use std::sync::Arc;
use std::time::Duration;

use super::loops::Stall;
use super::sentinel::Sentinel;
use super::stall::{differs, view_of};
use crate::evidence::{Answer, Question, Request};
use crate::kernel::clock;
use crate::pipeline::classify::{Doing, ThreadFacts, classify, is_clear};
use crate::pipeline::evidence::Missing;
use crate::pipeline::{CauseKind, Collect, Evidence, Mono, Notice, Pid, Tid};

/// Captures that may be saved up: a stall changes its cause a few times, or some follow one another.
const CAPTURES_SAVED: u32 = 3;

/// After a signal of ours the loop has the machine to itself for this long: it is on its way back, and has a new engine to start.
const RETURNING: Duration = Duration::from_millis(500);

impl Sentinel {
    /// Asks again about a stall that is about something else by now, when no answer is due and the loop's budget allows.
    pub(super) fn ask_again(&mut self, tid: Tid, now: Mono) {
        let facts = self.loops.get(&tid).and_then(|watched| {
            let stall = watched.stall.as_ref()?;
            let returning = stall
                .strikes
                .iter()
                .any(|struck| now.since(struck.at) < RETURNING);
            let may = stall.ask_again
                && stall.asked.is_none()
                && watched.next_capture <= now
                && !returning;
            may.then(|| stall.facts.clone())
        });
        if let Some(facts) = facts {
            self.ask_evidence(tid, &facts, now);
        }
    }

    /// Asks what a stalled loop waits for. Never waits.
    pub(super) fn ask_evidence(&mut self, tid: Tid, facts: &ThreadFacts, now: Mono) {
        let limits = self.settings.evidence;
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let Some(stall) = watched.stall.as_mut() else {
            return;
        };
        if limits.collect == Collect::Off {
            stall.ask_again = false;
            return;
        }
        if watched.next_capture > now {
            // Asked when its time has come, if the stall still lasts.
            stall.ask_again = true;
            return;
        }
        let saved = nanoseconds(limits.per_loop.saturating_mul(CAPTURES_SAVED));
        let earliest = Mono(now.0.saturating_sub(saved));
        watched.next_capture = watched.next_capture.max(earliest).plus(limits.per_loop);
        let request = Request {
            incident: stall.incident,
            id: watched.id,
            asked: now,
            facts: facts.clone(),
            child: facts
                .child
                .as_ref()
                .map(|child| (child.pid, child.exe.clone())),
            stack: limits.collect == Collect::Full && stack_wanted(stall, facts),
        };
        stall.asked = Some(now);
        stall.last_asked = now;
        stall.asked_about = Some(facts.clone());
        stall.ask_again = false;
        if !self.collector.ask(Question::Collect(Box::new(request))) {
            stall.asked = None;
            let evidence = stall.evidence.get_or_insert_default();
            Arc::make_mut(evidence).missing.push(Missing {
                what: "evidence".into(),
                why: "too many stalls at once: the queue of the evidence thread is full".into(),
            });
            self.lost_question(now);
        }
    }

    /// A process to be made ready for, or forgotten.
    pub(super) fn tell_collector(&mut self, question: Question) {
        if !self.collector.ask(question) {
            self.lost_question(clock::now());
        }
    }

    fn lost_question(&mut self, at: Mono) {
        (self.tell)(Notice::Lost {
            at,
            what: "evidence_queue_full".into(),
            count: 1,
        });
    }

    /// Takes an answer into the stall it is about, if that still lasts.
    pub(super) fn explained(&mut self, answer: Answer) {
        let now = clock::now();
        let Some(watched) = self.loops.get_mut(&answer.id.tid) else {
            return;
        };
        let info = watched.info.clone();
        let Some(stall) = watched
            .stall
            .as_mut()
            .filter(|stall| stall.incident == answer.incident)
        else {
            return;
        };
        if answer.complete {
            stall.asked = None;
        }
        stall.ask_again |= answer.cut;
        // Details are about one call; a stack is worth showing even if the thread has gone on.
        let mut news = stall
            .evidence
            .as_ref()
            .map_or(shows(&answer.evidence), |before| {
                tells_more(before, &answer.evidence)
            });
        if stall.facts.same_wait(&answer.about) {
            stall.facts.details = answer.evidence.details.clone();
            let cause = classify(&stall.facts);
            let clear = is_clear(&stall.facts, stall.cause.kind, cause.kind);
            if clear && differs(&stall.cause, &cause) && cause.kind != CauseKind::Unknown {
                stall.shares.explain(&cause, now);
                stall.cause = cause;
                stall.cause_at = now;
                news = true;
            }
        } else {
            stall.ask_again = true;
        }
        let mut evidence = answer.evidence;
        if let (None, Some(before)) = (&evidence.stack, &stall.evidence) {
            // It comes later, or was not asked for again: the one before stays.
            evidence.stack.clone_from(&before.stack);
            evidence.holder_stack.clone_from(&before.holder_stack);
        }
        let evidence = Arc::new(evidence);
        let kind = match classify(&answer.about).kind {
            // A look at one moment does not show it; the cause may be known by now.
            CauseKind::Unknown => stall.cause.kind,
            kind => kind,
        };
        stall.evidence_of.insert(kind, evidence.clone());
        stall.evidence = Some(evidence);
        let view = view_of(stall, now);
        if let (Some(info), true) = (info, news) {
            self.tell(Notice::StallUpdated { info, view });
        }
    }

    /// What a stall that ends has to say of evidence that never came.
    pub(super) fn unexplained(stall: &mut Stall) {
        let why = match (&stall.evidence, stall.asked, stall.ask_again) {
            (Some(_), ..) | (None, None, false) => return,
            (None, Some(_), _) => "the stall ended before it was gathered",
            (None, None, true) => {
                "budget: there was evidence about stalls of this loop shortly before (`evidence.per_loop`)"
            }
        };
        let missing = vec![Missing {
            what: "evidence".into(),
            why: why.into(),
        }];
        stall.evidence = Some(Arc::new(Evidence {
            missing,
            ..Evidence::default()
        }));
    }

    /// Has the sockets of engines taken down, for when one is told to end and closes them.
    pub(super) fn remember_engines(&mut self) {
        let engines: Vec<Pid> = self
            .family
            .iter()
            .filter(|process| process.engine == Some(true))
            .map(|process| process.key.pid)
            .collect();
        for pid in engines {
            self.tell_collector(Question::Remember(pid));
        }
    }

    /// A process has ended.
    pub(super) fn forget_evidence(&mut self, pid: Pid) {
        self.tell_collector(Question::Forget(pid));
    }
}

/// Whether there is anything in it for a reader.
fn shows(evidence: &Evidence) -> bool {
    evidence.stack.is_some() || evidence.child.is_some() || !evidence.missing.is_empty()
}

/// Whether it says something else than what was known. A stack that it does not have is no news.
fn tells_more(before: &Evidence, after: &Evidence) -> bool {
    let stacks = (&before.stack, &before.holder_stack) != (&after.stack, &after.holder_stack);
    let child = |evidence: &Evidence| {
        let mut child = evidence.child.clone()?;
        child.age = None;
        Some(child)
    };
    before.missing != after.missing
        || child(before) != child(after)
        || (after.stack.is_some() && stacks)
}

/// A stack of a thread that stays where it is holds until it goes on.
fn stack_wanted(stall: &Stall, facts: &ThreadFacts) -> bool {
    let known = stall
        .evidence
        .as_ref()
        .is_some_and(|evidence| evidence.stack.is_some());
    let stays = stall
        .asked_about
        .as_ref()
        .is_some_and(|before| matches!(facts.doing, Doing::Call { .. }) && facts.same_wait(before));
    !(known && stays)
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
