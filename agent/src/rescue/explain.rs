//! Asking the evidence thread about stalls, and taking its answers in.

use std::sync::Arc;

use super::sentinel::Sentinel;
use super::stall::{differs, view_of};
use crate::evidence::{Answer, Question, Request};
use crate::kernel::clock;
use crate::pipeline::classify::{ThreadFacts, classify};
use crate::pipeline::evidence::Missing;
use crate::pipeline::{CauseKind, Evidence, Mono, Notice, Pid, Tid};

impl Sentinel {
    /// Asks what a stalled loop waits for. Never waits.
    pub(super) fn ask_evidence(&mut self, tid: Tid, facts: &ThreadFacts, now: Mono) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let Some(stall) = watched.stall.as_mut() else {
            return;
        };
        let request = Request {
            incident: stall.incident,
            id: watched.id,
            asked: now,
            facts: facts.clone(),
            child: facts.child.as_ref().map(|child| child.pid),
        };
        stall.asked = Some(now);
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
        stall.asked = None;
        // Details are about one call; a stack is worth showing even if the thread has gone on.
        if stall.facts.doing == answer.about.doing {
            stall.facts.details = answer.evidence.details.clone();
            let cause = classify(&stall.facts);
            if differs(&stall.cause, &cause) && cause.kind != CauseKind::Unknown {
                stall.cause = cause;
                stall.cause_at = now;
            }
        }
        stall.evidence = Some(Arc::new(answer.evidence));
        let view = view_of(stall, now);
        if let Some(info) = info {
            self.tell(Notice::StallUpdated { info, view });
        }
    }

    /// What a stall that ends has to say of evidence that never came.
    pub(super) fn unexplained(evidence: &mut Option<Arc<Evidence>>, asked: Option<Mono>) {
        if asked.is_some() && evidence.is_none() {
            let missing = vec![Missing {
                what: "evidence".into(),
                why: "the stall ended before it was gathered".into(),
            }];
            *evidence = Some(Arc::new(Evidence {
                missing,
                ..Evidence::default()
            }));
        }
    }

    /// A process has ended.
    pub(super) fn forget_evidence(&mut self, pid: Pid) {
        self.tell_collector(Question::Forget(pid));
    }
}
