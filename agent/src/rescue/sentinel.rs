//! The state of the rescue thread, and what it does with events, messages and the passing of time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::loops::Loop;
use super::settings::Settings;
use super::stats::Stats;
use super::thread::Summary;
use crate::action::{Budget, EnforcerLock, GuardError, RunDir};
use crate::kernel::thread_call::Found;
use crate::kernel::{Adoption, Sensor, clock};
use crate::pipeline::event::{Beat, KernelEvent, Poller, WaitReading, What};
use crate::pipeline::family::{Family, Process};
use crate::pipeline::policy::Guards;
use crate::pipeline::{EndedBy, IncidentId, LoopId, Mode, Mono, Notice, Pid, PidKey, Tid};
use crate::target::cgroup::CpuStat;
use crate::target::proc;
use crate::target::scout::{Answer, Matching, Question, Scout};
use crate::target::sight::Sighting;

/// How often all processes are compared with what is known, to heal lost events.
const RESCAN: Duration = Duration::from_secs(5);
/// The same when there are no events at all: followed "within a second".
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_millis(500);
/// How often loops are looked at when there are no events.
const SAMPLE: Duration = Duration::from_millis(10);

pub(super) struct Sentinel {
    pub(super) sensor: Box<dyn Sensor>,
    pub(super) settings: Settings,
    pub(super) family: Family,
    pub(super) loops: HashMap<Tid, Loop>,
    pub(super) started: Mono,
    /// Loop processes that wait after an action.
    pub(super) paused: HashMap<Pid, Mono>,
    scout: Scout,
    pub(super) rules: Arc<dyn Matching>,
    stats: Arc<Stats>,
    tell: Box<dyn FnMut(Notice) + Send>,
    due: Mono,
    pub(super) next_rescan: Mono,
    run_dir: Option<RunDir>,
    pub(super) locks: HashMap<Pid, EnforcerLock>,
    lock_failures: HashSet<Pid>,
    pub(super) budgets: HashMap<Pid, Budget>,
    pub(super) node_budget: Budget,
    pub(super) cpu_stats: HashMap<Pid, CpuStat>,
    /// Pollers shared by several threads of a process.
    pub(super) pools: HashMap<Pid, Vec<Poller>>,
    told_lost: HashMap<&'static str, u64>,
    same_pid_namespace: bool,
    /// Events the family knows already and nobody else does, each with whether its process must be read.
    pending: VecDeque<(KernelEvent, bool)>,
    noise: RandomState,
    incidents: u64,
    actions: u64,
}

impl fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinel")
            .field("loops", &self.loops.len())
            .finish_non_exhaustive()
    }
}

impl Sentinel {
    pub(super) fn new(
        sensor: Box<dyn Sensor>,
        settings: Settings,
        rules: Arc<dyn Matching>,
        scout: Scout,
        tell: Box<dyn FnMut(Notice) + Send>,
        stats: Arc<Stats>,
    ) -> Self {
        let now = clock::now();
        let node_budget = Budget::new(settings.limits.node_kills, settings.limits.per);
        Self {
            sensor,
            settings,
            family: Family::default(),
            loops: HashMap::new(),
            started: now,
            paused: HashMap::new(),
            scout,
            rules,
            stats,
            tell,
            due: now,
            next_rescan: now,
            run_dir: None,
            locks: HashMap::new(),
            lock_failures: HashSet::new(),
            budgets: HashMap::new(),
            node_budget,
            cpu_stats: HashMap::new(),
            pools: HashMap::new(),
            told_lost: HashMap::new(),
            same_pid_namespace: crate::kernel::procfs_is_ours(),
            pending: VecDeque::new(),
            noise: RandomState::new(),
            incidents: 0,
            actions: 0,
        }
    }

