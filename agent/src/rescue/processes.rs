//! Which processes are followed: those named, those matched, and all that descends from them.

use std::collections::HashMap;

use super::chronicle;
use super::loops::Loop;
use super::sentinel::Sentinel;
use crate::kernel::clock;
use crate::pipeline::family::Process;
use crate::pipeline::{EndedBy, Mono, Notice, Pid, PidKey, Tid};
use crate::proc;
use crate::target::cgroup::CpuStat;
use crate::target::scout::{Answer, Question};
use crate::target::sight::{Sighting, number_for_parent};

impl Sentinel {
    /// Watches processes that were named by their ids: no rule has to match them.
    pub(super) fn watch_named(&mut self, processes: &[(Pid, usize)]) {
        self.watch(processes);
        let known = processes
            .iter()
            .filter_map(|(pid, _)| self.family.get(*pid));
        self.named.extend(known.map(|process| process.key));
    }

    /// Watches processes from now on, and all that descends from them.
    pub(super) fn watch(&mut self, processes: &[(Pid, usize)]) {
        let exact = self.exact_starts();
        for (pid, target) in processes {
            self.follow(*pid, *target, &exact);
        }
        // After the processes are known, so that a child made in between is either reported or found; and at once, so that no
        // signal to a child of a loop that is told to be watched goes unseen.
        let listed = self.sensor.list();
        let listed: Vec<(Pid, Pid)> = listed.iter().map(|task| (task.pid, task.parent)).collect();
        self.follow_descendants(&listed);
        self.ask(Question::Scan { appraise: false });
    }

