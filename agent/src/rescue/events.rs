//! What the kernel reports, taken in.

use super::{chronicle, sentinel::Sentinel};
use crate::evidence;
use crate::kernel::clock;
use crate::pipeline::engines::Listens;
use crate::pipeline::event::{KernelEvent, What};
use crate::pipeline::family::TELLING;
use crate::pipeline::{EndedBy, Mono, PidKey};
use crate::target::scout::Question;

impl Sentinel {
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
            loops,
            pending,
            engines,
            ..
        } = self;
        sensor.drain(&mut |event| {
            chronicle::note_event(loops, family, &event);
            engines.note_event(family, &event);
            let must_read = family.apply(&event);
            pending.push_back((event, must_read));
        });
    }

    pub(super) fn take(&mut self, event: &KernelEvent, must_read: bool) {
        // A target of its own, which does not move with the code: `RUST_LOG=loopwarden::events=trace`.
        log::trace!(target: "loopwarden::events", "{event:?}");
        if let What::Exited { start_ns, .. } = event.what {
            let key = PidKey {
                pid: event.pid,
                start_ns,
            };
            self.child_ended(key, event.at);
            self.process_ended(key, event.at, EndedBy::Exit);
        }
        match &event.what {
            What::PollerSeen { poller, syscall } => self.poller_seen(event, *poller, *syscall),
            What::WaitBegan { .. } | What::WaitEnded { .. } | What::NestedPoll { .. } => {
                if let What::WaitEnded { start, how } = &event.what {
                    self.note_wait_end(event, *start, *how);
                }
                let now = clock::now();
                // A wait may be what shows that it is a loop.
                self.mend_wait(event.tid);
                self.recognise(event.tid, now);
                self.follow_episode(event.tid, now);
            }
            What::LoopPolled { since } => self.loop_polled(event.tid, *since, event.at),
            What::PollOverran { deadline } => self.loop_polled(event.tid, *deadline, event.at),
            What::Execed { exe, .. } => self.execed(event, exe, must_read),
            What::ThreadEnded => self.end_loop(event.tid, event.at, EndedBy::Exit, false),
            What::Signalled { signal, .. } if TELLING.contains(signal) => {
                // It may be an engine that nobody but a main thread that is no loop waits for.
                self.unshown_due = Mono::default();
                self.child_told(event);
                self.waited_child_told(event);
            }
            What::ProbeBegan {
                listener,
                start,
                netns,
            } => self.probe_began(event, *listener, *start, *netns),
            What::ProbeEnded {
                listener,
                start,
                netns,
                how,
            } => self.probe_ended(event, *listener, *start, (*how, *netns)),
            What::Listening { listener, place } => {
                let listens = Listens {
                    at: event.at,
                    port: *listener,
                    place: Some(*place),
                    exact: true,
                };
                self.began_to_listen(event, listens);
            }
            What::Accepted { listener } => self.accepted(event, *listener),
            What::Forked { .. } | What::Exited { .. } | What::Signalled { .. } => {}
        }
    }

    /// The parent told its child to end while it waits already, or before the news of the wait: the grace runs from now on.
    fn waited_child_told(&mut self, event: &KernelEvent) {
        let told = self.family.get(event.pid);
        let Some(told) = told.filter(|process| process.told == Some(event.at)) else {
            return;
        };
        let parent = told.parent;
        let waiting = self.loops.values_mut().filter_map(|watched| {
            let ours = watched.id.process.pid == parent;
            let episode = watched.episode.as_mut().filter(|_| ours)?;
            // Where nothing is to be looked at any more, the last word was said.
            let next = episode.next_look.as_mut()?;
            *next = event.at.min(*next);
            Some(watched.id.tid)
        });
        for tid in waiting.collect::<Vec<_>>() {
            self.decide_episode(tid, clock::now());
        }
    }

    /// A child that was told to end: when it is ending, what keeps it cannot be seen any more.
    fn child_told(&mut self, event: &KernelEvent) {
        let told = self.family.get(event.pid).filter(|process| {
            let first = process.first_told.is_some_and(|told| told.at == event.at);
            first && self.family.get(process.parent).is_some()
        });
        if told.is_some() {
            self.tell_collector(evidence::Question::Remember(event.pid));
        }
    }

    pub(super) fn execed(&mut self, event: &KernelEvent, exe: &str, known: bool) {
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
            self.engine_known(event.pid);
        }
        self.ask(Question::Look {
            pid: event.pid,
            target,
            threads: false,
        });
    }

    pub(super) fn child_ended(&mut self, child: PidKey, at: Mono) {
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
}
