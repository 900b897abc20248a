//! One wait episode: gather its facts, let the policy decide, act on the decision.

use std::time::Duration;

use super::loops::{Episode, Loop, Wanted};
use super::sentinel::Sentinel;
use crate::pipeline::event::Awaited;
use crate::pipeline::policy::{Decision, decide, remark};
use crate::pipeline::story::EpisodeStory;
use crate::pipeline::{Mono, Notice, Pid, Refusal, Tid};
use crate::proc;
use crate::target::cgroup::CpuStat;

/// A deadline that comes no more than this much sooner is no news: each probe makes it a little surer.
const NOTABLE: Duration = Duration::from_millis(10);

impl Sentinel {
    /// Brings the episode of a loop up to date with its record, and decides if it is time.
    pub(super) fn follow_episode(&mut self, tid: Tid, now: Mono) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let shown = watched.last.as_ref().and_then(Loop::wanted);
        let current = watched.episode.as_ref().map(|episode| episode.start);
        if shown.map(|(start, _)| start) != current {
            if let Some(over) = watched.episode.take() {
                self.end_episode(tid, over, now);
            }
            if let Some((start, wanted)) = shown {
                self.begin_episode(tid, start, wanted, now);
            }
        } else if let (Some((_, wanted)), Some(episode)) = (shown, watched.episode.as_mut()) {
            // The same wait may go on with other options: WNOHANG first, then for good.
            episode.wanted = wanted;
        }
        self.decide_episode(tid, now);
    }

    pub(super) fn begin_episode(&mut self, tid: Tid, start: Mono, wanted: Wanted, now: Mono) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let mut pidfd_child = None;
        let pid = watched.id.process.pid;
        let descriptor = match wanted {
            Wanted::Pidfd(poller) => Some(poller.fd),
            Wanted::Wait(Awaited::PidFd(fd), _) => Some(fd),
            Wanted::Wait(..) => None,
        };
        if let Some(fd) = descriptor {
            pidfd_child = proc::pidfd_target(pid, fd).ok().flatten();
            if pidfd_child.is_none() && matches!(wanted, Wanted::Pidfd(_)) {
                // A poll on a socket or pipe: no wait for a child.
                return;
            }
        }
        let older_than_agent = self.sensor.events_fd().is_none()
            || watched.adopted_busy.is_some_and(|first| start <= first)
            || start < self.started;
        let (awaited, options) = wanted.call();
        let settings = self.settings.in_force(watched.target);
        let story = EpisodeStory {
            older_than_agent,
            pidfd_child,
            ..EpisodeStory::new(watched.id.process, (start, now), awaited, settings)
        };
        watched.episode = Some(Episode {
            start,
            first_seen: now,
            older_than_agent,
            wanted,
            pidfd_child,
            // Without rules there is nothing to decide, however often it is looked at.
            next_look: settings.engine.map(|_| now),
            termed: None,
            termed_as: None,
            killed: None,
            held_until: None,
            free_by: None,
            held: false,
            engine_before: None,
            throttled_before: self.cpu_stats.get(&pid).and_then(CpuStat::throttled),
            said: std::collections::BTreeSet::new(),
            engine: None,
            story: Box::new(story),
            story_told: false,
        });
        if settings.engine.is_none() {
            self.glance(tid, options, now);
        }
    }

    /// The episode is over: the loop thread polls, has reaped, or waits for something else.
    pub(super) fn end_episode(&mut self, tid: Tid, over: Episode, now: Mono) {
        if over.engine.is_some()
            && let Some(info) = self
                .loops
                .get(&tid)
                .and_then(|watched| watched.info.clone())
        {
            self.tell(Notice::EngineWait {
                at: now,
                info,
                lasted: now.since(over.start),
            });
        }
        self.keep_story(tid, over, now);
    }

    /// The kubelet may decide sooner than was thought: what is to be done about the wait is looked at again. Nothing is gathered for it
    /// unless that is so: clients connect to a probed port, too.
    pub(super) fn hurry(&mut self, tid: Tid, now: Mono) {
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let free_by = self.free_by(watched, now);
        let Some(episode) = &watched.episode else {
            return;
        };
        let sooner =
            free_by.is_some_and(|by| episode.free_by.is_none_or(|known| by.plus(NOTABLE) < known));
        if !sooner || episode.next_look.is_none() {
            return;
        }
        if let Some(episode) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.episode.as_mut())
        {
            episode.next_look = episode.next_look.map(|next| next.min(now));
        }
        self.decide_episode(tid, now);
    }

    pub(super) fn decide_episode(&mut self, tid: Tid, now: Mono) {
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let asked = watched
            .episode
            .as_ref()
            .and_then(|episode| episode.next_look)
            .filter(|at| *at <= now && watched.info.is_some());
        let Some(asked) = asked else {
            return;
        };
        let Some(engine) = self
            .settings
            .targets
            .get(watched.target)
            .and_then(|target| target.engine)
        else {
            return;
        };
        let own = watched.id.process.pid;
        let Some((mut facts, engine_child)) = self.gather(tid, now) else {
            return;
        };
        let mut decision = decide(&facts, &engine.rules, now);
        if let Some(child) = hangs_on_container_of(&decision) {
            // Once more with what has happened while the facts were gathered, and before them: a process can be moved to another
            // container, of which no event tells.
            self.collect_events();
            self.place_anew(child);
            self.place_anew(own);
            decision = match self.gather(tid, now) {
                Some((newer, _)) => {
                    facts = newer;
                    decide(&facts, &engine.rules, now)
                }
                None => Decision::Leave,
            };
        }
        if let Some(episode) = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.episode.as_mut())
        {
            episode.held_until = facts.held_until;
            episode.free_by = facts.free_by;
            episode.engine = episode.engine.or(engine_child);
            episode.next_look = match &decision {
                Decision::Later(at) => Some(*at),
                Decision::Refuse { again, .. } => *again,
                Decision::Leave | Decision::Strike { .. } => None,
            };
        }
        match decision {
            Decision::Leave | Decision::Later(_) => {}
            Decision::Refuse {
                child,
                exe,
                signal,
                refusal,
                ..
            } => {
                // Without a child there is no line to write: the contract's line names one.
                let about = child.unwrap_or(Pid(0));
                let detail = remark(&facts, child, refusal).map(str::to_owned);
                let grace = engine.rules.grace;
                self.refused(tid, about, exe, signal, refusal, grace, detail, now);
            }
            Decision::Strike {
                child,
                exe,
                signal,
                grace,
                grace_reason,
            } => {
                let grace = (grace, grace_reason);
                self.act(tid, child, exe, signal, grace, &facts, now);
            }
        }
        // Last: nothing that is only for the journal comes before a signal.
        self.note_look(tid, &facts, asked, now);
    }
}

/// The child of a decision that holds only as long as nobody has moved it, or the loop, to another container.
fn hangs_on_container_of(decision: &Decision) -> Option<Pid> {
    match decision {
        Decision::Strike { child, .. } => Some(child.pid),
        Decision::Refuse {
            child,
            refusal: Refusal::OtherContainer,
            ..
        } => *child,
        _ => None,
    }
}
