//! The thread that writes the journal, and the way in.
//!
//! Asleep unless something happens, an incident becomes long, counts are due, or the folder is to be tried again. Whoever hands
//! in notices never waits: what does not fit is dropped and counted.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::keep::{Keeper, LONG};
use super::line;
use super::store::Store;
use crate::export::clock;
use crate::export::delivery::{Deliveries, Delivery, EventSink};
use crate::pipeline::collect::{Collector, Step};
use crate::pipeline::engines::record::RaceRecord;
use crate::pipeline::engines::{EngineNews, News};
use crate::pipeline::record::{InForce, IncidentRecord};
use crate::pipeline::stamp::{Stamp, Tied};
use crate::pipeline::{IncidentId, LoopInfo, Mono, Notice};

pub use super::store::JournalState;

/// Notices that may wait: a storm of a large node while the disk is slow.
const QUEUE: usize = 8192;
/// Notices that are taken before the disk is waited for.
const BATCH: usize = 512;
/// Lines of one open incident: the trace, and again when it was acted on.
const TRACES: u32 = 8;

/// Where the journal is and how large it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalSettings {
    /// The folder.
    pub dir: PathBuf,
    /// Bytes of all its files.
    pub max_bytes: u64,
}

/// Tells what is in force for a target.
pub type InForceOf = Arc<dyn Fn(&LoopInfo) -> InForce + Send + Sync>;

enum Job {
    Notice(Box<Notice>),
    Delivered(Delivery, Vec<IncidentId>),
    Reload(JournalSettings, InForceOf),
    Stop,
}

/// The running journal.
#[derive(Debug)]
pub struct Journal {
    sender: JournalSender,
    thread: JoinHandle<()>,
}

/// What the thread takes out of.
pub struct JournalInbox(Receiver<Job>);

/// What the thread is made with.
pub struct Setup {
    /// Where the journal is.
    pub settings: JournalSettings,
    /// Kept up to date by the thread.
    pub state: Arc<JournalState>,
    /// Tells what is in force for a target.
    pub in_force: InForceOf,
    /// Takes notices of what was lost.
    pub tell: Box<dyn Fn(Notice) + Send>,
    /// Takes events of incidents that were not exported in time, where events are exported.
    pub events: Option<EventSink>,
}

/// Hands notices to the journal; can be cloned into any thread.
#[derive(Clone)]
pub struct JournalSender {
    jobs: SyncSender<Job>,
    queue_full: Arc<AtomicU64>,
    /// Answers about events did not fit.
    answers_missed: Arc<AtomicBool>,
}

impl JournalSender {
    /// A way in, and the end of it that the thread gets: there may be no thread yet when others need the way in.
    #[must_use]
    pub fn channel() -> (Self, JournalInbox) {
        let (jobs, inbox) = sync_channel(QUEUE);
        let sender = Self {
            jobs,
            queue_full: Arc::default(),
            answers_missed: Arc::default(),
        };
        (sender, JournalInbox(inbox))
    }

    /// Takes a notice without waiting. Where the journal is behind, it is dropped and counted.
    pub fn notice(&self, notice: &Notice) {
        let wanted = matches!(
            notice,
            Notice::StallOpened { .. }
                | Notice::StallUpdated { .. }
                | Notice::StallClosed { .. }
                | Notice::Action { .. }
                | Notice::Episode { .. }
                | Notice::Engine {
                    news: News {
                        what: EngineNews::StartupRace(_),
                        ..
                    },
                    ..
                }
        );
        if wanted
            && let Err(TrySendError::Full(_)) =
                self.jobs.try_send(Job::Notice(Box::new(notice.clone())))
        {
            self.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Who tells what became of events.
    #[must_use]
    pub fn deliveries(&self) -> Deliveries {
        let sender = self.clone();
        Arc::new(move |delivery, incidents: &[IncidentId]| {
            let answer = Job::Delivered(delivery, incidents.to_vec());
            if let Err(TrySendError::Full(_)) = sender.jobs.try_send(answer) {
                sender.answers_missed.store(true, Ordering::Release);
            }
        })
    }

    /// Puts other settings into force.
    pub fn reload(&self, settings: JournalSettings, in_force: InForceOf) {
        // Fails only when the thread is gone, which was told when it happened.
        let _ = self.jobs.send(Job::Reload(settings, in_force));
    }
}

impl fmt::Debug for JournalInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalInbox").finish_non_exhaustive()
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JournalSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalSender")
            .field("queue_full", &self.queue_full)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Starts the thread, with a way in that was made before.
    pub fn start(setup: Setup, sender: JournalSender, inbox: JournalInbox) -> io::Result<Self> {
        let run = new_run();
        let mut worker = Worker {
            run,
            in_force: setup.in_force,
            collector: Collector::new(run),
            keeper: Keeper::default(),
            traces: HashMap::new(),
            growing: BTreeSet::new(),
            store: Store::new(setup.settings, run, setup.state, setup.events),
            queue_full: sender.queue_full.clone(),
            answers_missed: sender.answers_missed.clone(),
            tell: setup.tell,
        };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || worker.run(&inbox.0))?;
        Ok(Self { sender, thread })
    }

    /// A way in for notices.
    #[must_use]
    pub fn sender(&self) -> JournalSender {
        self.sender.clone()
    }

