//! Which threads get a record: those found in a poll or away from one, and those seen polling. And how that ends.

use std::time::Duration;

use super::loops::Loop;
use super::sentinel::Sentinel;
use crate::kernel::thread_call::{Found, found};
use crate::kernel::{Adoption, clock};
use crate::pipeline::event::{Beat, KernelEvent, Poller, WaitReading};
use crate::pipeline::{EndedBy, LoopId, LoopTotals, Mono, Notice, Pid, PidKey, Tid};
use crate::target::sight::Sighting;

impl Sentinel {
    /// Gives records to threads that were inside a poll when the agent came, and to a leader that was away from one.
    pub(super) fn adopt_threads(&mut self, key: PidKey, target: usize, sighting: &Sighting) {
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
                    last: now,
                    gap: Duration::ZERO,
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
        } else if let Some(Found::Waiting(awaited, options)) = leader_found {
            self.found_waiting(key.pid, awaited, options);
        }
    }

    pub(super) fn adopt(
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
        let mut watched = Loop::new(
            LoopId { process: key, tid },
            target,
            slot,
            stall_after,
            clock::now(),
        );
        watched.candidate.found_in = own;
        self.loops.insert(tid, watched);
    }

    pub(super) fn poller_seen(&mut self, event: &KernelEvent, poller: Poller, syscall: u32) {
        let Some(process) = self.family.get(event.pid) else {
            return;
        };
        let (key, target) = (process.key, process.target);
        let leads_from_birth = process.seen_born && event.tid.0 == event.pid.0;
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
            watched.candidate.leads_from_birth = leads_from_birth;
            watched.first_call = syscall;
        }
        self.mend_wait(event.tid);
        self.recognise_process(event.pid);
        self.follow_episode(event.tid, clock::now());
    }

    /// A thread may have left its first poll, and entered a wait, before it had a record: then the record still shows it
    /// inside the poll, and perhaps no wait.
    pub(super) fn mend_wait(&mut self, tid: Tid) {
        self.read_loop(tid);
        let Some(watched) = self
            .loops
            .get(&tid)
            .filter(|watched| watched.info.is_none())
        else {
            return;
        };
        let (id, target) = (watched.id, watched.target);
        let Some(Beat::Polling { .. }) = watched.last.as_ref().map(|reading| reading.beat) else {
            return;
        };
        let wait = match watched.last.as_ref().and_then(|reading| reading.wait) {
            // A poll ends the waits before it: it was left unseen.
            Some(wait) => wait,
            None => match found(id.process.pid, tid) {
                Found::Waiting(awaited, options) => {
                    let now = clock::now();
                    WaitReading {
                        start: now,
                        call: Some(now),
                        last: now,
                        gap: Duration::ZERO,
                        calls: 1,
                        awaited,
                        options,
                    }
                }
                _ => return,
            },
        };
        let Some(before) = self.loops.remove(&tid) else {
            return;
        };
        self.sensor.release(tid, false);
        let beat = Beat::Busy { since: wait.start };
        self.adopt(id.process, tid, target, None, beat, Some(wait));
        if let Some(watched) = self.loops.get_mut(&tid) {
            watched.candidate = before.candidate;
            watched.first_call = before.first_call;
        }
        self.read_loop(tid);
    }

    pub(super) fn mark_pool(&mut self, pid: Pid, poller: Poller) {
        let pools = self.pools.entry(pid).or_default();
        if !pools.contains(&poller) {
            pools.push(poller);
        }
    }

    /// Ends watching of one thread.
    pub(super) fn end_loop(&mut self, tid: Tid, at: Mono, how: EndedBy, ignore: bool) {
        let Some(episode) = self
            .loops
            .get_mut(&tid)
            .map(|watched| watched.episode.take())
        else {
            return;
        };
        if let Some(episode) = episode {
            self.end_episode(tid, episode, at);
        }
        self.close_stall(tid, at, how);
        let Some(watched) = self.loops.remove(&tid) else {
            return;
        };
        let totals: LoopTotals = self
            .sensor
            .totals()
            .totals(watched.slot)
            .unwrap_or_default();
        self.sensor.release(tid, ignore);
        if let Some(info) = watched.info {
            self.tell(Notice::LoopEnded {
                at,
                info,
                totals,
                ended_by: how,
            });
        }
    }
}
