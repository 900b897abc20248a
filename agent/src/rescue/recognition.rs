//! Telling loops from other threads, with the evidence so far.

use std::sync::Arc;
use std::time::Duration;

use super::look::{away_since, waits};
use super::loops::Loop;
use super::sentinel::Sentinel;
use crate::evidence::Question;
use crate::kernel::thread_call::{Found, ThreadCall, found, thread_call};
use crate::kernel::{clock, syscalls};
use crate::pipeline::event::{Awaited, PollClass, Poller, WaitOptions};
use crate::pipeline::recognise::{Candidate, Recognised, recognise};
use crate::pipeline::{Collect, EndedBy, LoopInfo, Mode, Mono, Notice, Pid, Tid};

/// How long a thread must stay at the poller it was found in: the threads of a pool take turns much faster.
const SETTLED: Duration = Duration::from_millis(500);

impl Sentinel {
    pub(super) fn read_loop(&mut self, tid: Tid) {
        let reading = self.sensor.read(tid);
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        match reading {
            Some(reading) => watched.last = Some(reading),
            // The kernel is writing it, and may be interrupted there: its event comes from within.
            None => self.unread = true,
        }
    }

    /// Decides anew on all candidates of a process: a second thread at the same poller makes a pool of both.
    pub(super) fn recognise_process(&mut self, pid: Pid) {
        let now = clock::now();
        let tids: Vec<Tid> = self
            .loops
            .values()
            .filter(|watched| watched.id.process.pid == pid)
            .map(|watched| watched.id.tid)
            .collect();
        for tid in tids {
            self.recognise(tid, now);
        }
    }

    /// What is known of a thread, with all its polls so far.
    fn candidate_of(watched: &Loop) -> Candidate {
        Candidate {
            pollers: Self::pollers_of(watched),
            ..watched.candidate.clone()
        }
    }

    pub(super) fn pollers_of(watched: &Loop) -> Vec<(Poller, u64)> {
        let mut pollers = watched.candidate.pollers.clone();
        for (poller, count) in watched.last.iter().flat_map(|reading| &reading.pollers) {
            match pollers.iter_mut().find(|(known, _)| known == poller) {
                Some((_, known)) => *known += count,
                None => pollers.push((*poller, *count)),
            }
        }
        pollers
    }

    pub(super) fn recognise(&mut self, tid: Tid, now: Mono) {
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let pid = watched.id.process.pid;
        // A thread that was found at a pool's descriptor and has not polled since belongs to it too, even when the others are
        // not looked at any more.
        let mut shared: Vec<Poller> = self.pools.get(&pid).cloned().unwrap_or_default();
        for other in self
            .loops
            .values()
            .filter(|other| other.id.process.pid == pid && other.id.tid != tid)
        {
            shared.extend(
                Self::pollers_of(other)
                    .into_iter()
                    .map(|(poller, _)| poller),
            );
            shared.extend(other.candidate.found_in);
        }
        let mut candidate = Self::candidate_of(watched);
        candidate.shared = shared;
        candidate.wedged = candidate.leads_from_birth && self.awaits_told_engine(watched, now);
        candidate.settled = now.since(watched.adopted) >= SETTLED || stalls(watched, now);
        match recognise(&candidate) {
            Recognised::Loop(own) if watched.info.is_none() => self.recognised(tid, own, now),
            Recognised::Pool(shared) => {
                self.mark_pool(pid, shared);
                // Who polls it only besides stays what it is.
                let threads: Vec<Tid> = self
                    .loops
                    .values()
                    .filter(|other| other.id.process.pid == pid)
                    .filter(|other| Self::candidate_of(other).belongs_to(shared))
                    .map(|other| other.id.tid)
                    .collect();
                for thread in threads {
                    let leader = thread.0 == pid.0;
                    let wait = leader.then(|| self.found_wait(thread)).flatten();
                    self.end_loop(thread, now, EndedBy::Detached, true);
                    if let Some((awaited, options)) = wait {
                        // Nothing is done for it any more, which has to be said when it would have been.
                        self.found_waiting(pid, awaited, options);
                    }
                }
            }
            Recognised::Loop(_) | Recognised::Undecided => {}
        }
    }

