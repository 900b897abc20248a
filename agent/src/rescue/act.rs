//! Carrying out a decision: signal, say so, and learn what became of it.

use std::time::Duration;

use super::look::waits_now;
use super::loops::{Given, Loop, Struck, Wanted};
use super::sentinel::Sentinel;
use crate::action::{Child, strike};
use crate::kernel::clock;
use crate::pipeline::event::Awaited;
use crate::pipeline::policy::{Condition, WaitFacts};
use crate::pipeline::{
    ActionNotice, Mode, Mono, Notice, Outcome, Pid, PidKey, Refusal, Signal, Tid,
};
use crate::proc;

/// After SIGKILL, how long until a child that has not ended is reported.
pub(super) const INEFFECTIVE_AFTER: Duration = Duration::from_secs(1);

impl Sentinel {
    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one decision, named where they are known"
    )]
    pub(super) fn act(
        &mut self,
        tid: Tid,
        child: PidKey,
        exe: String,
        signal: Signal,
        (grace, reason): Given,
        decided: &WaitFacts,
        now: Mono,
    ) {
        let mode = self.mode_for(tid);
        let mut struck = None;
        let seen = self.look_for_action(tid, decided, now);
        // The line tells when the signal was sent: its effect can be seen before the call has come back.
        let at = crate::kernel::clock::now();
        let (outcome, detail) = if mode == Mode::Observe {
            (Outcome::WouldSend, None)
        } else {
            let (outcome, held, detail) = self.strike(tid, child, signal, now);
            struck = held;
            if outcome == Outcome::Sent {
                self.engines.struck(child.pid);
            }
            (outcome, detail)
        };
        let after = crate::kernel::clock::now();
        self.open_stall_for_action(tid, now, seen);
        let whole = reason.and_then(|_| self.grace_of(tid));
        let detail = join(detail, whole.map(|whole| cut(whole, grace)));
        let grace_told = (grace, reason);
        let action = (child.pid, exe.clone(), signal, outcome, grace_told, detail);
        if self.is_news(tid, outcome) {
            self.tell_action(tid, action, at);
        }
        let pause = self.settings.limits.pause;
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let process = watched.id.process;
        if let Some(episode) = watched.episode.as_mut() {
            match (outcome, signal) {
                (Outcome::Sent | Outcome::WouldSend, Signal::Term) => {
                    episode.termed = Some(after);
                    episode.termed_as = Some(outcome);
                    episode.next_look = Some(after.plus(grace.min(Duration::from_millis(50))));
                }
                (Outcome::Refused(_) | Outcome::Failed, _) => {
                    episode.next_look = Some(at.plus(Duration::from_millis(50)));
                }
                (_, Signal::Kill) => episode.killed = Some(outcome),
                _ => {}
            }
        }
        if let (Some(held), Some(stall)) = (struck, watched.stall.as_mut()) {
            stall.cause_of_action = Some((stall.cause.clone(), stall.cause_at));
            stall.strikes.push(Struck {
                child: held,
                exe,
                signal,
                grace: (grace, reason),
                at,
                ended: None,
                said_ineffective: false,
            });
        }
        if outcome == Outcome::Sent && signal == Signal::Kill {
            self.paused.insert(process.pid, after.plus(pause));
        }
        self.sensor.notify(tid);
    }

    /// The grace that is configured for a loop's engines.
    fn grace_of(&self, tid: Tid) -> Option<Duration> {
        let target = self.settings.targets.get(self.loops.get(&tid)?.target)?;
        target.engine.map(|engine| engine.rules.grace)
    }

    /// Opens the child, checks the same episode and the same processes once more, and signals.
    pub(super) fn strike(
        &mut self,
        tid: Tid,
        child: PidKey,
        signal: Signal,
        now: Mono,
    ) -> (Outcome, Option<Child>, Option<String>) {
        let Some((id, start)) = self
            .loops
            .get(&tid)
            .and_then(|watched| Some((watched.id, watched.episode.as_ref()?.start)))
        else {
            return (Outcome::Refused(Refusal::WaitOver), None, None);
        };
        self.prepare_budget(id.process);
        let Self {
            sensor,
            family,
            freezer,
            node_budget,
            budgets,
            ..
        } = self;
        strike(child, signal, || {
            let reading = sensor.read(tid);
            let still = reading.as_ref().and_then(Loop::wanted);
            let Some((_, wanted)) = still.filter(|(now, _)| *now == start) else {
                return Err(Refusal::WaitOver);
            };
            // The same episode, and the thread in it: it may have given up and be stuck on something else.
            if !reading.is_some_and(|reading| waits_now(id, &reading, clock::now())) {
                return Err(Refusal::WaitOver);
            }
            // A child that has ended and is not reaped yet ends this wait by itself: the one left alive is not to blame.
            let group = match wanted {
                Wanted::Wait(Awaited::Any, _) => Some(None),
                Wanted::Wait(Awaited::Group(group), _) => Some(Some(group)),
                _ => None,
            };
            if let Some(group) = group
                && proc::awaited_children(id.process.pid, group).ok() != Some(1)
            {
                return Err(Refusal::AmbiguousChild);
            }
            for key in [child, id.process] {
                if sensor.alive(key.pid) != Some(key.start_ns)
                    || family.get(key.pid).map(|process| process.key) != Some(key)
                {
                    return Err(Refusal::IdentityChanged);
                }
            }
            let (stat, status) = (proc::stat(child.pid), proc::status(child.pid));
            match (
                stat,
                status.map(|status| status.condition(freezer.is_frozen(child.pid))),
            ) {
                (Ok(stat), Ok(Condition::Free)) => {
                    let expected = family.get(child.pid).map(|process| process.parent);
                    if Some(stat.parent) != expected {
                        return Err(Refusal::NotChild);
                    }
                    // Last, so that no refusal costs a kill, and before the signal, so that no kill is free.
                    let budget = budgets.get_mut(&id.process.pid).ok_or(Refusal::Budget)?;
                    let spent = node_budget.spend(now).and_then(|()| budget.spend(now));
                    spent.map_err(|error| {
                        log::error!("the kill budget cannot be kept: {error}");
                        Refusal::Budget
                    })
                }
                (_, Ok(Condition::Traced)) => Err(Refusal::Traced),
                (_, Ok(Condition::Held)) => Err(Refusal::Frozen),
                _ => Err(Refusal::IdentityChanged),
            }
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one line, named where they are known"
    )]
    pub(super) fn refused(
        &mut self,
        tid: Tid,
        child: Pid,
        exe: String,
        signal: Signal,
        refusal: Refusal,
        grace: Duration,
        detail: Option<String>,
        now: Mono,
    ) {
        if self.is_news(tid, Outcome::Refused(refusal)) {
            self.open_stall_for_action(tid, now, None);
            self.tell_action(
                tid,
                (
                    child,
                    exe,
                    signal,
                    Outcome::Refused(refusal),
                    (grace, None),
                    detail,
                ),
                now,
            );
        }
    }

    /// Whether an outcome is to be told: a guard that refuses again and again in one episode is told once.
    pub(super) fn is_news(&mut self, tid: Tid, outcome: Outcome) -> bool {
        let Some(refusal) = outcome.refusal() else {
            return true;
        };
        self.loops
            .get_mut(&tid)
            .and_then(|watched| watched.episode.as_mut())
            .is_some_and(|episode| episode.said.insert(refusal))
    }

    pub(super) fn tell_action(
        &mut self,
        tid: Tid,
        (child, child_exe, signal, outcome, (grace, reason), detail): (
            Pid,
            String,
            Signal,
            Outcome,
            Given,
            Option<String>,
        ),
        at: Mono,
    ) {
        let Some((watched, stall)) = self
            .loops
            .get(&tid)
            .and_then(|watched| Some((watched, watched.stall.as_ref()?)))
        else {
            return;
        };
        let Some(info) = watched.info.clone() else {
            return;
        };
        let action = ActionNotice {
            incident: stall.incident,
            at,
            child,
            child_exe,
            signal,
            mode: self.settings.mode(watched.target),
            busy: at.since(stall.since),
            outcome,
            grace,
            grace_reason: reason,
            detail,
        };
        self.note_action(tid, &action);
        self.tell(Notice::Action { info, action });
    }

    /// Whether signals are sent for a loop.
    fn mode_for(&self, tid: Tid) -> Mode {
        let watched = self.loops.get(&tid);
        watched.map_or(Mode::Observe, |watched| self.settings.mode(watched.target))
    }

    /// Learns of the end of signalled children, and reports those that do not end.
    pub(super) fn follow_strikes(&mut self, tid: Tid, now: Mono) {
        let Some(stall) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.stall.as_mut())
        else {
            return;
        };
        let mut late = Vec::new();
        for struck in &mut stall.strikes {
            if struck.ended.is_none() && struck.child.has_ended() {
                struck.ended = Some(now);
            }
            let due = struck.signal == Signal::Kill && now.since(struck.at) >= INEFFECTIVE_AFTER;
            if struck.ended.is_none() && due && !struck.said_ineffective {
                struck.said_ineffective = true;
                let state = proc::status(struck.child.key.pid)
                    .map_or("unreadable", |status| status.state_name());
                let detail = format!(
                    "still there {} ms after SIGKILL: {state}",
                    now.since(struck.at).as_millis()
                );
                late.push((
                    struck.child.key.pid,
                    struck.exe.clone(),
                    struck.signal,
                    struck.grace,
                    detail,
                ));
            }
        }
        for (pid, exe, signal, grace, detail) in late {
            self.tell_action(
                tid,
                (pid, exe, signal, Outcome::Ineffective, grace, Some(detail)),
                now,
            );
        }
    }
}

/// What a person is to know of a grace that was cut.
fn cut(whole: Duration, to: Duration) -> String {
    format!(
        "the grace was cut from {} to {} s, so that the loop can answer a liveness probe before the kubelet decides to kill",
        whole.as_secs_f64(),
        // To the millisecond.
        f64::from(u32::try_from(to.as_millis()).unwrap_or(u32::MAX)) / 1000.0
    )
}

fn join(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    }
}
