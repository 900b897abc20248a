//! Main threads that wait for an engine and are not shown to be loops: nothing is done for them, and that is said.
//!
//! A thread that has never been seen polling alone has no record, so what it waits for is read from procfs: one small file,
//! and only while an engine of its process was told to end, or may have been before the agent came. Waits of other threads
//! than the main one are never looked at: a helper thread may wait for its engine for life.

use std::sync::Arc;
use std::time::Duration;

use super::loops::Wanted;
use super::sentinel::Sentinel;
use crate::kernel::thread_call::{Found, found};
use crate::pipeline::event::{Awaited, WaitOptions};
use crate::pipeline::policy::{
    ChildFacts, Condition, Decision, EngineRules, Guards, WaitFacts, decide,
};
use crate::pipeline::{
    ActionNotice, Cause, CauseKind, EndedBy, IncidentId, LoopId, LoopInfo, LoopTotals, Mono,
    Notice, Outcome, Pid, PidKey, Refusal, Signal, StallView, Tid,
};
use crate::proc;

/// How often such a thread is looked at: what is said of it does not hurry.
const LOOK: Duration = Duration::from_millis(250);
/// A loop that stalls is recognised well within this time: nothing is said before.
const SURE: Duration = Duration::from_secs(1);

/// What is known of the main thread of one process.
#[derive(Debug, Default)]
pub(super) struct Unshown {
    wait: Option<Wait>,
    /// Set once something was told of it.
    info: Option<Arc<LoopInfo>>,
}

/// A wait it is in.
#[derive(Debug)]
struct Wait {
    awaited: Awaited,
    options: WaitOptions,
    since: Mono,
    older_than_agent: bool,
    told: Option<(IncidentId, Cause)>,
}

impl Sentinel {
    /// The main thread was found in a wait when the agent came.
    pub(super) fn found_waiting(&mut self, pid: Pid, awaited: Awaited, options: WaitOptions) {
        let now = crate::kernel::clock::now();
        let entry = self.unshown.entry(pid).or_default();
        entry.wait.get_or_insert(Wait {
            awaited,
            options,
            since: now,
            older_than_agent: true,
            told: None,
        });
        self.unshown_due = now;
    }

    /// Looks at every main thread that may wait for an engine without being a loop.
    pub(super) fn follow_unshown(&mut self, now: Mono) {
        if now < self.unshown_due {
            return;
        }
        let (mut suspects, mut due) = self.suspects(now);
        let waiting = self.unshown.iter().filter(|(pid, entry)| {
            let told = entry.wait.as_ref().map(|wait| wait.told.is_some());
            told.is_some_and(|told| told || self.has_engine(**pid))
        });
        suspects.extend(waiting.map(|(pid, _)| *pid));
        suspects.sort_unstable();
        suspects.dedup();
        if !suspects.is_empty() {
            due = due.min(now.plus(LOOK));
        }
        self.unshown_due = due;
        for pid in suspects {
            self.look_at_leader(pid, now);
        }
    }

    /// Processes whose engine should have ended by now and whose main thread is no loop; and when there may be more.
    fn suspects(&self, now: Mono) -> (Vec<Pid>, Mono) {
        let mut found = Vec::new();
        let mut next = Mono(u64::MAX);
        let blind = self.sensor.events_fd().is_none();
        for engine in self
            .family
            .iter()
            .filter(|process| process.engine == Some(true))
        {
            let Some(rules) = self.rules_of(engine.parent) else {
                continue;
            };
            match engine.told {
                Some(told) if now >= told.plus(rules.grace) => found.push(engine.parent),
                Some(told) => next = next.min(told.plus(rules.grace)),
                None if blind => found.push(engine.parent),
                None => {}
            }
        }
        (found, next)
    }

