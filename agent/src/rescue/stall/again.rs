//! Looks at a stalled loop: the first, what an action shows of it, and the looks that follow while the stall lasts.

use std::sync::Arc;
use std::time::Duration;

use super::Seen;
use super::view::{aged, differs, view_of};
use crate::pipeline::classify::{Doing, ThreadFacts, classify, is_clear};
use crate::pipeline::policy::{WaitFacts, awaited_cause};
use crate::pipeline::{CauseKind, ChildCause, Evidence, Mono, Notice, StarvedBy, Tid};
use crate::rescue::accounts::Accounts;
use crate::rescue::look::{Known, doing, look};
use crate::rescue::loops::{Loop, Stall};
use crate::rescue::sentinel::Sentinel;
use crate::target::scout::Question;

/// How often an open stall is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often evidence is asked for again about what changes without a change of the cause.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Looks in a row that show nothing, after which a cause shown before is taken back.
const UNKNOWN_LOOKS: u32 = 5;

impl Sentinel {
    /// What an action will open its incident with, if that is not open yet or names no child: a look after the signal would show
    /// what the signal did. The decision's facts say all of it where the call blocks, so that the signal waits for nothing; between
    /// naps, and in a poll on a pidfd, one read of procfs names the call.
    pub(in crate::rescue) fn look_for_action(
        &self,
        tid: Tid,
        decided: &WaitFacts,
        now: Mono,
    ) -> Option<Seen> {
        let watched = self.loops.get(&tid)?;
        let stall = watched.stall.as_ref();
        if stall.is_some_and(|stall| stall.cause.child.is_some()) {
            return None;
        }
        let call = watched
            .episode
            .as_ref()
            .and_then(|episode| episode.wanted.blocking_call());
        let doing = match call {
            Some(name) => Doing::Call {
                name: name.to_owned(),
                fd: None,
                descriptor: None,
                args: [0; 6],
            },
            None => doing(watched.id, watched.last.as_ref()?, None),
        };
        let facts = ThreadFacts {
            state: 'S',
            doing,
            waits: true,
            child: awaited_cause(decided, now).map(|child| ChildCause {
                signalled: self.signalled(child.pid, now),
                ..child
            }),
            ..ThreadFacts::default()
        };
        Some((facts, None))
    }

    /// Looks at a loop's thread with all that is known of it.
    pub(super) fn look_at(&self, watched: &Loop, before: Option<&Accounts>, now: Mono) -> Seen {
        let Some(reading) = &watched.last else {
            return (ThreadFacts::default(), None);
        };
        let process = watched.id.process;
        let known = Known {
            child: self.child_cause(watched, now),
            stopped_by: self.family.get(process.pid).and_then(|own| own.stopped_by),
            cpu_stat: self.cpu_stats.get(&process.pid),
            freezer: &self.freezer,
            word: &|address| self.collector.word(process, address),
        };
        let (facts, accounts) = look(watched.id, reading, before, known, now);
        (facts, Some(accounts))
    }

    pub(super) fn look_again(&mut self, tid: Tid, now: Mono) {
        let Some((watched, stall)) = self
            .loops
            .get(&tid)
            .and_then(|watched| Some((watched, watched.stall.as_ref()?)))
        else {
            return;
        };
        let seen = self.look_at(watched, stall.accounts.as_ref(), now);
        let awaited = aged(stall, now).child;
        let awaited = awaited.filter(|child| watched.still_awaits(child));
        let info = watched.info.clone();
        let Some(stall) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.stall.as_mut())
        else {
            return;
        };
        if stall.seen_again(seen, awaited, now)
            && let Some(info) = info
        {
            let view = view_of(stall, now);
            self.tell(Notice::StallUpdated { info, view });
        }
        self.ask_again(tid, now);
        self.ask_cgroup(tid);
    }

    /// Has the cgroup of a starving loop looked up again, once a stall.
    fn ask_cgroup(&mut self, tid: Tid) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let (pid, target) = (watched.id.process.pid, watched.target);
        let Some(stall) = watched.stall.as_mut() else {
            return;
        };
        let quota = stall.cause.starved_by == Some(StarvedBy::CgroupQuota);
        if stall.cause.kind == CauseKind::CpuStarved && !quota && !stall.cgroup_asked {
            stall.cgroup_asked = true;
            self.ask(Question::Look {
                pid,
                target,
                threads: false,
            });
        }
    }
}

impl Stall {
    /// Takes in another look, with the child that the wait going on names; whether it shows another cause, which is to be told.
    fn seen_again(
        &mut self,
        (mut facts, accounts): Seen,
        awaited: Option<ChildCause>,
        now: Mono,
    ) -> bool {
        let same_call = facts.same_wait(&self.facts);
        if same_call {
            facts.details = self.facts.details.clone();
        }
        let mut cause = classify(&facts);
        if let (None, Some(child)) = (&cause.child, awaited)
            && cause.kind == self.cause.kind
        {
            // It has ended, and a wait that naps has not looked yet.
            cause.child = Some(ChildCause {
                state: "zombie".to_owned(),
                ..child
            });
        }
        let asleep = matches!(facts.doing, Doing::Call { .. });
        self.shares.add(&facts, &cause, now.since(self.looked), now);
        self.looked = now;
        self.next_look = now.plus(LOOK_AGAIN);
        self.accounts = accounts;
        self.facts = facts;
        // Where a running thread is changes all the time, and what an ending child does.
        let moves = self.facts.doing == Doing::Running || self.facts.waits;
        let old = now.since(self.last_asked) >= ASK_AGAIN;
        self.ask_again |= (moves && old) || cause.kind != self.cause.kind || (!same_call && asleep);
        // A cause once shown is not taken back for a moment in which nothing can be shown.
        let unknown = cause.kind == CauseKind::Unknown;
        self.unknown = if unknown { self.unknown + 1 } else { 0 };
        let clear = is_clear(&self.facts, self.cause.kind, cause.kind);
        let shown = clear && (!unknown || self.unknown == UNKNOWN_LOOKS);
        if !shown || !differs(&self.cause, &cause) {
            return false;
        }
        if cause.kind != self.cause.kind {
            self.turn_evidence(cause.kind);
        }
        self.cause = cause;
        self.cause_at = now;
        true
    }

    /// What it is about has changed: a stack of what it was about before would be taken for one of what it is about now.
    fn turn_evidence(&mut self, kind: CauseKind) {
        let without_stack = |before: &Arc<Evidence>| {
            Arc::new(Evidence {
                stack: None,
                holder_stack: None,
                ..Evidence::clone(before)
            })
        };
        let known = self.evidence_of.get(&kind).cloned();
        self.evidence = known.or_else(|| self.evidence.as_ref().map(without_stack));
    }
}