    pub(super) fn follow(&mut self, pid: Pid, target: usize, exact: &HashMap<Pid, u64>) {
        let Ok(stat) = proc::stat(pid) else {
            return;
        };
        let start_ns = exact
            .get(&pid)
            .copied()
            .unwrap_or_else(|| proc::start_ns(&stat));
        let key = PidKey { pid, start_ns };
        if self.family.get(pid).is_some_and(|known| known.key == key) {
            return;
        }
        if let Err(error) = self.sensor.know(pid, start_ns, stat.parent, true) {
            log::error!("cannot watch process {pid}: {error}");
            (self.tell)(Notice::Lost {
                at: clock::now(),
                what: "process_not_watched".into(),
                count: 1,
            });
            return;
        }
        let mut process = Process::found(key, stat.parent, target, true);
        // The scout may be busy when the process turns out to be a loop, which is told with its name, or a child that a loop
        // waits for already, by its number. Reading these asks the kernel's memory only: it cannot hang on a file system.
        process.exe = proc::exe_name(pid).unwrap_or_default();
        process.ns_pid = number_for_parent(pid, stat.parent);
        self.family.insert(process);
        self.follow_engines_of(target);
        self.ask(Question::Look {
            pid,
            target,
            threads: true,
        });
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Seen {
                sighting,
                engine,
                threads,
                cpu_stat,
                version,
            } => {
                if let Some(cpu_stat) = cpu_stat {
                    self.new_cpu_stat(sighting.pid, cpu_stat);
                }
                let is_current = version == self.rules.version();
                let engine = engine && is_current;
                self.seen(&sighting, engine, threads);
                if !is_current {
                    self.ask_to_look(sighting.pid);
                }
            }
            Answer::Unreadable { pid, error } => {
                log::debug!("process {pid} could not be read: {error}");
                let key = self.family.get(pid).map(|process| process.key);
                if let (Some(key), Err(_)) = (key, proc::stat(pid)) {
                    self.process_ended(key, clock::now(), EndedBy::Exit);
                }
            }
            Answer::Matched { pid, version, .. } if version != self.rules.version() => {
                self.ask(Question::Appraise(pid));
            }
            Answer::Matched { pid, target, .. } => {
                self.watch(&[(pid, target)]);
                self.matched
                    .extend(self.family.get(pid).map(|process| process.key));
            }
            Answer::Rematched { pid, version, .. } if version != self.rules.version() => {
                self.ask(Question::Rematch(pid));
            }
            Answer::Rematched { pid, target, .. } => self.rematched(pid, target),
            Answer::Ports { pid, listeners } => self.listens(pid, listeners),
            Answer::Doors { pid, doors } => self.doors_found(pid, &doors),
            Answer::Unreaped(found) => self.unreaped(&found),
            Answer::Scanned(processes) => self.scanned(&processes),
        }
    }

    fn new_cpu_stat(&mut self, pid: Pid, cpu_stat: CpuStat) {
        let throttled = cpu_stat.throttled();
        self.cpu_stats.insert(pid, cpu_stat);
        // It may be of another cgroup than the one before, whose sums it does not continue.
        for watched in self.loops.values_mut() {
            if let Some(episode) = &mut watched.episode
                && episode
                    .engine_before
                    .is_some_and(|(engine, _)| engine == pid)
            {
                episode.engine_before = None;
            }
        }
        let own = |watched: &&mut Loop| watched.id.process.pid == pid;
        for watched in self.loops.values_mut().filter(own) {
            let stall = watched.stall.as_mut();
            if let Some(accounts) = stall.and_then(|stall| stall.accounts.as_mut()) {
                accounts.forget_throttling();
            }
            if let Some(episode) = &mut watched.episode {
                episode.throttled_before = throttled;
            }
        }
    }

    /// What an engine is may have changed. Its threads are known: one that is found in a wait now has not been there since before
    /// the agent came.
    pub(super) fn ask_to_look(&mut self, pid: Pid) {
        if let Some(process) = self.family.get(pid) {
            let target = process.target;
            self.ask(Question::Look {
                pid,
                target,
                threads: false,
            });
        }
    }

    pub(super) fn seen(&mut self, sighting: &Sighting, engine: bool, threads: bool) {
        let Some(process) = self.family.get_mut(sighting.pid) else {
            return;
        };
        if process.exe.is_empty() {
            process.exe.clone_from(&sighting.exe);
        }
        let target = process.target;
        // What the program was called when it was run counts: its file may have been renamed since, and a process that is
        // ending shows nothing to a look any more.
        let engine = engine
            || self.rules.is_engine(target, &process.exe, "")
            || (process.engine == Some(true) && sighting.exe.is_empty());
        process.engine = Some(engine);
        process.ns_pid = process.ns_pid.or(sighting.ns_pid);
        process.container = sighting
            .container
            .clone()
            .or_else(|| process.container.take());
        process.parent = sighting.parent;
        let (key, parent, watched) = (process.key, process.parent, process.watched);
        if engine && watched {
            process.watched = false;
        }
        if engine {
            // It may have been told before it was known to be one.
            self.unshown_due = Mono::default();
            self.engine_known(key.pid);
        }
        if engine && watched {
            self.unwatch_threads(key, parent);
        } else if threads && watched {
            self.adopt_threads(key, target, sighting);
        }
        if let Some(place) = &sighting.place {
            self.placed(key.pid, place, clock::now());
        }
    }

    /// An engine's own threads are of no interest: only its signals, exec and exit.
    pub(super) fn unwatch_threads(&mut self, key: PidKey, parent: Pid) {
        if let Err(error) = self.sensor.know(key.pid, key.start_ns, parent, false) {
            log::debug!("process {} stays watched: {error}", key.pid);
        }
        for tid in self.threads_of(key.pid) {
            self.end_loop(tid, clock::now(), EndedBy::Detached, true);
        }
    }

    pub(super) fn threads_of(&self, pid: Pid) -> Vec<Tid> {
        self.loops
            .values()
            .filter(|watched| watched.id.process.pid == pid)
            .map(|watched| watched.id.tid)
            .collect()
    }

    /// Compares all processes with what is known: adds descendants whose birth was not seen, removes who is gone.
    pub(super) fn scanned(&mut self, processes: &[(Pid, Pid)]) {
        let parents: HashMap<Pid, Pid> = processes.iter().copied().collect();
        let gone: Vec<PidKey> = self
            .family
            .iter()
            .map(|process| process.key)
            .filter(|key| !parents.contains_key(&key.pid))
            .collect();
        for key in gone {
            // It may have been born after the list was made.
            if self.sensor.alive(key.pid).is_none() || proc::stat(key.pid).is_err() {
                self.process_ended(key, clock::now(), EndedBy::Exit);
            }
        }
        self.follow_descendants(processes);
    }

    /// Start times as exact as the kernel has them; none where that cannot be asked.
    pub(super) fn exact_starts(&mut self) -> HashMap<Pid, u64> {
        let listed = self.sensor.list();
        listed
            .into_iter()
            .map(|task| (task.pid, task.start_ns))
            .collect()
    }

    /// Follows what descends from known processes, given every process and its parent.
    pub(super) fn follow_descendants(&mut self, processes: &[(Pid, Pid)]) {
        loop {
            let found: Vec<(Pid, usize)> = processes
                .iter()
                .filter(|(pid, _)| self.family.get(*pid).is_none())
                .filter_map(|(pid, parent)| Some((*pid, self.family.get(*parent)?)))
                // What an engine starts is its own affair.
                .filter(|(_, parent)| parent.engine != Some(true))
                .map(|(pid, parent)| (pid, parent.target))
                .collect();
            if found.is_empty() {
                return;
            }
            let before = self.family.iter().count();
            let exact = self.exact_starts();
            for (pid, target) in found {
                self.follow(pid, target, &exact);
            }
            // One generation a round, until a round adds nobody.
            if self.family.iter().count() == before {
                return;
            }
        }
    }

    /// Forgets a process. Its id may belong to a new one already, which stays.
    pub(super) fn process_ended(&mut self, key: PidKey, at: Mono, how: EndedBy) {
        self.engine_or_loop_ended(key, at, how);
        let ended = |watched: &&Loop| watched.id.process.matches(key);
        let threads: Vec<Tid> = self
            .loops
            .values()
            .filter(ended)
            .map(|watched| watched.id.tid)
            .collect();
        for tid in threads {
            self.end_loop(tid, at, how, false);
        }
        self.named.remove(&key);
        self.matched.remove(&key);
        let pid = key.pid;
        let known = self.family.get(pid);
        let told = known.is_some_and(|process| process.ending.is_some());
        match known {
            Some(process) if !process.key.matches(key) => return,
            Some(_) => {
                chronicle::note_end(&mut self.loops, &self.family, key, (at, None));
                self.family.remove(pid);
                self.sensor.forget(pid);
                self.forget_evidence(pid);
            }
            None => {}
        }
        self.end_unshown(pid, at, how);
        self.pools.remove(&pid);
        self.paused.remove(&pid);
        self.locks.remove(&pid);
        self.lock_failures.remove(&pid);
        self.budgets.remove(&pid);
        self.cpu_stats.remove(&pid);
        self.listens_no_more(pid, (how == EndedBy::Exit).then_some(told));
        self.told_unknown.remove(&pid);
    }
}
