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
        self.settings = settings;
        self.rules = rules.clone();
        self.budgets.clear();
        if self.settings.mode == Mode::Observe {
            self.locks.clear();
        }
        let known: Vec<(PidKey, usize, bool)> = self
            .family
            .iter()
            .map(|process| (process.key, process.target, process.watched))
            .collect();
        self.ask(Question::Rules(rules));
        for (key, target, watched) in known {
            let pid = key.pid;
            match moved.get(target).copied().flatten() {
                Some(target) => {
                    self.retarget(pid, target);
                    // What an engine is may have changed.
                    self.ask(Question::Look {
                        pid,
                        target,
                        threads: watched,
                    });
                }
                None => self.process_ended(key, now, EndedBy::Detached),
            }
        }
        self.next_rescan = now;
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
