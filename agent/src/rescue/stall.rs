//! Recognising loops, and opening, updating and closing their stalls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::accounts::Accounts;
use super::look::{Known, away_since, doing, look};
use super::loops::{Loop, Stall};
use super::sentinel::Sentinel;
use crate::pipeline::classify::{Doing, Shares, ThreadFacts, classify, is_clear};
use crate::pipeline::event::Beat;
use crate::pipeline::policy::{WaitFacts, awaited_cause};
use crate::pipeline::recognise::Candidate;
use crate::pipeline::{
    Cause, CauseKind, ChildCause, EndedBy, Evidence, LoopId, LoopTotals, Mono, Notice, StallView,
    StarvedBy, Tid,
};
use crate::target::scout::Question;

/// How often an open stall is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The first look again comes sooner: whether a running thread computes or starves shows only over some time.
const SECOND_LOOK: Duration = Duration::from_millis(20);
/// How often evidence is asked for again about what changes without a change of the cause.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Looks in a row that show nothing, after which a cause shown before is taken back.
const UNKNOWN_LOOKS: u32 = 5;
/// A rescue is credited only if the loop polls this soon after the child's end.
const RESCUED_WITHIN: Duration = Duration::from_secs(1);

/// One look at a loop.
pub(super) type Seen = (ThreadFacts, Option<Accounts>);

impl Sentinel {
    /// What is known of a thread, with all its polls so far.
    pub(super) fn candidate_of(watched: &Loop) -> Candidate {
        Candidate {
            pollers: Self::pollers_of(watched),
            ..watched.candidate.clone()
        }
    }

    /// Opens a stall when it is due, looks again while it lasts, closes it when the loop is back.
    pub(super) fn follow_stall(&mut self, tid: Tid, now: Mono) {
        let stopped = self.stopped_loop(tid, now);
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let (Some(reading), true) = (watched.last.as_ref(), watched.info.is_some()) else {
            return;
        };
        let away = away_since(watched, reading, now).or(stopped);
        match (&watched.stall, away) {
            // The report of its end comes before the record shows it, or after.
            (None, Some(since)) if watched.closed.is_some_and(|closed| closed >= since) => {}
            (None, Some(since)) if now.since(since) >= watched.stall_after => {
                self.open_stall(tid, since, now, None);
            }
            (Some(stall), _) => {
                let back = match reading.beat {
                    Beat::Polling { since, .. } | Beat::Busy { since } if since > stall.since => {
                        Some(since)
                    }
                    Beat::Polling { .. } if away.is_none() => Some(now),
                    _ => None,
                };
                if let Some(at) = back {
                    self.close_stall(tid, at, EndedBy::Poll);
                } else if stall.next_look <= now {
                    self.look_again(tid, now);
                }
            }
            _ => {}
        }
    }

    /// Since when a loop's process is stopped. procfs is asked where it matters: when a stall is to be opened for it, and at each
    /// look while one lasts.
    fn stopped_loop(&mut self, tid: Tid, now: Mono) -> Option<Mono> {
        let watched = self.loops.get(&tid)?;
        let process = self.family.get(watched.id.process.pid)?;
        let sent = process.stopped?;
        let due = match &watched.stall {
            Some(stall) => stall.next_look <= now,
            None => now.since(sent) >= watched.stall_after,
        };
        if due {
            return self.stopped_since(watched.id.process.pid, now);
        }
        process.stopped.filter(|_| process.stop_shown)
    }

    /// What an action will open its incident with, if that is not open yet or names no child: a look after the signal would show
    /// what the signal did. The decision's facts say all of it where the call blocks, so that the signal waits for nothing; between
    /// naps, and in a poll on a pidfd, one read of procfs names the call.
    pub(super) fn look_for_action(&self, tid: Tid, decided: &WaitFacts, now: Mono) -> Option<Seen> {
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

    /// Opens a stall with what was seen of it, or with a look now.
    pub(super) fn open_stall(&mut self, tid: Tid, since: Mono, now: Mono, seen: Option<Seen>) {
        let incident = self.new_incident();
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let (facts, accounts) = seen.unwrap_or_else(|| self.look_at(watched, None, now));
        let cause = classify(&facts);
        let mut shares = Shares::default();
        shares.add(&facts, &cause, now.since(since), now);
        let lower_bound = watched.adopted_busy.is_some();
        let stall = Stall {
            incident,
            since,
            lower_bound,
            cause,
            cause_of_action: None,
            cause_at: now,
            accounts,
            looked: now,
            next_look: now.plus(SECOND_LOOK),
            shares,
            cgroup_asked: false,
            unknown: 0,
            facts: facts.clone(),
            evidence: None,
            evidence_of: BTreeMap::new(),
            asked: None,
            last_asked: now,
            asked_about: None,
            ask_again: false,
            strikes: Vec::new(),
        };
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let view = view_of(&stall, now);
        watched.stall = Some(stall);
        if let Some(info) = watched.info.clone() {
            self.sensor.notify(tid);
            self.tell(Notice::StallOpened { info, view });
        }
        self.ask_evidence(tid, &facts, now);
    }

    /// An action opens its incident, whatever the stall's length: a grace below the threshold is allowed.
    pub(super) fn open_stall_for_action(&mut self, tid: Tid, now: Mono, seen: Option<Seen>) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        if let Some(stall) = watched.stall.as_mut() {
            // Opened before the child was known, on a busy machine: who is acted on has to be told.
            if let Some((facts, _)) = seen {
                let cause = classify(&facts);
                stall.shares.explain(&cause, now);
                stall.cause = cause;
                stall.cause_at = now;
                stall.facts = facts;
                let view = view_of(stall, now);
                if let Some(info) = watched.info.clone() {
                    self.tell(Notice::StallUpdated { info, view });
                }
            }
        } else {
            let reading = watched.last.as_ref();
            let since = reading.and_then(|reading| away_since(watched, reading, now));
            let since = since
                .or(watched.episode.as_ref().map(|episode| episode.start))
                .unwrap_or(now);
            self.open_stall(tid, since, now, seen);
        }
    }

