//! The facts a decision on a wait episode rests on.

use std::time::Duration;

use super::look::waits_now;
use super::loops::{Episode, Loop, Wanted};
use super::sentinel::Sentinel;
use crate::pipeline::event::Awaited;
use crate::pipeline::family::Process;
use crate::pipeline::policy::{ChildFacts, Condition, Guards, Place, WaitFacts};
use crate::pipeline::{ChildCause, Mono, NsPid, Pid, Signalled, Tid};
use crate::proc;
use crate::target::cgroup::CpuStat;

/// Children that are looked at for one decision; a loop with more gets `ambiguous_child` from the policy anyway.
pub(super) const MOST_CHILDREN: usize = 64;

impl Sentinel {
    /// Everything the decision rests on, gathered now, and the engine among the children awaited.
    pub(super) fn gather(&mut self, tid: Tid, now: Mono) -> Option<(WaitFacts, Option<Pid>)> {
        let watched = self.loops.get(&tid)?;
        let episode = watched.episode.as_ref()?;
        let id = watched.id;
        let (awaited, options) = episode.wanted.call();
        let loop_status = proc::status(id.process.pid);
        let parent = self.family.get(id.process.pid);
        let children: Vec<ChildFacts> = self
            .family
            .children(id.process.pid)
            .into_iter()
            .take(MOST_CHILDREN)
            .map(|child| self.child_facts(child, parent, true))
            .collect();
        let loop_condition = self.condition_of(id.process.pid, &loop_status);
        let loop_state = state_of(&loop_status);
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
            .map(|child| (child.key.pid, child.condition, child.state))
            .chain([(id.process.pid, loop_condition, loop_state)]);
        let mut held_until = episode.held_until;
        let mut held = false;
        let mut stops = Vec::new();
        for (known, condition, state) in concerned {
            let process = self.family.get(known);
            held_until = held_until.max(process.and_then(|process| process.held_until));
            let stopped = process.is_some_and(|process| process.stopped.is_some());
            let shown = shows_stop(state);
            held |= (stopped && shown == Some(true)) || condition == Condition::Held;
            stops.extend(shown.filter(|_| stopped).map(|shown| (known, shown)));
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
        let engine_throttled =
            engine.and_then(|engine| Some((engine, self.throttled_apart(engine, id.process.pid)?)));
        let facts = WaitFacts {
            start: episode.start,
            first_seen: episode.first_seen,
            older_than_agent: episode.older_than_agent,
            awaited,
            options,
            waits: watched
                .last
                .as_ref()
                .is_some_and(|reading| waits_now(id, reading, now)),
            pidfd_child: episode.pidfd_child,
            own_group: loop_status
                .ok()
                .and_then(|status| status.ns_groups.last().copied()),
            loop_thread: watched.info.is_some(),
            loop_condition,
            target_ending: parent.and_then(|process| process.ending),
            ends_by: parent.and_then(|process| self.ends_by(process)),
            children,
            held_until,
            throttled: self.throttled(id.process.pid, episode, engine_throttled, now),
            termed: episode.termed,
            free_by: self.free_by(watched, now),
            guards: Guards::default(),
        };
        let guards = self.guards(id.process, now);
        if let Some(episode) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.episode.as_mut())
        {
            episode.held = held;
            if episode.engine_before.map(|(pid, _)| pid) != engine_throttled.map(|(pid, _)| pid) {
                episode.engine_before = engine_throttled;
            }
        }
        for (pid, shown) in stops {
            self.family.seen_stopped(pid, shown, now);
        }
        Some((WaitFacts { guards, ..facts }, engine))
    }

    /// How long the loop's cgroup was throttled in this episode, or that of the engine: at most its length, because every CPU's share
    /// adds up. Not both together: what is above them throttles them at the same time.
    fn throttled(
        &self,
        pid: Pid,
        episode: &Episode,
        engine: Option<(Pid, Duration)>,
        now: Mono,
    ) -> Duration {
        let grown = |(before, after): (Duration, Duration)| after.saturating_sub(before);
        let after = self.cpu_stats.get(&pid).and_then(CpuStat::throttled);
        let of_loop = episode.throttled_before.zip(after).map(grown);
        let of_engine = episode.engine_before.zip(engine);
        let of_engine = of_engine
            .filter(|((before, _), (now, _))| before == now)
            .map(|((_, before), (_, after))| grown((before, after)));
        let longest = of_loop.max(of_engine).unwrap_or_default();
        longest.min(now.since(episode.start))
    }

