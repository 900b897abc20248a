//! Putting another configuration into force, without losing what is watched.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::loops::Episode;
use super::sentinel::Sentinel;
use super::settings::Settings;
use crate::kernel::clock;
use crate::pipeline::record::InForce;
use crate::pipeline::{EndedBy, Mode, Mono, Outcome, Pid, PidKey, Tid};
use crate::target::scout::{Matching, Question};

/// How long the scout gets to read what an engine is by other rules, before a refusal is told because it is none.
const READING: Duration = Duration::from_millis(50);

impl Sentinel {
    /// Targets keep their processes by name; processes of a target that is gone are not watched any more.
    pub(super) fn reload(&mut self, settings: Settings, rules: Arc<dyn Matching>) {
        let now = clock::now();
        self.note_reload();
        let before = self.rules_of_episodes();
        let moved: Vec<Option<usize>> = self
            .settings
            .targets
            .iter()
            .map(|old| settings.targets.iter().position(|new| new.name == old.name))
            .collect();
        self.node_budget
            .limit(settings.limits.node_kills, settings.limits.per);
        self.collector.set_share(settings.evidence.node_cpu_percent);
        self.settings = settings;
        self.rules = rules.clone();
        self.budgets.clear();
        if self.settings.mode == Mode::Observe {
            self.locks.clear();
        }
        let known: Vec<(PidKey, usize)> = self
            .family
            .iter()
            .map(|process| (process.key, process.target))
            .collect();
        self.ask(Question::Rules(rules));
        for (key, target) in known {
            let pid = key.pid;
            match moved.get(target).copied().flatten() {
                Some(target) => {
                    self.retarget(pid, target);
                    self.doubt_engine(pid, target);
                    // What an engine is may have changed. Its threads are known: one that is found in a wait now has not been
                    // there since before the agent came.
                    self.ask(Question::Look {
                        pid,
                        target,
                        threads: false,
                    });
                }
                None => self.process_ended(key, now, EndedBy::Detached),
            }
        }
        self.reopen_episodes(&before, now);
        // A target of the same name may match others now.
        for key in self.matched.iter().copied().collect::<Vec<_>>() {
            self.ask(Question::Rematch(key.pid));
        }
        self.next_rescan = now;
    }

    /// The rules that hold for each wait that is going on.
    fn rules_of_episodes(&self) -> HashMap<Tid, InForce> {
        let waiting = self.loops.iter();
        let waiting = waiting.filter(|(_, watched)| watched.episode.is_some());
        waiting
            .map(|(tid, watched)| (*tid, self.settings.in_force(watched.target)))
            .collect()
    }

    /// Waits that are going on are decided on anew where other rules hold for them now.
    fn reopen_episodes(&mut self, before: &HashMap<Tid, InForce>, now: Mono) {
        for (tid, watched) in &mut self.loops {
            let after = self.settings.in_force(watched.target);
            if let Some(episode) = watched.episode.as_mut()
                && before
                    .get(tid)
                    .is_some_and(|before| concerns(before, &after))
            {
                let children = self.family.children(watched.id.process.pid);
                let unread = children.iter().any(|child| child.engine.is_none());
                let at = if unread { now.plus(READING) } else { now };
                reopen(episode, after.mode, after.engine.map(|_| at));
            }
        }
    }

    /// What the new rules say of a process that the old ones matched.
    pub(super) fn rematched(&mut self, pid: Pid, target: Option<usize>) {
        let Some(process) = self.family.get(pid) else {
            return;
        };
        let (key, parent, before) = (process.key, process.parent, process.target);
        if !self.matched.contains(&key) || target == Some(before) {
            return;
        }
        self.matched.remove(&key);
        let by_descent = self
            .family
            .get(parent)
            .is_some_and(|parent| parent.engine != Some(true));
        if self.named.contains(&key) || by_descent {
            return;
        }
        self.let_go(key);
        if let Some(target) = target {
            // Another target's: its series and its threshold begin anew.
            self.watch(&[(pid, target)]);
            self.matched.insert(key);
        }
    }

    /// Ends watching of a process and of all that was watched because of it.
    fn let_go(&mut self, key: PidKey) {
        let now = clock::now();
        let mut going = vec![key];
        while let Some(key) = going.pop() {
            let children = self.family.children(key.pid);
            let children = children.iter().map(|child| child.key);
            going.extend(
                children.filter(|key| !self.matched.contains(key) && !self.named.contains(key)),
            );
            self.process_ended(key, now, EndedBy::Detached);
        }
    }

    /// An engine by the old rules is none until the new ones say so: by its name at once, by its command line when the scout has
    /// read that.
    fn doubt_engine(&mut self, pid: Pid, target: usize) {
        if let Some(process) = self.family.get_mut(pid)
            && process.engine == Some(true)
            && !self.rules.is_engine(target, &process.exe, "")
        {
            process.engine = None;
        }
    }

    pub(super) fn retarget(&mut self, pid: Pid, target: usize) {
        if let Some(process) = self.family.get_mut(pid) {
            process.target = target;
        }
        let Some(stall_after) = self
            .settings
            .targets
            .get(target)
            .map(|target| target.stall_after)
        else {
            return;
        };
        for tid in self.threads_of(pid) {
            if let Some(watched) = self.loops.get_mut(&tid) {
                watched.target = target;
                watched.stall_after = stall_after;
            }
            let nanoseconds = u64::try_from(stall_after.as_nanos()).unwrap_or(u64::MAX);
            self.sensor.set_stall_after(tid, nanoseconds);
        }
    }
}

/// Whether a change of rules can change what is to be done about a wait.
fn concerns(before: &InForce, after: &InForce) -> bool {
    let regardless = |rules: &InForce| InForce {
        stall_after: Duration::ZERO,
        ..*rules
    };
    regardless(before) != regardless(after)
}

/// What was only told of is not done, and what was refused may be allowed now. What was done stays done, and is neither done
/// nor told of again.
fn reopen(episode: &mut Episode, mode: Mode, next_look: Option<Mono>) {
    let undone = episode.killed == Some(Outcome::WouldSend) && mode == Mode::Enforce;
    if episode.killed.is_some() && !undone {
        return;
    }
    episode.killed = None;
    if mode == Mode::Enforce && episode.termed_as == Some(Outcome::WouldSend) {
        episode.termed = None;
    }
    episode.said.clear();
    episode.next_look = next_look;
}