    pub(super) fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sensor.events_fd()
    }

    /// When the earliest loop, episode or rescan can be due.
    pub(super) fn next_due(&self) -> Mono {
        self.due
    }

    pub(super) fn tell(&mut self, notice: Notice) {
        if let Notice::Action { action, .. } = &notice
            && matches!(action.outcome.name(), "sent" | "would_send")
        {
            self.actions += 1;
        }
        (self.tell)(notice);
    }

    pub(super) fn ask(&mut self, question: Question) {
        if !self.scout.ask(question) {
            // The next rescan asks again; until then it is a loss like any other.
            let at = clock::now();
            (self.tell)(Notice::Lost {
                at,
                what: "scout_queue_full".into(),
                count: 1,
            });
        }
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

    fn follow(&mut self, pid: Pid, target: usize, exact: &HashMap<Pid, u64>) {
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
        self.family
            .insert(Process::found(key, stat.parent, target, true));
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
                target,
                engine,
                threads,
                cpu_stat,
            } => {
                if let Some(cpu_stat) = cpu_stat {
                    self.cpu_stats.insert(sighting.pid, cpu_stat);
                }
                self.seen(&sighting, target, engine, threads);
            }
            Answer::Unreadable { pid, error } => {
                log::debug!("process {pid} could not be read: {error}");
                let key = self.family.get(pid).map(|process| process.key);
                if let (Some(key), Err(_)) = (key, proc::stat(pid)) {
                    self.process_ended(key, clock::now(), EndedBy::Exit);
                }
            }
            Answer::Matched { pid, target } => self.watch(&[(pid, target)]),
            Answer::Scanned(processes) => self.scanned(&processes),
        }
    }

    fn seen(&mut self, sighting: &Sighting, target: usize, engine: bool, threads: bool) {
        let Some(process) = self.family.get_mut(sighting.pid) else {
            return;
        };
        if process.exe.is_empty() {
            process.exe.clone_from(&sighting.exe);
        }
        // What the program was called when it was run counts: a process that is ending shows nothing to a look any more.
        let engine = engine || (process.engine == Some(true) && sighting.exe.is_empty());
        process.engine = Some(engine);
        process.ns_pid = process.ns_pid.or(sighting.ns_pid);
        process.container = sighting
            .container
            .clone()
            .or_else(|| process.container.take());
        process.parent = sighting.parent;
        process.target = target;
        let (key, parent) = (process.key, process.parent);
        if engine && process.watched {
            process.watched = false;
            self.unwatch_threads(key, parent);
        } else if threads && process.watched {
            self.adopt_threads(key, target, sighting);
        }
    }

    /// An engine's own threads are of no interest: only its signals, exec and exit.
    fn unwatch_threads(&mut self, key: PidKey, parent: Pid) {
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

    /// Gives records to threads that were inside a poll when the agent came, and to a leader that was away from one.
    fn adopt_threads(&mut self, key: PidKey, target: usize, sighting: &Sighting) {
        let now = clock::now();
        let mut polled = Vec::new();
        for (tid, found) in &sighting.threads {
            if let Found::Polling(poller, timeout) = found {
                polled.push(*poller);
                let deadline = timeout.map(|span| now.plus(Duration::from_nanos(span)));
                self.adopt(
                    key,
                    *tid,
                    target,
                    Some(*poller),
                    Beat::Polling {
                        since: now,
                        deadline,
                    },
                    None,
                );
            }
        }
        let leader = Tid(key.pid.0);
        let leader_found = sighting
            .threads
            .iter()
            .find(|(tid, _)| *tid == leader)
            .map(|(_, found)| *found);
        let another_polls = sighting
            .epolls
            .iter()
            .any(|fd| polled.iter().any(|poller| poller.fd == *fd));
        // Away from its poller at first sight: a loop if it leads the process, which has an epoll descriptor that no
        // other thread polls.
        if let (Some(fd), Some(found), false) =
            (sighting.epolls.first(), leader_found, another_polls)
            && !matches!(found, Found::Polling(..))
            && !self.loops.contains_key(&leader)
        {
            let wait = match found {
                Found::Waiting(awaited, options) => Some(WaitReading {
                    start: now,
                    call: Some(now),
                    calls: 1,
                    awaited,
                    options,
                }),
                _ => None,
            };
            let own = Poller {
                class: crate::pipeline::event::PollClass::Epoll,
                fd: *fd,
            };
            self.adopt(
                key,
                leader,
                target,
                Some(own),
                Beat::Busy { since: now },
                wait,
            );
            if let Some(watched) = self.loops.get_mut(&leader) {
                watched.adopted_busy = Some(now);
            }
        }
    }

    fn adopt(
        &mut self,
        key: PidKey,
        tid: Tid,
        target: usize,
        own: Option<Poller>,
        beat: Beat,
        wait: Option<WaitReading>,
    ) {
        if self.loops.contains_key(&tid) {
            return;
        }
        let Some(stall_after) = self
            .settings
            .targets
            .get(target)
            .map(|target| target.stall_after)
        else {
            return;
        };
        let stall_after_ns = u64::try_from(stall_after.as_nanos()).unwrap_or(u64::MAX);
        let adoption = Adoption {
            pid: key.pid,
            tid,
            own,
            beat,
            wait,
            stall_after_ns,
        };
        let Some(slot) = self.sensor.adopt(adoption) else {
            return;
        };
        let mut watched = Loop::new(LoopId { process: key, tid }, target, slot, stall_after);
        watched.candidate.found_in = own;
        self.loops.insert(tid, watched);
    }

    /// Compares all processes with what is known: adds descendants whose birth was not seen, removes who is gone.
    fn scanned(&mut self, processes: &[(Pid, Pid)]) {
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
    fn exact_starts(&mut self) -> HashMap<Pid, u64> {
        let listed = self.sensor.list();
        listed
            .into_iter()
            .map(|task| (task.pid, task.start_ns))
            .collect()
    }

    /// Follows what descends from known processes, given every process and its parent.
    fn follow_descendants(&mut self, processes: &[(Pid, Pid)]) {
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

    pub(super) fn take_events(&mut self) {
        self.collect_events();
        while let Some((event, must_read)) = self.pending.pop_front() {
            self.take(&event, must_read);
        }
    }

    /// Takes waiting events into the family at once and leaves the rest of what they mean for later: a decision about to
    /// be carried out must know who was told to end, has run another program or has ended a moment ago.
    pub(super) fn collect_events(&mut self) {
        let Self {
            sensor,
            family,
            pending,
            ..
        } = self;
        sensor.drain(&mut |event| {
            let must_read = family.apply(&event);
            pending.push_back((event, must_read));
        });
    }

    fn take(&mut self, event: &KernelEvent, must_read: bool) {
        log::trace!("{event:?}");
        if let What::Exited { start_ns, .. } = event.what {
            let key = PidKey {
                pid: event.pid,
                start_ns,
            };
            self.child_ended(key, event.at);
            self.process_ended(key, event.at, EndedBy::Exit);
        }
        match &event.what {
            What::PollerSeen { poller, .. } => self.poller_seen(event, *poller),
            What::WaitBegan { .. } | What::WaitEnded { .. } | What::NestedPoll { .. } => {
                self.read_loop(event.tid);
                self.follow_episode(event.tid, clock::now());
            }
            What::LoopPolled { since } => self.loop_polled(event.tid, *since, event.at),
            What::PollOverran { deadline } => self.loop_polled(event.tid, *deadline, event.at),
            What::Execed { exe, .. } => self.execed(event, exe, must_read),
            What::ThreadEnded => self.end_loop(event.tid, event.at, EndedBy::Exit, false),
            What::Forked { .. } | What::Exited { .. } | What::Signalled { .. } => {}
        }
    }

    fn execed(&mut self, event: &KernelEvent, exe: &str, known: bool) {
        if !known {
            if self.settings.match_all {
                self.ask(Question::Appraise(event.pid));
            }
            return;
        }
        for tid in self.threads_of(event.pid) {
            self.end_loop(tid, event.at, EndedBy::Exec, false);
        }
        let Some(process) = self.family.get_mut(event.pid) else {
            return;
        };
        let target = process.target;
        // By its basename alone an engine is known at once; by its command line when the scout has read it.
        if self.rules.is_engine(target, exe, "") {
            process.engine = Some(true);
        }
        self.ask(Question::Look {
            pid: event.pid,
            target,
            threads: false,
        });
    }

    fn poller_seen(&mut self, event: &KernelEvent, poller: Poller) {
        let Some((key, target)) = self
            .family
            .get(event.pid)
            .map(|process| (process.key, process.target))
        else {
            return;
        };
        if self
            .pools
            .get(&event.pid)
            .is_some_and(|pools| pools.contains(&poller))
        {
            self.sensor.release(event.tid, true);
            return;
        }
        self.adopt(
            key,
            event.tid,
            target,
            None,
            Beat::Polling {
                since: event.at,
                deadline: None,
            },
            None,
        );
        if let Some(watched) = self.loops.get_mut(&event.tid) {
            watched.candidate.pollers = vec![(poller, 1)];
        }
        self.recognise_process(event.pid);
    }

    pub(super) fn mark_pool(&mut self, pid: Pid, poller: Poller) {
        let pools = self.pools.entry(pid).or_default();
        if !pools.contains(&poller) {
            pools.push(poller);
        }
    }

    fn child_ended(&mut self, child: PidKey, at: Mono) {
        for watched in self.loops.values_mut() {
            for struck in watched
                .stall
                .iter_mut()
                .flat_map(|stall| &mut stall.strikes)
            {
                if struck.child.key.matches(child) && struck.ended.is_none() {
                    struck.ended = Some(at);
                }
            }
        }
    }

    /// Forgets a process. Its id may belong to a new one already, which stays.
    pub(super) fn process_ended(&mut self, key: PidKey, at: Mono, how: EndedBy) {
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
        let pid = key.pid;
        match self.family.get(pid) {
            Some(process) if !process.key.matches(key) => return,
            Some(_) => {
                self.family.remove(pid);
                self.sensor.forget(pid);
            }
            None => {}
        }
        self.pools.remove(&pid);
        self.paused.remove(&pid);
        self.locks.remove(&pid);
        self.lock_failures.remove(&pid);
        self.budgets.remove(&pid);
        self.cpu_stats.remove(&pid);
    }

    /// Looks at everything that can be due, and says when the next can.
    pub(super) fn tick(&mut self, now: Mono) {
        if now >= self.due {
            self.stats.late(now.since(self.due));
        }
        let tids: Vec<Tid> = self.loops.keys().copied().collect();
        for tid in &tids {
            self.read_loop(*tid);
            self.recognise(*tid, now);
            self.follow_stall(*tid, now);
            self.follow_episode(*tid, now);
            self.follow_strikes(*tid, now);
        }
        let events = self.sensor.events_fd().is_some();
        if now >= self.next_rescan {
            self.next_rescan = now.plus(if events {
                RESCAN
            } else {
                RESCAN_WITHOUT_EVENTS
            });
            let appraise = self.settings.match_all;
            self.ask(Question::Scan { appraise });
            self.tell_lost(now);
        }
        let earliest = self
            .loops
            .values()
            .map(|watched| Self::due_of(watched, now))
            .min();
        let mut due = earliest.unwrap_or(self.next_rescan).min(self.next_rescan);
        if !events && !self.loops.is_empty() {
            due = due.min(now.plus(SAMPLE));
        }
        // Never spin: whatever is due at once was just done.
        self.due = due.max(now.plus(Duration::from_millis(1)));
    }

    fn tell_lost(&mut self, at: Mono) {
        let lost = self.sensor.lost();
        self.stats.lost_so_far(&lost);
        self.stats
            .known(self.family.iter().count(), self.loops.len());
        for (what, count) in lost {
            let before = self.told_lost.insert(what, count).unwrap_or(0);
            if count > before {
                (self.tell)(Notice::Lost {
                    at,
                    what: what.to_owned(),
                    count: count - before,
                });
            }
        }
    }

    /// The guards that do not depend on the episode.
    pub(super) fn guards(&mut self, process: PidKey, now: Mono) -> Guards {
        let enforce = self.settings.mode == Mode::Enforce;
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

    fn open_run_dir(&mut self) -> Result<RunDir, GuardError> {
        if let Some(dir) = &self.run_dir {
            return Ok(dir.clone());
        }
        let dir = RunDir::open()?;
        dir.sweep(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
        self.run_dir = Some(dir.clone());
        Ok(dir)
    }

    fn budget_of(&mut self, process: PidKey) -> Option<&mut Budget> {
        if !self.budgets.contains_key(&process.pid) {
            let target = self.family.get(process.pid)?.target;
            let engine = self.settings.targets.get(target)?.engine?;
            let budget = if self.settings.mode == Mode::Enforce {
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

    pub(super) fn new_incident(&mut self) -> IncidentId {
        #[expect(
            clippy::disallowed_methods,
            reason = "names of incidents sort by wall-clock time"
        )]
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.incidents += 1;
        let mut hasher = self.noise.build_hasher();
        hasher.write_u64(self.incidents);
        let noise = u128::from(hasher.finish()) << 16 | u128::from(self.incidents & 0xffff);
        IncidentId::new(u64::try_from(unix.as_millis()).unwrap_or(0), noise)
    }

    /// Ends watching: open stalls are closed as detached, and every loop's final counts are told.
    pub(super) fn finish(mut self) -> (Summary, Box<dyn Sensor>) {
        let now = clock::now();
        for tid in self.loops.keys().copied().collect::<Vec<_>>() {
            self.read_loop(tid);
            self.end_loop(tid, now, EndedBy::Detached, false);
        }
        self.tell_lost(now);
        let Self {
            scout,
            actions,
            sensor,
            ..
        } = self;
        scout.stop();
        (Summary { actions }, sensor)
    }
}