    /// Looks at a loop's thread with all that is known of it.
    fn look_at(
        &self,
        watched: &Loop,
        before: Option<&Accounts>,
        now: Mono,
    ) -> (ThreadFacts, Option<Accounts>) {
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
        let (mut facts, accounts) = self.look_at(watched, stall.accounts.as_ref(), now);
        let same_call = facts.same_wait(&stall.facts);
        if same_call {
            facts.details = stall.facts.details.clone();
        }
        let mut cause = classify(&facts);
        if let (None, Some(child)) = (&cause.child, aged(stall, now).child)
            && cause.kind == stall.cause.kind
            && watched.still_awaits(&child)
        {
            // It has ended, and a wait that naps has not looked yet.
            cause.child = Some(ChildCause {
                state: "zombie".to_owned(),
                ..child
            });
        }
        let asleep = matches!(facts.doing, Doing::Call { .. });
        let info = watched.info.clone();
        let Some(stall) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.stall.as_mut())
        else {
            return;
        };
        stall
            .shares
            .add(&facts, &cause, now.since(stall.looked), now);
        stall.looked = now;
        stall.next_look = now.plus(LOOK_AGAIN);
        stall.accounts = accounts;
        stall.facts = facts;
        // Where a running thread is changes all the time, and what an ending child does.
        let moves = stall.facts.doing == Doing::Running || stall.facts.waits;
        let old = now.since(stall.last_asked) >= ASK_AGAIN;
        stall.ask_again |=
            (moves && old) || cause.kind != stall.cause.kind || (!same_call && asleep);
        // A cause once shown is not taken back for a moment in which nothing can be shown.
        let unknown = cause.kind == CauseKind::Unknown;
        stall.unknown = if unknown { stall.unknown + 1 } else { 0 };
        let clear = is_clear(&stall.facts, stall.cause.kind, cause.kind);
        let shown = clear && (!unknown || stall.unknown == UNKNOWN_LOOKS);
        if shown && differs(&stall.cause, &cause) {
            if cause.kind != stall.cause.kind {
                stall.turn_evidence(cause.kind);
            }
            stall.cause = cause;
            stall.cause_at = now;
            let view = view_of(stall, now);
            if let Some(info) = info {
                self.tell(Notice::StallUpdated { info, view });
            }
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

    /// The kernel reports that a loop is back after a long iteration: closes its stall to the nanosecond.
    pub(super) fn loop_polled(&mut self, tid: Tid, since: Mono, at: Mono) {
        self.read_loop(tid);
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        if watched.info.is_none() {
            return;
        }
        let told = watched.closed.is_some_and(|closed| closed >= since);
        if watched.stall.is_none() && !told && at.since(since) >= watched.stall_after {
            // It came and went between two looks.
            self.open_stall(tid, since, at, None);
        }
        self.close_stall(tid, at, EndedBy::Poll);
        self.follow_episode(tid, at);
    }

    pub(super) fn close_stall(&mut self, tid: Tid, at: Mono, ended_by: EndedBy) {
        // A signalled child that ended as the loop came back must be seen to have.
        self.follow_strikes(tid, at);
        self.tell_stories(tid, at);
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        watched.adopted_busy = None;
        let id = watched.id;
        let (Some(mut stall), Some(info)) = (watched.stall.take(), watched.info.clone()) else {
            return;
        };
        watched.closed = Some(stall.since);
        let liveness = self.risk_at_the_end(tid, stall.since, at);
        let rescued = ended_by == EndedBy::Poll
            && stall.strikes.iter().any(|struck| {
                struck
                    .ended
                    .is_some_and(|ended| at.since(ended) <= RESCUED_WITHIN)
            });
        if rescued {
            self.engine_recovers(id.process, at);
        }
        let acted = stall.cause_of_action.take().filter(|_| rescued);
        stall.add_rest(id, at);
        if let Some((cause, seen)) = acted.or_else(|| stall.shares.largest()) {
            stall.cause = cause;
            stall.cause_at = seen;
        }
        // The stack of what it was mostly about, not of what came last.
        if let Some(evidence) = stall.evidence_of.remove(&stall.cause.kind) {
            stall.evidence = Some(evidence);
        }
        Self::unexplained(&mut stall);
        let mut view = view_of(&stall, at);
        view.shares = stall.shares.parts();
        self.tell(Notice::StallClosed {
            info,
            view,
            rescued,
            ended_by,
            liveness,
        });
    }

    /// Ends watching of one thread.
    pub(super) fn end_loop(&mut self, tid: Tid, at: Mono, how: EndedBy, ignore: bool) {
        let Some(episode) = self
            .loops
            .get_mut(&tid)
            .map(|watched| watched.episode.take())
        else {
            return;
        };
        if let Some(episode) = episode {
            self.end_episode(tid, episode, at);
        }
        self.close_stall(tid, at, how);
        let Some(watched) = self.loops.remove(&tid) else {
            return;
        };
        let totals: LoopTotals = self
            .sensor
            .totals()
            .totals(watched.slot)
            .unwrap_or_default();
        self.sensor.release(tid, ignore);
        if let Some(info) = watched.info {
            self.tell(Notice::LoopEnded {
                at,
                info,
                totals,
                ended_by: how,
            });
        }
    }

    /// The earliest moment at which something about a loop can be due.
    pub(super) fn due_of(&self, watched: &Loop, now: Mono) -> Mono {
        let mut due = match (
            &watched.stall,
            watched.last.as_ref().map(|reading| reading.beat),
        ) {
            (Some(stall), _) => stall.next_look,
            (None, Some(Beat::Busy { since })) => since.plus(watched.stall_after),
            (
                None,
                Some(Beat::Polling {
                    deadline: Some(deadline),
                    ..
                }),
            ) => deadline.plus(watched.stall_after),
            _ => now.plus(watched.stall_after),
        };
        if watched.stall.is_none() && due <= now {
            due = now.plus(watched.stall_after);
        }
        if let Some(episode) = &watched.episode
            && let Some(next) = episode.next_look
        {
            due = due.min(next);
        }
        if let Some(next) = self.risk_due(watched, now) {
            due = due.min(next);
        }
        let outstanding =
            |struck: &&super::loops::Struck| struck.ended.is_none() && !struck.said_ineffective;
        for struck in watched
            .stall
            .iter()
            .flat_map(|stall| &stall.strikes)
            .filter(outstanding)
        {
            due = due.min(struck.at.plus(RESCUED_WITHIN));
        }
        due
    }
}

impl Stall {
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

