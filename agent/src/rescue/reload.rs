//! Putting another configuration into force, without losing what is watched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::loops::Episode;
use super::sentinel::Sentinel;
use super::settings::Settings;
use crate::kernel::clock;
use crate::pipeline::place::Seat;
use crate::pipeline::record::InForce;
use crate::pipeline::{EndedBy, Mode, Mono, Outcome, Pid, PidKey};
use crate::target::scout::{Matching, Question};

/// How long the scout gets to read what an engine is by other rules, before a refusal is told because it is none.
const READING: Duration = Duration::from_millis(50);

impl Sentinel {
    /// Targets keep their processes by name; processes of a target that is gone are not watched any more. Nothing changes for a
    /// process for which the same holds as before, so that this may come with every change of a pod.
    pub(super) fn reload(&mut self, settings: Settings, rules: Arc<dyn Matching>) {
        let now = clock::now();
        let before = std::mem::replace(&mut self.settings, settings);
        self.node_budget
            .limit(self.settings.limits.node_kills, self.settings.limits.per);
        let share = self.settings.evidence.node_cpu_percent;
        self.collector.set_share(share);
        let rules_before = std::mem::replace(&mut self.rules, rules.clone());
        let limits_changed = before.limits != self.settings.limits;
        let known: Vec<(PidKey, usize, Option<Seat>)> = self
            .family
            .iter()
            .map(|process| (process.key, process.target, process.seat.clone()))
            .collect();
        self.ask(Question::Rules(rules));
        let mut concerned = HashMap::new();
        for (key, old, seat) in known {
            let old = before.targets.get(old);
            let number = old.and_then(|old| self.rules.number(&old.name, seat.as_ref()));
            let Some(number) = number else {
                self.process_ended(key, now, EndedBy::Detached);
                continue;
            };
            let is_as_before = old == self.settings.targets.get(number);
            if is_as_before && !limits_changed {
                self.renumber(key.pid, number);
            } else {
                let old_rules = old.map(|old| before.in_force_of(old));
                concerned.insert(key.pid, old_rules);
                self.rules_changed(key.pid, number);
            }
        }
        self.reopen_episodes(&concerned, now);
        // A target of the same name may match others now.
        for key in self.matched.iter().copied().collect::<Vec<_>>() {
            self.ask(Question::Rematch(key.pid));
        }
        for pid in self.pids_of_loops() {
            self.name_loops(pid, now);
        }
        self.follow_containers(&*rules_before, now);
        self.next_rescan = now;
    }

    /// From now on a process has another number of the rules that are in force.
    pub(super) fn moved(&mut self, pid: Pid, from: usize, to: usize) {
        if self.settings.targets.get(from) == self.settings.targets.get(to) {
            return self.renumber(pid, to);
        }
        let before = self.settings.in_force(from);
        self.rules_changed(pid, to);
        self.reopen_episodes(&HashMap::from([(pid, Some(before))]), clock::now());
    }

    fn rules_changed(&mut self, pid: Pid, number: usize) {
        self.budgets.remove(&pid);
        if self.settings.mode(number) == Mode::Observe {
            self.locks.remove(&pid);
        }
        self.retarget(pid, number);
        self.doubt_engine(pid, number);
        self.ask_to_look(pid);
    }

    fn pids_of_loops(&self) -> Vec<Pid> {
        let pids = self.loops.values().map(|watched| watched.id.process.pid);
        let pids: HashSet<Pid> = pids.collect();
        pids.into_iter().collect()
    }

    /// Waits that are going on are decided on anew where other rules hold for them now: `concerned` has their processes, with
    /// what held before.
    fn reopen_episodes(&mut self, concerned: &HashMap<Pid, Option<InForce>>, now: Mono) {
        for watched in self.loops.values_mut() {
            let after = self.settings.in_force(watched.target);
            let before = concerned.get(&watched.id.process.pid);
            if let Some((episode, before)) = watched.episode.as_mut().zip(before) {
                episode.story.reloaded = true;
                if before.is_none_or(|before| !concerns(&before, &after)) {
                    continue;
                }
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
        if let (Some(number), Some(process)) = (target, self.family.get(pid))
            && self.settings.name(number) == self.settings.name(process.target)
        {
            // The same target as it holds in its pod, learnt a moment later.
            return self.moved(pid, before, number);
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
    pub(super) fn let_go(&mut self, key: PidKey) {
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

    /// The same rules under another number.
    fn renumber(&mut self, pid: Pid, number: usize) {
        if let Some(process) = self.family.get_mut(pid) {
            process.target = number;
        }
        for tid in self.threads_of(pid) {
            if let Some(watched) = self.loops.get_mut(&tid) {
                watched.target = number;
            }
        }
    }

    pub(super) fn retarget(&mut self, pid: Pid, number: usize) {
        self.renumber(pid, number);
        self.follow_engines_of(number);
        let Some(stall_after) = self
            .settings
            .targets
            .get(number)
            .map(|target| target.stall_after)
        else {
            return;
        };
        for tid in self.threads_of(pid) {
            if let Some(watched) = self.loops.get_mut(&tid) {
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
