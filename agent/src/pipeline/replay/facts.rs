//! The facts of a wait episode at any moment, made of what was recorded of it.
//!
//! Kernel events have their own times, so who was told to end, stopped or gone is known for every moment. The rest is known
//! at looks: between two of them the earlier one holds, but for what was still being read at the earlier one.

use std::time::Duration;

use super::{Alternative, Incident};
use crate::pipeline::event::Awaited;
use crate::pipeline::ids::{Mono, Pid, PidKey};
use crate::pipeline::policy::{ChildFacts, Condition, Guards, Place, WaitFacts};
use crate::pipeline::story::{Child, EpisodeStory, Look};

/// One episode, and what is tried on it.
pub(super) struct Timeline<'a> {
    pub(super) incident: &'a Incident,
    pub(super) story: &'a EpisodeStory,
    pub(super) alternative: &'a dyn Alternative,
    /// From then on, ends of children are the agent's own doing, and did not happen in the imagined course.
    pub(super) our_doing: Option<Mono>,
}

/// Whether somebody was stopped or frozen at a look, and the last time that anybody was.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    held: bool,
    until: Option<Mono>,
}

impl<'a> Timeline<'a> {
    /// The look that holds at a moment, and its place among the looks.
    pub(super) fn look_at(&self, at: Mono) -> Option<(usize, &'a Look)> {
        let looks = self.story.looks.iter().enumerate();
        let held = looks.rev().find(|(_, look)| look.at <= at);
        held.or_else(|| self.story.looks.iter().enumerate().next())
    }

    /// The facts as the policy would have been shown them, and whether somebody was held. `before` is what the look before
    /// this one found of that.
    pub(super) fn facts(
        &self,
        at: Mono,
        termed: Option<Mono>,
        before: Held,
        guards: Guards,
    ) -> Option<(WaitFacts, Held)> {
        let story = self.story;
        let (index, look) = self.look_at(at)?;
        let next = story.looks.get(index + 1).filter(|_| at > look.until);
        let held = self.is_held(look, at);
        // What the first look found is from before the wait. Later ones say when the agent came to know, not when it was.
        let earlier = look.held_until.filter(|until| index == 0 && *until <= at);
        let mut held_until = before.until.max(earlier);
        for pid in self.concerned(look) {
            let holds = story.holds.iter().filter(|hold| hold.pid == pid);
            let untils = holds.filter_map(|hold| hold.until);
            held_until = held_until.max(untils.filter(|until| *until <= at).max());
        }
        // Up to this look if it was held at the last one: it was set free somewhere in between.
        if held || before.held {
            held_until = Some(at);
        }
        let found = Held {
            held,
            until: held_until,
        };
        let children = look.children.iter();
        let alive = children.filter(|child| !self.has_ended(child.pid, at));
        let facts = WaitFacts {
            start: story.start,
            first_seen: story.first_seen,
            older_than_agent: story.older_than_agent,
            awaited: story.awaited,
            options: look.options,
            waits: !look.left,
            pidfd_child: story.pidfd_child,
            own_group: look.own_group,
            loop_thread: look.loop_thread,
            loop_condition: self.condition(story.pid, look.loop_condition, look, at),
            target_ending: story
                .ending
                .iter()
                .copied()
                .filter(|told| *told <= at)
                .max(),
            ends_by: look.ends_by,
            children: alive
                .map(|child| self.child(child, look, next, at))
                .collect(),
            held_until,
            throttled: throttled(look, story.looks.get(index + 1), at),
            termed,
            free_by: look.free_by,
            guards,
        };
        Some((facts, found))
    }