    /// Adds the time since the last look, of which there are only accounts.
    fn add_rest(&mut self, id: LoopId, at: Mono) {
        let scheduled = self
            .accounts
            .as_ref()
            .and_then(|before| Accounts::last(id, before, at));
        let facts = ThreadFacts {
            scheduled,
            ..self.facts.clone()
        };
        let mut cause = aged(self, at);
        if let (CauseKind::Unknown, Doing::Running) = (cause.kind, &facts.doing) {
            cause = classify(&facts);
        }
        self.shares.add(&facts, &cause, at.since(self.looked), at);
    }
}

/// The cause with the ages of the moment a line is about, not of the look that found it.
fn aged(stall: &Stall, at: Mono) -> Cause {
    let mut cause = stall.cause.clone();
    if let Some(child) = &mut cause.child {
        let older = at.since(stall.cause_at).as_secs_f64() * 1000.0;
        child.told_to_end_ms_ago = child.told_to_end_ms_ago.map(|age| age + older);
        if let Some(signalled) = &mut child.signalled {
            signalled.ms_ago += older;
        }
    }
    cause
}

pub(super) fn view_of(stall: &Stall, at: Mono) -> StallView {
    StallView {
        incident: stall.incident,
        at,
        busy: at.since(stall.since),
        busy_is_lower_bound: stall.lower_bound,
        cause: aged(stall, at),
        evidence: stall.evidence.clone(),
        shares: Vec::new(),
    }
}

/// Whether a person would call it another cause: the age of a signal is no news, nor is the place in the kernel.
pub(super) fn differs(before: &Cause, after: &Cause) -> bool {
    let plain = |cause: &Cause| {
        let mut plain = cause.clone();
        if let Some(child) = &mut plain.child {
            child.told_to_end_ms_ago = child.told_to_end_ms_ago.map(|_| 0.0);
            if let Some(signalled) = &mut child.signalled {
                signalled.ms_ago = 0.0;
            }
        }
        plain.kernel_function = None;
        plain
    };
    plain(before) != plain(after)
}