    /// The rules for engines of a process that is watched and whose main thread is not known to be a loop.
    fn rules_of(&self, pid: Pid) -> Option<EngineRules> {
        let process = self.family.get(pid).filter(|process| process.watched)?;
        let leader = self.loops.get(&Tid(pid.0));
        if leader.is_some_and(|leader| leader.info.is_some()) {
            return None;
        }
        let target = self.settings.targets.get(process.target)?;
        Some(target.engine?.rules)
    }

    fn has_engine(&self, pid: Pid) -> bool {
        let children = self.family.children(pid);
        children.iter().any(|child| child.engine == Some(true))
    }

    fn look_at_leader(&mut self, pid: Pid, now: Mono) {
        let Some(rules) = self.rules_of(pid) else {
            self.end_unshown(pid, now, EndedBy::Detached);
            return;
        };
        let shown = match found(pid, Tid(pid.0)) {
            Found::Waiting(awaited, options) if !options.polls() => Some((awaited, options)),
            _ => None,
        };
        let known = self.unshown.get(&pid).and_then(|entry| entry.wait.as_ref());
        if known.map(|wait| (wait.awaited, wait.options)) != shown {
            self.unshown_wait_over(pid, now, EndedBy::Detached);
            if let Some((awaited, options)) = shown {
                let older_than_agent = self.sensor.events_fd().is_none();
                self.unshown.entry(pid).or_default().wait = Some(Wait {
                    awaited,
                    options,
                    since: now,
                    older_than_agent,
                    told: None,
                });
            }
        }
        let Some(facts) = self.unshown_facts(pid) else {
            return;
        };
        let patient = EngineRules {
            grace: rules.grace.max(SURE),
            ..rules
        };
        if let Decision::Refuse {
            child: Some(child),
            exe,
            signal,
            refusal: Refusal::NotLoopThread,
            ..
        } = decide(&facts, &patient, now)
        {
            self.tell_unshown(pid, child, exe, signal, &rules, now);
        }
    }

    /// The facts of a wait of which nothing was told yet.
    fn unshown_facts(&self, pid: Pid) -> Option<WaitFacts> {
        let wait = self.unshown.get(&pid)?.wait.as_ref()?;
        if wait.told.is_some() {
            return None;
        }
        let parent = self.family.get(pid)?;
        let children: Vec<ChildFacts> = self
            .family
            .children(pid)
            .into_iter()
            .take(super::gather::MOST_CHILDREN)
            .map(|child| self.child_facts(child, Some(parent), true))
            .collect();
        // Who was born under the agent's eyes was told under them, or not at all.
        let blind = self.sensor.events_fd().is_none();
        let all_older = blind || children.iter().all(|child| !child.seen_born);
        Some(WaitFacts {
            start: wait.since,
            first_seen: wait.since,
            older_than_agent: wait.older_than_agent && all_older,
            awaited: wait.awaited,
            options: wait.options,
            waits: true,
            pidfd_child: pidfd_child(pid, wait.awaited),
            own_group: proc::status(pid)
                .ok()
                .and_then(|status| status.ns_groups.last().copied()),
            loop_thread: false,
            loop_condition: Condition::Free,
            target_ending: parent.ending,
            ends_by: self.ends_by(parent),
            children,
            held_until: None,
            throttled: Duration::ZERO,
            termed: None,
            free_by: None,
            guards: Guards::default(),
        })
    }

