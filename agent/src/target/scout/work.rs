//! The scout's thread, and what all of its threads share: one works, those that hang have been left behind.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::activity::{Activity, Reading};
use super::reader::Reader;
use super::{Answer, Candidate, Matching, Question};
use crate::pipeline::engines::Zombie;
use crate::pipeline::{Pid, PidKey};
use crate::proc;

type Reply = Box<dyn Fn(Answer) + Send + Sync>;

pub(super) struct Shared {
    /// Held by the thread that waits for a question, never while one is worked on.
    inbox: Mutex<Receiver<Question>>,
    reader: Box<dyn Reader>,
    rules: Mutex<Arc<dyn Matching>>,
    answer: Reply,
    /// Processes of which a read hangs, with their start: they are not read until it comes back.
    avoided: Mutex<HashMap<Pid, u64>>,
    /// Questions whose reads came back too late: their answers are old, so they are asked again.
    unanswered: Mutex<Vec<Question>>,
    /// Threads that hang.
    pub(super) hanging: AtomicUsize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("hanging", &self.hanging)
            .finish_non_exhaustive()
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        inbox: Receiver<Question>,
        reader: Box<dyn Reader>,
        rules: Arc<dyn Matching>,
        answer: Reply,
    ) -> Self {
        Self {
            inbox: Mutex::new(inbox),
            reader,
            rules: Mutex::new(rules),
            answer,
            avoided: Mutex::default(),
            unanswered: Mutex::default(),
            hanging: AtomicUsize::new(0),
        }
    }

    /// Leaves a thread that hangs in a read about this process behind.
    pub(super) fn leave(&self, activity: &Activity, pid: Option<Pid>) {
        self.hanging.fetch_add(1, Ordering::Relaxed);
        if let Some(pid) = pid {
            let start = self.reader.stat(pid).map_or(0, |stat| stat.start_ticks);
            lock(&self.avoided).insert(pid, start);
        }
        activity.leave(pid);
    }

    /// A thread that was left behind came back.
    fn came_back(&self, pid: Option<Pid>, question: Option<Question>) {
        self.hanging.fetch_sub(1, Ordering::Relaxed);
        if let Some(pid) = pid {
            lock(&self.avoided).remove(&pid);
        }
        lock(&self.unanswered).extend(question);
    }

    pub(super) fn take_unanswered(&self) -> Vec<Question> {
        std::mem::take(&mut lock(&self.unanswered))
    }
}

pub(super) struct Work {
    shared: Arc<Shared>,
    activity: Arc<Activity>,
    rules: Arc<dyn Matching>,
    /// Processes already matched, with their start: an id can be reused.
    appraised: HashMap<Pid, u64>,
}

impl Work {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Arc<Activity>> {
        let activity = Arc::new(Activity::default());
        let work = Self {
            shared: shared.clone(),
            activity: activity.clone(),
            rules: lock(&shared.rules).clone(),
            appraised: HashMap::new(),
        };
        std::thread::Builder::new()
            .name("scout".into())
            .spawn(move || work.run())?;
        Ok(activity)
    }

    fn run(mut self) {
        while !self.activity.is_left() {
            let Ok(question) = lock(&self.shared.inbox).recv() else {
                return;
            };
            let kept = question.clone();
            self.work_on(question);
            self.activity.rests();
            if self.activity.is_left() {
                // A scan comes every few seconds, and new rules are in force by now.
                let again = !matches!(kept, Question::Scan { .. } | Question::Rules(_));
                self.shared
                    .came_back(self.activity.left_in(), again.then_some(kept));
            }
        }
    }

    fn work_on(&mut self, question: Question) {
        match question {
            Question::Look {
                pid,
                target,
                threads,
            } => self.look(pid, target, threads),
            Question::Appraise(pid) => self.appraise(pid),
            Question::Rematch(pid) => self.rematch(pid),
            Question::Ports { pid, port } => self.ports(pid, port),
            Question::Doors(pid) => self.doors(pid),
            Question::Scan { appraise } => self.scan(appraise),
            Question::Rules(rules) => {
                (*lock(&self.shared.rules)).clone_from(&rules);
                self.rules = rules;
                self.appraised.clear();
            }
        }
    }

    fn begins(&self, pid: Pid, reading: Reading) {
        self.activity.begins(Some(pid), reading);
    }

    /// What a thread that was left behind found is old: it would undo what was learnt since.
    fn answer(&self, answer: Answer) {
        if !self.activity.is_left() {
            (self.shared.answer)(answer);
        }
    }

    /// Whether another thread hangs in a read of this process.
    fn avoids(&self, pid: Pid) -> bool {
        let Some(start) = lock(&self.shared.avoided).get(&pid).copied() else {
            return false;
        };
        self.begins(pid, Reading::Stat);
        let stat = self.shared.reader.stat(pid);
        // Of another start it is another process.
        stat.is_ok_and(|stat| stat.start_ticks == start)
    }