    fn child(&self, child: &Child, look: &Look, next: Option<&Look>, at: Mono) -> ChildFacts {
        let later = next.and_then(|next| {
            let children = next.children.iter();
            let mut all = children.flat_map(|child| std::iter::once(child).chain(&child.below));
            all.find(|later| later.pid == child.pid && later.start_ns == child.start_ns)
        });
        // What was being read at one look had been read by the next.
        let engine = self
            .alternative
            .engine(self.incident, child)
            .or_else(|| self.alternative.engine(self.incident, later?));
        let place = match (child.place, later) {
            (Place::Unknown, Some(later)) => later.place,
            (Place::Unknown, None) if look.unread => Place::Same,
            (place, _) => place,
        };
        let told = self.story.told.iter().find(|told| told.pid == child.pid);
        let below = child.below.iter().filter(|engine| {
            !self.has_ended(engine.pid, at)
                && self.alternative.engine(self.incident, engine) == Some(true)
        });
        ChildFacts {
            key: PidKey {
                pid: child.pid,
                start_ns: child.start_ns,
            },
            ns_pid: child.ns_pid,
            group: child.group,
            exe: child.exe.clone(),
            engine,
            told: told.map(|told| told.at).filter(|told| *told <= at),
            seen_born: true,
            told_unseen: child.told_unseen,
            place,
            condition: self.condition(child.pid, child.condition, look, at),
            state: "",
            engines_below: below
                .map(|engine| self.child(engine, look, next, at))
                .collect(),
        }
    }

    fn has_ended(&self, pid: Pid, at: Mono) -> bool {
        let before = |end: Mono| end <= at && self.our_doing.is_none_or(|ours| end < ours);
        self.story
            .ends
            .iter()
            .any(|end| end.pid == pid && before(end.at))
    }

    fn condition(&self, pid: Pid, found: Condition, look: &Look, at: Mono) -> Condition {
        match found {
            Condition::Free if self.is_stopped(pid, at) => Condition::Held,
            Condition::Held if self.is_released(pid, look, at) => Condition::Free,
            other => other,
        }
    }

    fn is_stopped(&self, pid: Pid, at: Mono) -> bool {
        let spans = |until: Option<Mono>| until.is_none_or(|until| at < until);
        let mut holds = self.story.holds.iter();
        holds.any(|hold| hold.pid == pid && hold.from <= at && spans(hold.until))
    }

    /// Stopped at the look, and continued since.
    fn is_released(&self, pid: Pid, look: &Look, at: Mono) -> bool {
        let since = |until: Mono| until > look.until && until <= at;
        let mut holds = self.story.holds.iter().filter(|hold| hold.pid == pid);
        holds.any(|hold| hold.from <= look.until && hold.until.is_some_and(since))
    }

    fn is_held(&self, look: &'a Look, at: Mono) -> bool {
        let concerned = || self.concerned(look);
        let released = concerned().any(|pid| self.is_released(pid, look, at));
        (look.held && !released) || concerned().any(|pid| self.is_stopped(pid, at))
    }

    /// The loop's process, and whom it waits for.
    fn concerned(&self, look: &'a Look) -> impl Iterator<Item = Pid> {
        let awaited = look.children.iter().filter(|child| self.is_awaited(child));
        let all = awaited.flat_map(|child| std::iter::once(child).chain(&child.below));
        all.map(|child| child.pid).chain([self.story.pid])
    }

    fn is_awaited(&self, child: &Child) -> bool {
        match self.story.awaited {
            Awaited::Process(number) => child.ns_pid.map(|ns| ns.0) == u32::try_from(number).ok(),
            Awaited::PidFd(_) => Some(child.pid) == self.story.pidfd_child,
            Awaited::Any | Awaited::Group(_) => true,
        }
    }
}

/// Between two looks it grew evenly, as far as anybody knows.
fn throttled(look: &Look, next: Option<&Look>, at: Mono) -> Duration {
    let Some(next) = next.filter(|_| at > look.until) else {
        return look.throttled;
    };
    let whole = next.at.since(look.until).as_secs_f64();
    let part = (at.since(look.until).as_secs_f64() / whole).clamp(0.0, 1.0);
    let grown = next.throttled.saturating_sub(look.throttled);
    look.throttled + grown.mul_f64(if part.is_finite() { part } else { 1.0 })
}
