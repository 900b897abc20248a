//! The state of the rescue thread, and what it does with events, messages and the passing of time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::engines::EngineWatch;
use super::loops::Loop;
use super::probed::Probed;
use super::settings::Settings;
use super::stats::Stats;
use super::thread::Summary;
use super::unshown::Unshown;
use crate::action::{Budget, EnforcerLock, RunDir};
use crate::evidence::Collector;
use crate::kernel::{Sensor, clock};
use crate::pipeline::event::{KernelEvent, Poller};
use crate::pipeline::family::Family;
use crate::pipeline::{EndedBy, IncidentId, Mono, Notice, Pid, PidKey, Tid};
use crate::target::cgroup::CpuStat;
use crate::target::freezer::Freezer;
use crate::target::scout::{Matching, Question, Scout};

/// How often all processes are compared with what is known, to heal lost events.
const RESCAN: Duration = Duration::from_secs(5);
/// The same when there are no events at all: followed "within a second".
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_millis(500);
/// How often loops are looked at when there are no events.
const SAMPLE: Duration = Duration::from_millis(10);

/// Rounds, a millisecond apart, in which a record that is being written is read again: the loop's CPU may be taken away from its
/// machine for that long.
const MOST_REREADS: u32 = 50;

pub(super) struct Sentinel {
    pub(super) sensor: Box<dyn Sensor>,
    pub(super) settings: Settings,
    pub(super) family: Family,
    pub(super) loops: HashMap<Tid, Loop>,
    /// Main threads that wait and are not shown to be loops, by process.
    pub(super) unshown: HashMap<Pid, Unshown>,
    pub(super) unshown_due: Mono,
    /// A record could not be read in this round.
    pub(super) unread: bool,
    /// Rounds in a row in which that was so.
    rereads: u32,
    pub(super) started: Mono,
    /// Processes that were named by their ids, and those that the rules matched; all others descend from these.
    pub(super) named: HashSet<PidKey>,
    pub(super) matched: HashSet<PidKey>,
    /// Loop processes that wait after an action.
    pub(super) paused: HashMap<Pid, Mono>,
    pub(super) scout: Scout,
    pub(super) collector: Collector,
    pub(super) rules: Arc<dyn Matching>,
    pub(super) stats: Arc<Stats>,
    pub(super) tell: Box<dyn FnMut(Notice) + Send>,
    pub(super) due: Mono,
    pub(super) next_rescan: Mono,
    pub(super) run_dir: Option<RunDir>,
    pub(super) locks: HashMap<Pid, EnforcerLock>,
    pub(super) lock_failures: HashSet<Pid>,
    pub(super) budgets: HashMap<Pid, Budget>,
    pub(super) node_budget: Budget,
    pub(super) cpu_stats: HashMap<Pid, CpuStat>,
    pub(super) probed: Probed,
    /// Processes of whose cgroups it was told that they are of no known form.
    pub(super) told_unknown: HashSet<Pid>,
    pub(super) engines: EngineWatch,
    pub(super) freezer: Freezer,
    /// Pollers shared by several threads of a process.
    pub(super) pools: HashMap<Pid, Vec<Poller>>,
    pub(super) told_lost: HashMap<&'static str, u64>,
    pub(super) same_pid_namespace: bool,
    /// Events the family knows already and nobody else does, each with whether its process must be read.
    pub(super) pending: VecDeque<(KernelEvent, bool)>,
    pub(super) noise: RandomState,
    pub(super) incidents: u64,
    pub(super) actions: u64,
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
        collector: Collector,
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
            unshown: HashMap::new(),
            unshown_due: now,
            unread: false,
            rereads: 0,
            started: now,
            named: HashSet::new(),
            matched: HashSet::new(),
            paused: HashMap::new(),
            scout,
            collector,
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
            probed: Probed::default(),
            told_unknown: HashSet::new(),
            engines: EngineWatch::default(),
            freezer: Freezer::find(),
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

    /// Has another thread read in the scout's place if it hangs in a read.
    fn follow_scout(&mut self, now: Mono) {
        let Some(stuck) = self.scout.check(now) else {
            return;
        };
        let whose = stuck
            .pid
            .map_or_else(String::new, |pid| format!(" of process {pid}"));
        let then = if stuck.replaced {
            "this process is left alone until the read comes back, another thread reads on"
        } else {
            "too many reads hang: new targets and children are not read until one of them comes back or the agent is started again"
        };
        log::error!(
            "reading {}{whose} in /proc has taken {:.1} s and is not done: {then}",
            stuck.reading.name(),
            stuck.lasts.as_secs_f64()
        );
        (self.tell)(Notice::Lost {
            at: now,
            what: "scout_stuck".into(),
            count: 1,
        });
    }

    /// Looks at everything that can be due, and says when the next can.
    pub(super) fn tick(&mut self, now: Mono) {
        if now >= self.due {
            self.stats.late(now.since(self.due));
        }
        self.unread = false;
        let tids: Vec<Tid> = self.loops.keys().copied().collect();
        for tid in &tids {
            self.read_loop(*tid);
            self.recognise(*tid, now);
            self.follow_stall(*tid, now);
            self.follow_episode(*tid, now);
            self.follow_strikes(*tid, now);
            // Last: it is for telling only.
            self.follow_risk(*tid, now);
        }
        self.follow_engines(now);
        self.follow_unshown(now);
        let events = self.sensor.events_fd().is_some();
        if now >= self.next_rescan {
            self.next_rescan = now.plus(if events {
                RESCAN
            } else {
                RESCAN_WITHOUT_EVENTS
            });
            let appraise = self.settings.match_all;
            self.follow_scout(now);
            self.ask(Question::Scan { appraise });
            self.remember_engines();
            self.ask_for_ports(now);
            self.ask_about_engines();
            self.count_connects(now);
            self.tell_lost(now);
        }
        let earliest = self
            .loops
            .values()
            .map(|watched| self.due_of(watched, now))
            .min();
        let mut due = earliest
            .unwrap_or(self.next_rescan)
            .min(self.next_rescan)
            .min(self.unshown_due);
        due = due.min(self.engines.due(now).unwrap_or(due));
        self.rereads = if self.unread { self.rereads + 1 } else { 0 };
        if (1..=MOST_REREADS).contains(&self.rereads) {
            // A wait may have begun that nothing tells of again.
            due = now;
        }
        if !events && !self.loops.is_empty() {
            due = due.min(now.plus(SAMPLE));
        }
        // Never spin: whatever is due at once was just done.
        self.due = due.max(now.plus(Duration::from_millis(1)));
    }

    pub(super) fn tell_lost(&mut self, at: Mono) {
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
        self.finish_engines(now);
        for tid in self.loops.keys().copied().collect::<Vec<_>>() {
            self.read_loop(tid);
            self.end_loop(tid, now, EndedBy::Detached, false);
        }
        for pid in self.unshown.keys().copied().collect::<Vec<_>>() {
            self.end_unshown(pid, now, EndedBy::Detached);
        }
        self.tell_lost(now);
        let Self {
            scout,
            collector,
            actions,
            sensor,
            ..
        } = self;
        scout.stop();
        collector.stop();
        (Summary { actions }, sensor)
    }
}