    fn command_line(&self, pid: Pid) -> String {
        self.begins(pid, Reading::CommandLine);
        self.shared.reader.command_line(pid).unwrap_or_default()
    }

    fn look(&mut self, pid: Pid, target: usize, threads: bool) {
        if self.avoids(pid) {
            let error = "an earlier read of it hangs".to_owned();
            return self.answer(Answer::Unreadable { pid, error });
        }
        let begins = |reading| self.begins(pid, reading);
        match self.shared.reader.look(pid, threads, &begins) {
            Ok(sighting) => {
                let command_line = self.command_line(pid);
                let engine = self.rules.is_engine(target, &sighting.exe, &command_line);
                self.begins(pid, Reading::CpuStat);
                let cpu_stat = self.shared.reader.cpu_stat(pid);
                self.answer(Answer::Seen {
                    sighting: Box::new(sighting),
                    engine,
                    threads,
                    cpu_stat,
                    version: self.rules.version(),
                });
            }
            Err(error) => self.answer(Answer::Unreadable {
                pid,
                error: error.to_string(),
            }),
        }
    }

    fn appraise(&mut self, pid: Pid) {
        if self.avoids(pid) {
            return;
        }
        self.begins(pid, Reading::Exe);
        let exe = self.shared.reader.exe_name(pid).unwrap_or_default();
        if let Some(target) = self.target_of(pid, &exe) {
            let version = self.rules.version();
            self.answer(Answer::Matched {
                pid,
                target,
                version,
            });
        }
    }

    fn target_of(&self, pid: Pid, exe: &str) -> Option<usize> {
        let command_line = self.command_line(pid);
        self.begins(pid, Reading::Container);
        let place = self.shared.reader.place(pid).unwrap_or_default();
        self.rules.target(&Candidate {
            pid,
            exe,
            command_line: &command_line,
            seat: place.seat.as_ref(),
        })
    }

    fn rematch(&mut self, pid: Pid) {
        if self.avoids(pid) {
            return;
        }
        self.begins(pid, Reading::Exe);
        // Who is ending shows nothing by which to judge, and is gone soon.
        let Ok(exe) = self.shared.reader.exe_name(pid) else {
            return;
        };
        let target = self.target_of(pid, &exe);
        let version = self.rules.version();
        self.answer(Answer::Rematched {
            pid,
            target,
            version,
        });
    }

    fn ports(&mut self, pid: Pid, port: Option<u16>) {
        if self.avoids(pid) {
            return;
        }
        self.begins(pid, Reading::Sockets);
        match self.shared.reader.holdings(pid, port) {
            Ok(holdings) => self.answer(Answer::Ports { pid, holdings }),
            // It is asked again as long as the process is there.
            Err(error) => log::debug!("the ports of process {pid} could not be read: {error}"),
        }
    }

    fn doors(&mut self, pid: Pid) {
        if self.avoids(pid) {
            return;
        }
        self.begins(pid, Reading::Sockets);
        match self.shared.reader.doors(pid) {
            Ok(doors) => self.answer(Answer::Doors { pid, doors }),
            // It is asked again as long as the process is there.
            Err(error) => log::debug!("the sockets of engine {pid} could not be read: {error}"),
        }
    }

    fn scan(&mut self, appraise: bool) {
        self.activity.begins(None, Reading::Processes);
        let pids = match self.shared.reader.processes() {
            Ok(pids) => pids,
            Err(error) => {
                log::warn!("cannot list processes: reading /proc failed: {error}");
                return;
            }
        };
        let mut found = Vec::with_capacity(pids.len());
        let mut starts = HashMap::with_capacity(pids.len());
        let mut unreaped = Vec::new();
        for pid in pids {
            self.begins(pid, Reading::Stat);
            let stat = self.shared.reader.stat(pid);
            if self.activity.is_left() {
                return;
            }
            let Ok(stat) = stat else {
                continue;
            };
            found.push((pid, stat.parent));
            if stat.state == 'Z' {
                unreaped.push(Zombie {
                    key: PidKey {
                        pid,
                        start_ns: proc::start_ns(&stat),
                    },
                    parent: stat.parent,
                });
            }
            let seen = self.appraised.get(&pid) == Some(&stat.start_ticks);
            if appraise && !seen {
                self.appraise(pid);
            }
            // What is avoided now is appraised when it can be read again.
            if seen || lock(&self.shared.avoided).get(&pid) != Some(&stat.start_ticks) {
                starts.insert(pid, stat.start_ticks);
            }
        }
        self.appraised = starts;
        self.answer(Answer::Unreaped(unreaped));
        self.answer(Answer::Scanned(found));
    }
}