    /// How long an engine was throttled so far, if it is in another cgroup than the loop.
    fn throttled_apart(&self, engine: Pid, of_loop: Pid) -> Option<Duration> {
        let own = self.cpu_stats.get(&engine)?;
        let shared = self.cpu_stats.get(&of_loop);
        if shared.is_some_and(|shared| shared.is_same(own)) {
            return None;
        }
        own.throttled()
    }

    pub(super) fn child_facts(
        &self,
        child: &Process,
        parent: Option<&Process>,
        below: bool,
    ) -> ChildFacts {
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
        let place = place_of(child, parent);
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
            // A signal that others sent was reported, if the agent was there: what is pending may be that one.
            told_unseen: !child.seen_born
                && child.told.is_none()
                && child.ending.is_none()
                && status.as_ref().is_ok_and(proc::Status::is_told),
            place,
            condition: self.condition_of(child.key.pid, &status),
            state: state_of(&status),
            engines_below,
        }
    }

    /// Who told a process to end first, as a cause shows it.
    pub(super) fn signalled(&self, pid: Pid, now: Mono) -> Option<Signalled> {
        let told = self.family.get(pid)?.first_told?;
        let sender = self.family.get(told.by);
        Some(Signalled {
            by: told.by,
            by_exe: sender.map(|sender| sender.exe.clone()).unwrap_or_default(),
            signal: told.name().to_owned(),
            ms_ago: now.since(told.at).as_secs_f64() * 1000.0,
        })
    }

    /// The child a loop waits for, as its cause shows it.
    pub(super) fn child_cause(&self, watched: &Loop, now: Mono) -> Option<ChildCause> {
        let episode = watched.episode.as_ref()?;
        let pid = watched.id.process.pid;
        self.awaited_child(pid, episode.wanted, episode.pidfd_child, now)
    }

    /// The child that a call of a process's thread names, if it names one.
    pub(super) fn awaited_child(
        &self,
        parent: Pid,
        wanted: Wanted,
        pidfd_child: Option<Pid>,
        now: Mono,
    ) -> Option<ChildCause> {
        let children = self.family.children(parent);
        let child = match wanted {
            Wanted::Wait(Awaited::Process(number), _) => children
                .into_iter()
                .find(|child| child.ns_pid == Some(number))?,
            Wanted::Wait(Awaited::PidFd(_), _) | Wanted::Pidfd(_) => {
                self.family.get(pidfd_child?)?
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
            signalled: self.signalled(child.key.pid, now),
        })
    }

    /// Asks procfs about a process that a signal should have stopped; since when it has, if it did.
    pub(super) fn stopped_since(&mut self, pid: Pid, now: Mono) -> Option<Mono> {
        if let Some(shown) = shows_stop(state_of(&proc::status(pid))) {
            self.family.seen_stopped(pid, shown, now);
        }
        let process = self.family.get(pid)?;
        process.stopped.filter(|_| process.stop_shown)
    }

    fn condition_of(&self, pid: Pid, status: &std::io::Result<proc::Status>) -> Condition {
        match status {
            Ok(status) => status.condition(self.freezer.is_frozen(pid)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Condition::Gone,
            Err(_) => Condition::Unreadable,
        }
    }
}

fn state_of(status: &std::io::Result<proc::Status>) -> &'static str {
    status.as_ref().map_or("gone", proc::Status::state_name)
}

/// Whether a state is that of a stopped process. A leader that ended before its threads does not show what they do: then the
/// signal is believed.
fn shows_stop(state: &str) -> Option<bool> {
    match state {
        "stopped" | "traced" | "zombie" => Some(true),
        "gone" | "dead" | "unknown" => None,
        _ => Some(false),
    }
}

/// Whether a child runs in the container of the loop's process, as far as both were read.
pub(super) fn place_of(child: &Process, parent: Option<&Process>) -> Place {
    match (
        &child.container,
        parent.and_then(|parent| parent.container.as_ref()),
    ) {
        (Some(of_child), Some(of_loop)) if of_child == of_loop => Place::Same,
        (Some(_), Some(_)) => Place::Other,
        _ => Place::Unknown,
    }
}
