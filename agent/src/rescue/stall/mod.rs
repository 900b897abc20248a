//! Opening, updating and closing the stalls of loops.

mod again;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use super::accounts::Accounts;
use super::look::away_since;
use super::loops::Stall;
use super::sentinel::Sentinel;
use crate::pipeline::classify::{Doing, Shares, ThreadFacts, classify};
use crate::pipeline::event::Beat;
use crate::pipeline::{CauseKind, EndedBy, LoopId, Mono, Notice, Tid};
use view::aged;

pub(super) use view::{differs, view_of};

/// The first look again comes sooner: whether a running thread computes or starves shows only over some time.
const SECOND_LOOK: Duration = Duration::from_millis(20);
/// A rescue is credited only if the loop polls this soon after the child's end.
const RESCUED_WITHIN: Duration = Duration::from_secs(1);

/// One look at a loop.
pub(super) type Seen = (ThreadFacts, Option<Accounts>);

impl Sentinel {
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
}

impl Stall {
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