    /// Writes what was handed in before, and ends.
    pub fn finish(self) {
        // Fails only when the thread is gone already.
        let _ = self.sender.jobs.send(Job::Stop);
        if self.thread.join().is_err() {
            log::error!("the journal's thread panicked");
        }
    }
}

struct Worker {
    run: IncidentId,
    in_force: InForceOf,
    collector: Collector,
    keeper: Keeper,
    /// Open incidents that have left lines, and how many.
    traces: HashMap<IncidentId, u32>,
    /// Open incidents without a line, by when they are long.
    growing: BTreeSet<(Mono, IncidentId)>,
    store: Store,
    queue_full: Arc<AtomicU64>,
    answers_missed: Arc<AtomicBool>,
    tell: Box<dyn Fn(Notice) + Send>,
}

impl Worker {
    fn run(&mut self, inbox: &Receiver<Job>) {
        self.store.open(now().mono);
        // What an earlier run left is not to wait for the next incident.
        self.tick(now().mono);
        loop {
            let job = match self.due() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => inbox.recv_timeout(due.since(now().mono)),
            };
            match job {
                Ok(job) => {
                    let more = inbox.try_iter().take(BATCH);
                    if !std::iter::once(job).chain(more).all(|job| self.take(job)) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tick(now().mono);
        }
        self.write_counts();
        self.store.finish(now().mono);
        self.tell_lost();
    }

    fn due(&self) -> Option<Mono> {
        let long = self.growing.first().map(|(at, _)| *at);
        [long, self.keeper.due(), self.store.due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn tick(&mut self, now: Mono) {
        while let Some(&(at, incident)) = self.growing.first()
            && at <= now
        {
            self.growing.pop_first();
            self.trace(incident);
        }
        if self.keeper.due().is_some_and(|due| due <= now) {
            self.write_counts();
        }
        if self.answers_missed.swap(false, Ordering::Acquire) {
            self.store.missed_answers();
        }
        self.store.tick(now);
        self.tell_lost();
    }

    /// False when it was the last.
    fn take(&mut self, job: Job) -> bool {
        match job {
            Job::Stop => return false,
            Job::Notice(notice) => self.notice(&notice),
            Job::Delivered(delivery, incidents) => self.store.delivered(delivery, &incidents),
            Job::Reload(settings, in_force) => {
                self.in_force = in_force;
                self.store.reload(settings, now().mono);
            }
        }
        true
    }

    fn notice(&mut self, notice: &Notice) {
        let clock = now();
        if let Notice::Engine { info, news } = notice {
            if let EngineNews::StartupRace(race) = &news.what {
                let record = RaceRecord::new(self.run, info, race, news.at, clock);
                self.store.write(line::race(&record), Some(race.incident));
            }
            return;
        }
        let in_force = &self.in_force;
        match self.collector.take(notice, clock, |info| in_force(info)) {
            Step::Nothing => {}
            Step::TooMany => self.store.lose(1),
            Step::Progress { incident, acted } => {
                let Some(record) = self.collector.record(incident) else {
                    return;
                };
                let long = (record.began_mono_ns.plus(LONG), incident);
                if acted || self.keeper.trace(record, clock.mono) {
                    self.growing.remove(&long);
                    self.trace(incident);
                } else {
                    self.growing.insert(long);
                }
            }
            Step::Closed(record) => self.closed(&record, clock.mono),
        }
    }

    /// Writes an open incident as it stands, so that an agent that is killed now leaves a trace of it.
    fn trace(&mut self, incident: IncidentId) {
        let Some(record) = self.collector.record(incident) else {
            return;
        };
        let lines = self.traces.entry(incident).or_default();
        if *lines < TRACES {
            *lines += 1;
            let line = line::incident(record, self.store.line_limit());
            self.store.write(line, None);
        }
    }

    fn closed(&mut self, record: &IncidentRecord, now: Mono) {
        self.growing
            .remove(&(record.began_mono_ns.plus(LONG), record.incident));
        let traced = self.traces.remove(&record.incident).is_some();
        if self.keeper.finished(record, traced, now) {
            let line = line::incident(record, self.store.line_limit());
            self.store.write(line, Some(record.incident));
        } else {
            self.store.counted();
        }
    }

    fn write_counts(&mut self) {
        for sum in self.keeper.counts() {
            self.store.write(line::aggregate(&sum), None);
        }
    }

    fn tell_lost(&mut self) {
        for (what, count) in [
            (
                "journal_queue_full",
                self.queue_full.swap(0, Ordering::Relaxed),
            ),
            ("journal_records", self.store.lost()),
            ("late_events", self.store.unsent()),
        ] {
            if count > 0 {
                if what == "journal_queue_full" {
                    self.store.lose_silently(count);
                }
                (self.tell)(Notice::Lost {
                    at: now().mono,
                    what: what.into(),
                    count,
                });
            }
        }
    }
}

/// A name for this run of the agent.
fn new_run() -> IncidentId {
    let unix_ms = clock::now().unix_ns / 1_000_000;
    IncidentId::new(unix_ms, fastrand::u128(..))
}

fn now() -> Tied {
    let now = clock::now();
    Tied {
        mono: now.mono,
        wall: Stamp(now.unix_ns / 1000),
    }
}
