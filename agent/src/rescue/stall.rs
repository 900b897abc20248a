//! Recognising loops, and opening, updating and closing their stalls.

use std::time::Duration;

use super::look::{away_since, look};
use super::loops::{Loop, Stall};
use super::sentinel::Sentinel;
use crate::pipeline::classify::{ThreadFacts, classify};
use crate::pipeline::event::Beat;
use crate::pipeline::recognise::Candidate;
use crate::pipeline::{Cause, ChildCause, EndedBy, LoopTotals, Mono, Notice, StallView, Tid};

/// How often an open stall is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The first look again comes sooner: whether a running thread computes or starves shows only over some time.
const SECOND_LOOK: Duration = Duration::from_millis(20);
/// A rescue is credited only if the loop polls this soon after the child's end.
const RESCUED_WITHIN: Duration = Duration::from_secs(1);

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
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let (Some(reading), true) = (watched.last.as_ref(), watched.info.is_some()) else {
            return;
        };
        let stopped = self
            .family
            .get(watched.id.process.pid)
            .and_then(|process| process.stopped);
        let away = away_since(watched, reading, now).or(stopped);
        match (&watched.stall, away) {
            // The report of its end comes before the record shows it, or after.
            (None, Some(since)) if watched.closed.is_some_and(|closed| closed >= since) => {}
            (None, Some(since)) if now.since(since) >= watched.stall_after => {
                self.open_stall(tid, since, now);
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

    pub(super) fn open_stall(&mut self, tid: Tid, since: Mono, now: Mono) {
        let incident = self.new_incident();
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let child = self.child_cause(watched, now);
        let (facts, accounts) = match &watched.last {
            Some(reading) => look(watched.id, reading, None, child, now),
            None => (ThreadFacts::default(), None),
        };
        let lower_bound = watched.adopted_busy.is_some();
        let stall = Stall {
            incident,
            since,
            lower_bound,
            cause: classify(&facts),
            cause_of_action: None,
            cause_at: now,
            accounts,
            next_look: now.plus(SECOND_LOOK),
            facts: facts.clone(),
            evidence: None,
            asked: None,
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
    pub(super) fn open_stall_for_action(&mut self, tid: Tid, now: Mono) {
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        if watched.stall.is_none() {
            let reading = watched.last.as_ref();
            let since = reading.and_then(|reading| away_since(watched, reading, now));
            let since = since
                .or(watched.episode.as_ref().map(|episode| episode.start))
                .unwrap_or(now);
            self.open_stall(tid, since, now);
        }
    }

    pub(super) fn look_again(&mut self, tid: Tid, now: Mono) {
        let Some((watched, stall)) = self
            .loops
            .get(&tid)
            .and_then(|watched| Some((watched, watched.stall.as_ref()?)))
        else {
            return;
        };
        let Some(reading) = &watched.last else {
            return;
        };
        let child = self.child_cause(watched, now);
        let (mut facts, accounts) = look(watched.id, reading, stall.accounts, child, now);
        let same_call = facts.doing == stall.facts.doing;
        if same_call {
            facts.details = stall.facts.details.clone();
        }
        let ask = !same_call && stall.asked.is_none();
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
        let info = watched.info.clone();
        let Some(stall) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.stall.as_mut())
        else {
            return;
        };
        stall.next_look = now.plus(LOOK_AGAIN);
        stall.accounts = accounts.or(stall.accounts);
        stall.facts = facts.clone();
        // A cause once shown is not taken back for a moment in which nothing can be shown.
        let news =
            differs(&stall.cause, &cause) && cause.kind != crate::pipeline::CauseKind::Unknown;
        if news {
            stall.cause = cause;
            stall.cause_at = now;
            let view = view_of(stall, now);
            if let Some(info) = info {
                self.tell(Notice::StallUpdated { info, view });
            }
        }
        if ask {
            self.ask_evidence(tid, &facts, now);
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
            self.open_stall(tid, since, at);
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
        let (Some(mut stall), Some(info)) = (watched.stall.take(), watched.info.clone()) else {
            return;
        };
        watched.closed = Some(stall.since);
        let rescued = ended_by == EndedBy::Poll
            && stall.strikes.iter().any(|struck| {
                struck
                    .ended
                    .is_some_and(|ended| at.since(ended) <= RESCUED_WITHIN)
            });
        if let (true, Some((cause, seen))) = (rescued, stall.cause_of_action.take()) {
            stall.cause = cause;
            stall.cause_at = seen;
        }
        Self::unexplained(&mut stall.evidence, stall.asked);
        let view = view_of(&stall, at);
        self.tell(Notice::StallClosed {
            info,
            view,
            rescued,
            ended_by,
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
    pub(super) fn due_of(watched: &Loop, now: Mono) -> Mono {
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

/// The cause with the ages of the moment a line is about, not of the look that found it.
fn aged(stall: &Stall, at: Mono) -> Cause {
    let mut cause = stall.cause.clone();
    if let Some(child) = &mut cause.child {
        let older = at.since(stall.cause_at).as_secs_f64() * 1000.0;
        child.told_to_end_ms_ago = child.told_to_end_ms_ago.map(|age| age + older);
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
    }
}

/// Whether a person would call it another cause: the age of a signal is no news.
pub(super) fn differs(before: &Cause, after: &Cause) -> bool {
    let plain = |cause: &Cause| {
        let mut plain = cause.clone();
        if let Some(child) = &mut plain.child {
            child.told_to_end_ms_ago = child.told_to_end_ms_ago.map(|_| 0.0);
        }
        plain
    };
    plain(before) != plain(after)
}