    fn tell_unshown(
        &mut self,
        pid: Pid,
        child: Pid,
        child_exe: String,
        signal: Signal,
        rules: &EngineRules,
        now: Mono,
    ) {
        let incident = self.new_incident();
        let Some(info) = self.info_of_unshown(pid) else {
            return;
        };
        let Some((wanted, since)) = self.unshown.get(&pid).and_then(|entry| {
            let wait = entry.wait.as_ref()?;
            Some((Wanted::Wait(wait.awaited, wait.options), wait.since))
        }) else {
            return;
        };
        let pidfd_child = match wanted {
            Wanted::Wait(awaited, _) => pidfd_child(pid, awaited),
            Wanted::Pidfd(_) => None,
        };
        let cause = Cause {
            kind: CauseKind::ChildWait,
            syscall: wanted.blocking_call().map(str::to_owned),
            child: self.awaited_child(pid, wanted, pidfd_child, now),
            ..Cause::default()
        };
        if let Some(wait) = self
            .unshown
            .get_mut(&pid)
            .and_then(|entry| entry.wait.as_mut())
        {
            wait.told = Some((incident, cause.clone()));
        }
        self.tell(Notice::StallOpened {
            info: info.clone(),
            view: view(incident, cause, since, now),
        });
        let process = self.family.get(pid);
        let mode = process.map_or(crate::pipeline::Mode::Observe, |process| {
            self.settings.mode(process.target)
        });
        let action = ActionNotice {
            incident,
            at: now,
            child,
            child_exe,
            signal,
            mode,
            busy: now.since(since),
            outcome: Outcome::Refused(Refusal::NotLoopThread),
            grace: rules.grace,
            grace_reason: None,
            detail: None,
        };
        self.tell(Notice::Action { info, action });
    }

    /// How the process is named in what is told. No poller: it is not shown to be a loop.
    fn info_of_unshown(&mut self, pid: Pid) -> Option<Arc<LoopInfo>> {
        if let Some(info) = &self.unshown.get(&pid)?.info {
            return Some(info.clone());
        }
        let process = self.family.get(pid)?;
        let info = Arc::new(LoopInfo {
            id: LoopId {
                process: process.key,
                tid: Tid(pid.0),
            },
            slot: u32::MAX,
            target: self.settings.targets.get(process.target)?.name.clone(),
            exe: process.exe.clone(),
            poller: String::new(),
            plan: self.sensor.plan().way.name(),
            pod: self.pod_name(process),
        });
        self.unshown.get_mut(&pid)?.info = Some(info.clone());
        Some(info)
    }

    /// The main thread left the wait; if something was told of it, that is closed.
    fn unshown_wait_over(&mut self, pid: Pid, at: Mono, how: EndedBy) {
        let Some(entry) = self.unshown.get_mut(&pid) else {
            return;
        };
        let (wait, info) = (entry.wait.take(), entry.info.clone());
        if let (Some(wait), Some(info)) = (wait, info)
            && let Some((incident, cause)) = wait.told
        {
            self.tell(Notice::StallClosed {
                info,
                view: view(incident, cause, wait.since, at),
                rescued: false,
                ended_by: how,
                liveness: None,
            });
        }
    }

    /// The process has ended or is not watched any more.
    pub(super) fn end_unshown(&mut self, pid: Pid, at: Mono, how: EndedBy) {
        self.unshown_wait_over(pid, at, how);
        if let Some(info) = self.unshown.remove(&pid).and_then(|entry| entry.info) {
            self.tell(Notice::LoopEnded {
                at,
                info,
                totals: LoopTotals::default(),
                ended_by: how,
            });
        }
    }

    /// The main thread turned out to be a loop: from here on it has a record.
    pub(super) fn shown(&mut self, tid: Tid, process: PidKey, at: Mono) {
        if tid.0 == process.pid.0 {
            self.unshown_wait_over(process.pid, at, EndedBy::Poll);
            self.unshown.remove(&process.pid);
        }
    }
}

fn pidfd_child(pid: Pid, awaited: Awaited) -> Option<Pid> {
    match awaited {
        Awaited::PidFd(fd) => proc::pidfd_target(pid, fd).ok().flatten(),
        _ => None,
    }
}

fn view(incident: IncidentId, cause: Cause, since: Mono, at: Mono) -> StallView {
    StallView {
        incident,
        at,
        busy: at.since(since),
        // The wait is older than the first look that saw it.
        busy_is_lower_bound: true,
        cause,
        evidence: None,
        shares: Vec::new(),
    }
}
