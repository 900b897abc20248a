//! Putting another configuration into force, without losing what is watched.

use std::sync::Arc;

use super::sentinel::Sentinel;
use super::settings::Settings;
use crate::kernel::clock;
use crate::pipeline::{EndedBy, Mode, Pid, PidKey};
use crate::target::scout::{Matching, Question};

impl Sentinel {
    /// Targets keep their processes by name; processes of a target that is gone are not watched any more.
    pub(super) fn reload(&mut self, settings: Settings, rules: Arc<dyn Matching>) {
        let now = clock::now();
        self.note_reload();
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
        // A target of the same name may match others now.
        for key in self.matched.iter().copied().collect::<Vec<_>>() {
            self.ask(Question::Rematch(key.pid));
        }
        self.next_rescan = now;
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