    /// What a thread waits for that was in this wait when the agent came. Its record may not have been read yet: the other thread
    /// can show itself right after both were found.
    fn found_wait(&mut self, tid: Tid) -> Option<(Awaited, WaitOptions)> {
        self.read_loop(tid);
        let watched = self.loops.get(&tid)?;
        watched.adopted_busy?;
        if let Some(reading) = &watched.last {
            let wait = reading.wait.filter(|_| waits(reading))?;
            return Some((wait.awaited, wait.options));
        }
        match found(watched.id.process.pid, tid) {
            Found::Waiting(awaited, options) => Some((awaited, options)),
            Found::Polling(..) | Found::Else => None,
        }
    }

    /// Blocked in a wait for an engine that was told to end. Startup code may wait for other children after a first poll.
    fn awaits_told_engine(&self, watched: &Loop, now: Mono) -> bool {
        let Some(reading) = watched.last.as_ref().filter(|reading| waits(reading)) else {
            return false;
        };
        let Some((_, wanted)) = Loop::wanted(reading) else {
            return false;
        };
        let child = self.awaited_child(watched.id.process.pid, wanted, None, now);
        let engine = child.and_then(|child| self.family.get(child.pid));
        engine.is_some_and(|child| child.engine == Some(true) && child.told.is_some())
    }

    pub(super) fn recognised(&mut self, tid: Tid, own: Poller, now: Mono) {
        let Some(poller) = self
            .loops
            .get(&tid)
            .and_then(|watched| poller(watched, own, now))
        else {
            return;
        };
        self.sensor.set_own(tid, own);
        let way = self.sensor.plan().way;
        let process = self.loops.get(&tid);
        let process = process.and_then(|watched| self.family.get(watched.id.process.pid));
        let pod = process.and_then(|process| self.pod_name(process));
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let process = self.family.get(watched.id.process.pid);
        let target = self.settings.targets.get(watched.target);
        let info = Arc::new(LoopInfo {
            id: watched.id,
            slot: watched.slot,
            target: target.map(|target| target.name.clone()).unwrap_or_default(),
            exe: process
                .map(|process| process.exe.clone())
                .unwrap_or_default(),
            poller: poller.to_owned(),
            plan: way.name(),
            pod,
        });
        watched.info = Some(info.clone());
        let guarded =
            target.is_some_and(|target| target.mode == Mode::Enforce && target.engine.is_some());
        let key = watched.id.process;
        self.shown(tid, key, now);
        self.tell(Notice::Loop {
            at: now,
            info: info.clone(),
        });
        let collect = self.settings.evidence.collect;
        if collect != Collect::Off {
            self.tell_collector(Question::Prepare {
                id: info.id,
                stacks: collect == Collect::Full,
            });
        }
        if guarded {
            // Ahead of need; a refusal is named when it matters.
            self.hold_lock(key);
        }
    }
}

/// Whether a thread that has not been recognised yet is away for so long that it would be a stall.
fn stalls(watched: &Loop, now: Mono) -> bool {
    let reading = watched.last.as_ref();
    reading
        .and_then(|reading| away_since(watched, reading, now))
        .is_some_and(|since| now.since(since) >= watched.stall_after)
}

/// The name of the call a loop polls with; `None` if the next look will know better.
fn poller(watched: &Loop, own: Poller, now: Mono) -> Option<&'static str> {
    let class = match own.class {
        PollClass::Epoll => "epoll",
        PollClass::Poll => "poll",
        PollClass::Select => "select",
    };
    let reading = watched.last.as_ref();
    let mut number = reading.map_or(0, |reading| i64::from(reading.syscall));
    if number == 0 {
        number = i64::from(watched.first_call);
    }
    if number == 0 {
        // It was in its poll before any hook was there.
        if let Ok(ThreadCall::In { number: found, .. }) =
            thread_call(watched.id.process.pid, watched.id.tid)
        {
            number = found;
        }
    }
    let is_poll = syscalls::known(number).is_some_and(|name| name.contains(class));
    // It is between two polls, and enters the next one under the eyes of a hook; unless it stalls.
    if !is_poll && !stalls(watched, now) {
        return None;
    }
    let name = syscalls::known(number).filter(|name| name.contains(class));
    Some(name.unwrap_or(class))
}
