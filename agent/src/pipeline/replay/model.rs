//! A model of the agent, which lives through one wait under given rules and writes down what it saw.
//!
//! It does what `rescue/` does: looks when the policy asks for it and a little late, gathers facts from what the kernel has
//! told so far, and writes the story. It only observes, so that the rest of the wait is known.

use std::time::Duration;

use super::*;
use crate::pipeline::NsPid;
use crate::pipeline::event::{Awaited, WaitOptions};
use crate::pipeline::family::Process;
use crate::pipeline::ids::PidKey;
use crate::pipeline::policy::{ChildFacts, Condition, Decision, Guards, Place, WaitFacts, decide};
use crate::pipeline::story::{Act, Look};

const START: Mono = Mono(100_000_000_000);
const LOOP: Pid = Pid(10);
const CHILD: PidKey = PidKey {
    pid: Pid(20),
    start_ns: 5,
};

/// What happens in one wait, in milliseconds after its start. Offsets differ from kind to kind, so that nothing coincides.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) told: Option<i64>,
    pub(super) held: Option<(i64, i64)>,
    pub(super) ending: Option<i64>,
    pub(super) end: i64,
    pub(super) older: bool,
    pub(super) is_engine: bool,
    pub(super) traced: bool,
    /// From when on it is known until when the loop has to be free.
    pub(super) hurry: Option<(i64, i64)>,
}

fn moment(ms: i64) -> Mono {
    let ns = i64::try_from(START.0).unwrap() + ms * 1_000_000;
    Mono(u64::try_from(ns).unwrap())
}

impl World {
    /// What the kernel has told of the child by then.
    fn child(&self, now: Mono) -> Process {
        let past = |ms: i64| Some(moment(ms)).filter(|at| *at <= now);
        let mut child = Process::found(CHILD, LOOP, 0, false);
        child.told = self.told.and_then(past);
        if let Some((from, until)) = self.held {
            child.stopped = past(from);
            child.stop_shown = child.stopped.is_some();
            if let Some(until) = past(until) {
                child.held_from = child.stopped.take();
                child.held_until = Some(until);
            }
        }
        child
    }

    fn free_by(&self, now: Mono) -> Option<Mono> {
        let (_, by) = self.hurry.filter(|(known, _)| moment(*known) <= now)?;
        Some(moment(by))
    }

    fn parent(&self, now: Mono) -> Process {
        let key = PidKey {
            pid: LOOP,
            start_ns: 1,
        };
        let mut parent = Process::found(key, Pid(1), 0, true);
        parent.ending = self.ending.map(moment).filter(|at| *at <= now);
        parent
    }

    fn facts(&self, now: Mono, held_until: Option<Mono>, termed: Option<Mono>) -> WaitFacts {
        let child = self.child(now);
        let condition = match child.stopped {
            _ if self.traced => Condition::Traced,
            Some(_) => Condition::Held,
            None => Condition::Free,
        };
        WaitFacts {
            start: START,
            first_seen: START,
            older_than_agent: self.older,
            awaited: Awaited::Process(7),
            options: WaitOptions::default(),
            waits: true,
            pidfd_child: None,
            own_group: None,
            loop_thread: true,
            loop_condition: Condition::Free,
            target_ending: self.parent(now).ending,
            ends_by: None,
            children: vec![ChildFacts {
                key: CHILD,
                ns_pid: Some(NsPid(7)),
                group: None,
                exe: "engine".into(),
                engine: Some(self.is_engine),
                told: child.told,
                seen_born: true,
                told_unseen: false,
                state: "",
                place: Place::Same,
                condition,
                engines_below: Vec::new(),
            }],
            held_until,
            throttled: Duration::ZERO,
            termed,
            free_by: self.free_by(now),
            guards: Guards::default(),
        }
    }

    /// What the agent would write down, with looks that are late by that much.
    pub(super) fn lived(&self, settings: InForce, late: Duration) -> Incident {
        let process = PidKey {
            pid: LOOP,
            start_ns: 1,
        };
        let mut story = EpisodeStory {
            older_than_agent: self.older,
            ..EpisodeStory::new(process, (START, START), Awaited::Process(7), settings)
        };
        let rules = settings.engine.unwrap().rules();
        let (mut next, mut was_held, mut held_until, mut termed) = (Some(START), false, None, None);
        let mut said = std::collections::BTreeSet::new();
        while let Some(asked) = next {
            let now = asked.plus(late);
            if now >= moment(self.end) {
                break;
            }
            let child = self.child(now);
            let held = child.stopped.is_some();
            held_until = held_until.max(child.held_until);
            if held || was_held {
                held_until = Some(now);
            }
            was_held = held;
            let facts = self.facts(now, held_until, termed);
            story.look(Look::of(&facts, held, (asked, now)));
            story.hear(&child);
            story.hear(&self.parent(now));
            let mut act = |signal, outcome, child, refused_by| {
                story.acted(Act {
                    at: now,
                    child,
                    signal,
                    outcome,
                    refused_by,
                });
            };
            next = match decide(&facts, &rules, now) {
                Decision::Leave => None,
                Decision::Later(at) => Some(at),
                Decision::Refuse {
                    child,
                    signal,
                    refusal,
                    again,
                    ..
                } => {
                    if said.insert(refusal) {
                        let child = child.unwrap_or(Pid(0));
                        act(signal, Done::Refused, child, Some(refusal));
                    }
                    again
                }
                Decision::Strike { child, signal, .. } => {
                    act(signal, Done::WouldSend, child.pid, None);
                    termed = Some(now);
                    let soon = rules.grace.min(Duration::from_millis(50));
                    (signal == Signal::Term).then(|| now.plus(soon))
                }
            };
            // Who is told meanwhile is looked at then, and so is who has less time than was thought.
            let told = self.told.map(moment);
            let hurried = self.hurry.map(|(known, _)| moment(known));
            for news in [told, hurried].into_iter().flatten() {
                if news > now {
                    next = next.map(|next| next.min(news));
                }
            }
        }
        let over = moment(self.end);
        story.hear(&self.child(over));
        story.hear(&self.parent(over));
        story.ended(CHILD.pid, over, Some(0));
        story.over = Some(over);
        let story_end = over.plus(Duration::from_millis(1));
        Incident {
            id: "1".into(),
            began: Stamp(1_700_000_000_000_000),
            pid: LOOP,
            target: "t".into(),
            exe: "python3".into(),
            cause: CauseKind::ChildWait,
            since: START,
            end: story_end,
            ended_by: EndedBy::Poll,
            is_lower_bound: false,
            settings,
            episodes: vec![story],
            unreplayable: None,
        }
    }
}
