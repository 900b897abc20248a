//! One wait episode: gather its facts, let the policy decide, act on the decision.

use std::time::Duration;

use super::loops::{Episode, Loop, Struck, Wanted};
use super::sentinel::Sentinel;
use crate::action::{Child, strike};
use crate::pipeline::event::{Awaited, WaitOptions};
use crate::pipeline::family::Process;
use crate::pipeline::policy::{ChildFacts, Condition, Decision, Guards, Place, WaitFacts, decide};
use crate::pipeline::{
    ActionNotice, ChildCause, Mode, Mono, Notice, NsPid, Outcome, Pid, PidKey, Refusal, Signal, Tid,
};
use crate::target::cgroup::CpuStat;
use crate::target::proc;

/// After SIGKILL, how long until a child that has not ended is reported.
const INEFFECTIVE_AFTER: Duration = Duration::from_secs(1);
/// Children that are looked at for one decision; a loop with more gets `ambiguous_child` from the policy anyway.
const MOST_CHILDREN: usize = 64;

impl Sentinel {
    /// Brings the episode of a loop up to date with its record, and decides if it is time.
    pub(super) fn follow_episode(&mut self, tid: Tid, now: Mono) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let shown = watched.last.as_ref().and_then(Loop::wanted);
        let current = watched.episode.as_ref().map(|episode| episode.start);
        if shown.map(|(start, _)| start) != current {
            if let Some(over) = watched.episode.take() {
                self.end_episode(tid, &over, now);
            }
            if let Some((start, wanted)) = shown {
                self.begin_episode(tid, start, wanted, now);
            }
        } else if let (Some((_, wanted)), Some(episode)) = (shown, watched.episode.as_mut()) {
            // The same wait may go on with other options: WNOHANG first, then for good.
            episode.wanted = wanted;
        }
        self.decide_episode(tid, now);
    }

    fn begin_episode(&mut self, tid: Tid, start: Mono, wanted: Wanted, now: Mono) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let mut pidfd_child = None;
        let pid = watched.id.process.pid;
        let descriptor = match wanted {
            Wanted::Pidfd(poller) => Some(poller.fd),
            Wanted::Wait(Awaited::PidFd(fd), _) => Some(fd),
            Wanted::Wait(..) => None,
        };
        if let Some(fd) = descriptor {
            pidfd_child = proc::pidfd_target(pid, fd).ok().flatten();
            if pidfd_child.is_none() && matches!(wanted, Wanted::Pidfd(_)) {
                // A poll on a socket or pipe: no wait for a child.
                return;
            }
        }
        watched.episode = Some(Episode {
            start,
            first_seen: now,
            older_than_agent: self.sensor.events_fd().is_none()
                || watched.adopted_busy.is_some_and(|first| start <= first)
                || start < self.started,
            wanted,
            pidfd_child,
            next_look: Some(now),
            termed: None,
            held_until: None,
            held: false,
            throttled_before: self.cpu_stats.get(&pid).and_then(CpuStat::throttled),
            said: std::collections::BTreeSet::new(),
            engine: None,
        });
    }

    /// The episode is over: the loop thread polls, has reaped, or waits for something else.
    pub(super) fn end_episode(&mut self, tid: Tid, over: &Episode, now: Mono) {
        if over.engine.is_some()
            && let Some(info) = self
                .loops
                .get(&tid)
                .and_then(|watched| watched.info.clone())
        {
            self.tell(Notice::EngineWait {
                at: now,
                info,
                lasted: now.since(over.start),
            });
        }
    }

    fn decide_episode(&mut self, tid: Tid, now: Mono) {
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let due = watched
            .episode
            .as_ref()
            .and_then(|episode| episode.next_look)
            .is_some_and(|at| at <= now);
        if !due || watched.info.is_none() {
            return;
        }
        let Some(engine) = self
            .settings
            .targets
            .get(watched.target)
            .and_then(|target| target.engine)
        else {
            return;
        };
        let Some((facts, engine_child)) = self.gather(tid, now) else {
            return;
        };
        let mut decision = decide(&facts, &engine.rules, now);
        if matches!(decision, Decision::Strike { .. }) {
            // Once more with what has happened while the facts were gathered.
            self.collect_events();
            decision = match self.gather(tid, now) {
                Some((facts, _)) => decide(&facts, &engine.rules, now),
                None => Decision::Leave,
            };
        }
        if let Some(episode) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.episode.as_mut())
        {
            episode.held_until = facts.held_until;
            episode.engine = episode.engine.or(engine_child);
            episode.next_look = match &decision {
                Decision::Later(at) => Some(*at),
                Decision::Refuse { again, .. } => *again,
                Decision::Leave | Decision::Strike { .. } => None,
            };
        }
        match decision {
            Decision::Leave | Decision::Later(_) => {}
            Decision::Refuse {
                child,
                exe,
                signal,
                refusal,
                ..
            } => {
                // Without a child there is no line to write: the contract's line names one.
                let about = child.unwrap_or(Pid(0));
                self.refused(tid, about, exe, signal, refusal, engine.rules.grace, now);
            }
            Decision::Strike {
                child,
                exe,
                signal,
                grace,
            } => self.act(tid, child, exe, signal, grace, now),
        }
    }

    /// Everything the decision rests on, gathered now, and the engine among the children awaited.
    fn gather(&mut self, tid: Tid, now: Mono) -> Option<(WaitFacts, Option<Pid>)> {
        let watched = self.loops.get(&tid)?;
        let episode = watched.episode.as_ref()?;
        let id = watched.id;
        let (awaited, options) = match episode.wanted {
            Wanted::Wait(awaited, options) => (awaited, options),
            Wanted::Pidfd(poller) => (Awaited::PidFd(poller.fd), WaitOptions::default()),
        };
        let loop_status = proc::status(id.process.pid);
        let parent = self.family.get(id.process.pid);
        let children: Vec<ChildFacts> = self
            .family
            .children(id.process.pid)
            .into_iter()
            .take(MOST_CHILDREN)
            .map(|child| self.child_facts(child, parent, true))
            .collect();
        let loop_condition = condition_of(id.process.pid, &loop_status);
        let pidfd_child = episode.pidfd_child;
        let is_awaited = |child: &&ChildFacts| match awaited {
            Awaited::Process(number) => child.ns_pid.map(|ns| ns.0) == u32::try_from(number).ok(),
            Awaited::PidFd(_) => Some(child.key.pid) == pidfd_child,
            Awaited::Any | Awaited::Group(_) => true,
        };
        // Another child may be stopped for as long as it likes.
        let concerned = children
            .iter()
            .filter(is_awaited)
            .flat_map(|child| std::iter::once(child).chain(&child.engines_below))
            .map(|child| (child.key.pid, child.condition))
            .chain([(id.process.pid, loop_condition)]);
        let mut held_until = episode.held_until;
        let mut held = false;
        for (known, condition) in concerned {
            let process = self.family.get(known);
            held_until = held_until.max(process.and_then(|process| process.held_until));
            let stopped = process.is_some_and(|process| process.stopped.is_some());
            held |= stopped || condition == Condition::Held;
        }
        // Up to this look if it was held at the last one: it was set free somewhere in between.
        if held || episode.held {
            held_until = Some(now);
        }
        let engine = children
            .iter()
            .filter(is_awaited)
            .find(|child| child.engine == Some(true));
        let engine = engine.map(|child| child.key.pid);
        let facts = WaitFacts {
            start: episode.start,
            first_seen: episode.first_seen,
            older_than_agent: episode.older_than_agent,
            awaited,
            options,
            pidfd_child: episode.pidfd_child,
            own_group: loop_status
                .ok()
                .and_then(|status| status.ns_groups.last().copied()),
            loop_thread: watched.info.is_some(),
            loop_condition,
            target_ending: parent.and_then(|process| process.ending),
            children,
            held_until,
            throttled: self.throttled(id.process.pid, episode, now),
            termed: episode.termed,
            guards: Guards::default(),
        };
        let guards = self.guards(id.process, now);
        if let Some(episode) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.episode.as_mut())
        {
            episode.held = held;
        }
        Some((WaitFacts { guards, ..facts }, engine))
    }

    /// How long the loop's cgroup was throttled in this episode: at most its length, because every CPU's share adds up.
    fn throttled(&self, pid: Pid, episode: &Episode, now: Mono) -> Duration {
        let before = episode.throttled_before;
        let after = self.cpu_stats.get(&pid).and_then(CpuStat::throttled);
        let grown = before.zip(after).map_or(Duration::ZERO, |(before, after)| {
            after.saturating_sub(before)
        });
        grown.min(now.since(episode.start))
    }

    fn child_facts(&self, child: &Process, parent: Option<&Process>, below: bool) -> ChildFacts {
        let status = proc::status(child.key.pid);
        let group = parent
            .and_then(|parent| proc::status(parent.key.pid).ok())
            .and_then(|parent| parent.ns_pids.len().checked_sub(1))
            .and_then(|depth| status.as_ref().ok()?.ns_groups.get(depth).copied());
        let engines_below = if below && child.engine != Some(true) {
            let engines = self.family.engines_below(child.key.pid);
            engines
                .into_iter()
                .filter_map(|key| self.family.get(key.pid))
                .map(|engine| self.child_facts(engine, parent, false))
                .collect()
        } else {
            Vec::new()
        };
        let place = match (
            &child.container,
            parent.and_then(|parent| parent.container.as_ref()),
        ) {
            (Some(of_child), Some(of_loop)) if of_child == of_loop => Place::Same,
            (Some(_), Some(_)) => Place::Other,
            _ => Place::Unknown,
        };
        ChildFacts {
            key: child.key,
            ns_pid: child
                .ns_pid
                .and_then(|number| u32::try_from(number).ok())
                .map(NsPid),
            group,
            exe: child.exe.clone(),
            engine: child.engine,
            told: child.told,
            seen_born: child.seen_born,
            place,
            condition: condition_of(child.key.pid, &status),
            engines_below,
        }
    }

    fn act(
        &mut self,
        tid: Tid,
        child: PidKey,
        exe: String,
        signal: Signal,
        grace: Duration,
        now: Mono,
    ) {
        let mode = self.settings.mode;
        let mut struck = None;
        // The line tells when the signal was sent: its effect can be seen before the call has come back.
        let at = crate::kernel::clock::now();
        let (outcome, detail) = if mode == Mode::Observe {
            (Outcome::WouldSend, None)
        } else {
            let (outcome, held, detail) = self.strike(tid, child, signal, now);
            struck = held;
            (outcome, detail)
        };
        let after = crate::kernel::clock::now();
        self.open_stall_for_action(tid, now);
        let action = (child.pid, exe.clone(), signal, outcome, grace, detail);
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
                    episode.next_look = Some(after.plus(grace.min(Duration::from_millis(50))));
                }
                (Outcome::Refused(_) | Outcome::Failed, _) => {
                    episode.next_look = Some(at.plus(Duration::from_millis(50)));
                }
                _ => {}
            }
        }
        if let (Some(held), Some(stall)) = (struck, watched.stall.as_mut()) {
            stall.cause_of_action = Some((stall.cause.clone(), stall.cause_at));
            stall.strikes.push(Struck {
                child: held,
                exe,
                signal,
                grace,
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

    /// Opens the child, checks the same episode and the same processes once more, and signals.
    fn strike(
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
            node_budget,
            budgets,
            ..
        } = self;
        strike(child, signal, || {
            let still = sensor.read(tid).as_ref().and_then(Loop::wanted);
            let Some((_, wanted)) = still.filter(|(now, _)| *now == start) else {
                return Err(Refusal::WaitOver);
            };
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
                status.map(|status| status.condition(proc::is_frozen(child.pid))),
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
    fn refused(
        &mut self,
        tid: Tid,
        child: Pid,
        exe: String,
        signal: Signal,
        refusal: Refusal,
        grace: Duration,
        now: Mono,
    ) {
        if self.is_news(tid, Outcome::Refused(refusal)) {
            self.open_stall_for_action(tid, now);
            self.tell_action(
                tid,
                (child, exe, signal, Outcome::Refused(refusal), grace, None),
                now,
            );
        }
    }

    /// Whether an outcome is to be told: a guard that refuses again and again in one episode is told once.
    fn is_news(&mut self, tid: Tid, outcome: Outcome) -> bool {
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
        (child, child_exe, signal, outcome, grace, detail): (
            Pid,
            String,
            Signal,
            Outcome,
            Duration,
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
            mode: self.settings.mode,
            busy: at.since(stall.since),
            outcome,
            grace,
            detail,
        };
        self.tell(Notice::Action { info, action });
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

    /// The child a loop waits for, as its cause shows it.
    pub(super) fn child_cause(&self, watched: &Loop, now: Mono) -> Option<ChildCause> {
        let episode = watched.episode.as_ref()?;
        let children = self.family.children(watched.id.process.pid);
        let child = match episode.wanted {
            Wanted::Wait(Awaited::Process(number), _) => children
                .into_iter()
                .find(|child| child.ns_pid == Some(number))?,
            Wanted::Wait(Awaited::PidFd(_), _) | Wanted::Pidfd(_) => {
                self.family.get(episode.pidfd_child?)?
            }
            Wanted::Wait(Awaited::Any | Awaited::Group(_), _) => match children.as_slice() {
                [only] => only,
                _ => return None,
            },
        };
        let state = proc::status(child.key.pid).map_or("gone", |status| status.state_name());
        Some(ChildCause {
            pid: child.key.pid,
            ns_pid: NsPid(
                child
                    .ns_pid
                    .and_then(|number| u32::try_from(number).ok())
                    .unwrap_or(child.key.pid.0),
            ),
            exe: child.exe.clone(),
            state: state.to_owned(),
            told_to_end_ms_ago: child
                .told
                .map(|told| now.since(told).as_secs_f64() * 1000.0),
        })
    }
}

fn condition_of(pid: Pid, status: &std::io::Result<proc::Status>) -> Condition {
    match status {
        Ok(status) => status.condition(proc::is_frozen(pid)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Condition::Gone,
        Err(_) => Condition::Unreadable,
    }
}
