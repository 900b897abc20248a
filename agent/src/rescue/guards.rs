//! Budget, pause and lock of a loop's process.

use super::sentinel::Sentinel;
use crate::action::{Budget, EnforcerLock, GuardError, RunDir};
use crate::kernel::{in_host_pid_namespace, procfs_is_ours};
use crate::pipeline::policy::Guards;
use crate::pipeline::{Mode, Mono, Pid, PidKey};

impl Sentinel {
    /// The guards that do not depend on the episode.
    pub(super) fn guards(&mut self, process: PidKey, now: Mono) -> Guards {
        let enforce = self.mode_of(process.pid) == Mode::Enforce;
        Guards {
            paused_until: self.paused.get(&process.pid).copied(),
            budget_spent: self
                .budget_of(process)
                .is_none_or(|budget| budget.is_spent(now))
                || self.node_budget.is_spent(now),
            other_enforcer: enforce && !self.hold_lock(process),
            no_pid_namespace: !self.same_pid_namespace,
        }
    }

    /// Whether signals are sent for loops of a process.
    fn mode_of(&self, pid: Pid) -> Mode {
        let process = self.family.get(pid);
        process.map_or(Mode::Observe, |process| self.settings.mode(process.target))
    }

    /// Takes the enforcer's lock of a loop process, ahead of need; true if it is held.
    pub(super) fn hold_lock(&mut self, process: PidKey) -> bool {
        if self.locks.contains_key(&process.pid) {
            return true;
        }
        let taken = self
            .open_run_dir()
            .and_then(|dir| EnforcerLock::take(&dir, process));
        match taken {
            Ok(Some(lock)) => {
                self.locks.insert(process.pid, lock);
                true
            }
            Ok(None) => false,
            Err(error) => {
                // Looked at again and again while a loop waits: said once.
                if self.lock_failures.insert(process.pid) {
                    log::error!(
                        "cannot lock process {} for this agent, so nothing is signalled for it: {error}",
                        process.pid
                    );
                }
                false
            }
        }
    }

    pub(super) fn open_run_dir(&mut self) -> Result<RunDir, GuardError> {
        if let Some(dir) = &self.run_dir {
            return Ok(dir.clone());
        }
        let dir = RunDir::open()?;
        // Ids in the folder are the host's: only there does their absence from procfs say anything.
        let all_seen = in_host_pid_namespace() && procfs_is_ours();
        dir.sweep(|pid| all_seen.then(|| std::path::Path::new(&format!("/proc/{pid}")).exists()));
        self.run_dir = Some(dir.clone());
        Ok(dir)
    }

    pub(super) fn budget_of(&mut self, process: PidKey) -> Option<&mut Budget> {
        if !self.budgets.contains_key(&process.pid) {
            let target = self.family.get(process.pid)?.target;
            let engine = self.settings.targets.get(target)?.engine?;
            let budget = if self.settings.mode(target) == Mode::Enforce {
                self.open_run_dir()
                    .and_then(|dir| Budget::of(&dir, process, engine.max_kills, engine.per))
            } else {
                Ok(Budget::new(engine.max_kills, engine.per))
            };
            match budget {
                Ok(budget) => self.budgets.insert(process.pid, budget),
                Err(error) => {
                    log::error!(
                        "cannot read the kill budget of process {}: {error}",
                        process.pid
                    );
                    return None;
                }
            };
        }
        self.budgets.get_mut(&process.pid)
    }

    /// Makes sure that the budget of a loop's process is at hand.
    pub(super) fn prepare_budget(&mut self, process: PidKey) {
        let _ = self.budget_of(process);
    }
}
