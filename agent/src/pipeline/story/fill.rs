//! Filling a story with what the rescue thread comes to know.

use std::time::Duration;

use super::{Act, Child, End, EpisodeStory, Hold, Look, Told};
use crate::pipeline::event::{Awaited, WaitOptions};
use crate::pipeline::family::Process;
use crate::pipeline::ids::{Mono, NsPid, Pid, PidKey};
use crate::pipeline::policy::{ChildFacts, Condition, Place, WaitFacts};
use crate::pipeline::record::InForce;

/// Looks kept; one stands for all that follow it and find the same.
const MOST_LOOKS: usize = 24;
/// Children kept of one look.
const MOST_CHILDREN: usize = 8;
/// Entries of each of the other lists.
const MOST: usize = 32;

impl EpisodeStory {
    /// An episode of which nothing is known yet but that it began.
    #[must_use]
    pub fn new(
        process: PidKey,
        (start, first_seen): (Mono, Mono),
        awaited: Awaited,
        settings: InForce,
    ) -> Self {
        Self {
            pid: process.pid,
            process_start_ns: process.start_ns,
            start,
            first_seen,
            older_than_agent: false,
            awaited,
            pidfd_child: None,
            settings,
            reloaded: false,
            looks: Vec::new(),
            looks_left_out: 0,
            told: Vec::new(),
            ending: Vec::new(),
            holds: Vec::new(),
            ends: Vec::new(),
            acts: Vec::new(),
            kills_before: Vec::new(),
            node_kills_before: Vec::new(),
            over: None,
            how: None,
        }
    }

    /// Takes in what a look found.
    pub fn look(&mut self, look: Look) {
        let full = self.looks.len() >= MOST_LOOKS;
        if let Some(last) = self.looks.last_mut() {
            if last.finds_the_same(&look) {
                last.until = look.at;
                last.until_asked = look.asked;
                last.held_until = look.held_until;
                return;
            }
            if full {
                // The end matters more than what lay between.
                *last = look;
                self.looks_left_out = self.looks_left_out.saturating_add(1);
                return;
            }
        }
        self.looks.push(look);
    }

    /// Takes in what kernel events have told of a process of this episode so far.
    pub fn hear(&mut self, process: &Process) {
        let pid = process.key.pid;
        if pid == self.pid {
            if let Some(at) = process.ending
                && !self.ending.contains(&at)
                && self.ending.len() < MOST
            {
                self.ending.push(at);
            }
        } else if let Some(at) = process.told
            && !self.told.iter().any(|told| told.pid == pid)
            && self.told.len() < MOST
        {
            let signal = process.told_by;
            self.told.push(Told { pid, at, signal });
        }
        if let (Some(from), until @ Some(_)) = (process.held_from, process.held_until) {
            self.hold(Hold { pid, from, until });
        }
        if let Some(from) = process.stopped.filter(|_| process.stop_shown) {
            let until = None;
            self.hold(Hold { pid, from, until });
        }
    }

    fn hold(&mut self, hold: Hold) {
        let same = |known: &&mut Hold| known.pid == hold.pid && known.from == hold.from;
        if let Some(known) = self.holds.iter_mut().find(same) {
            known.until = hold.until.or(known.until);
        } else if self.holds.len() < MOST && hold.until.is_none_or(|until| until > self.start) {
            self.holds.push(hold);
        }
    }

    /// Takes in the end of a child, if it is one of this episode.
    pub fn ended(&mut self, pid: Pid, at: Mono, status: Option<i32>) {
        let known = self.knows(pid) && !self.ends.iter().any(|end| end.pid == pid);
        if known && self.ends.len() < MOST {
            self.ends.push(End { pid, at, status });
        }
    }

    /// Takes in what was told of a decision.
    pub fn acted(&mut self, act: Act) {
        if self.acts.len() < MOST {
            self.acts.push(act);
        }
    }

    /// Whether a process is a child that a look has found.
    #[must_use]
    pub fn knows(&self, pid: Pid) -> bool {
        self.children().any(|child| child.pid == pid)
    }

    /// The loop's process and every child that a look has found, some of them more than once.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        self.children().map(|child| child.pid).chain([self.pid])
    }

    fn children(&self) -> impl Iterator<Item = &Child> {
        self.looks
            .iter()
            .flat_map(|look| &look.children)
            .flat_map(|child| std::iter::once(child).chain(&child.below))
    }
}

impl Look {
    /// What the policy was shown: when it had asked to be, and whether somebody was held.
    #[must_use]
    pub fn of(facts: &WaitFacts, held: bool, (asked, at): (Mono, Mono)) -> Self {
        let children = facts.children.iter();
        Self {
            asked: asked.min(at),
            at,
            until: at,
            until_asked: asked.min(at),
            unread: false,
            options: facts.options,
            left: !facts.waits,
            own_group: facts.own_group,
            loop_thread: facts.loop_thread,
            loop_condition: facts.loop_condition,
            children: children.take(MOST_CHILDREN).map(Child::from).collect(),
            children_left_out: left_out(facts.children.len()),
            held,
            held_until: facts.held_until,
            throttled: facts.throttled,
            free_by: facts.free_by,
            ends_by: facts.ends_by,
            other_enforcer: facts.guards.other_enforcer,
            no_pid_namespace: facts.guards.no_pid_namespace,
        }
    }

    /// What is known without reading anything, where no rules ask for more.
    #[must_use]
    pub fn glance(children: &[(&Process, Place)], options: WaitOptions, at: Mono) -> Self {
        Self {
            asked: at,
            at,
            until: at,
            until_asked: at,
            unread: true,
            options,
            left: false,
            own_group: None,
            loop_thread: true,
            loop_condition: Condition::Free,
            children: children
                .iter()
                .take(MOST_CHILDREN)
                .map(Child::glance)
                .collect(),
            children_left_out: left_out(children.len()),
            held: false,
            held_until: None,
            throttled: Duration::ZERO,
            free_by: None,
            ends_by: None,
            other_enforcer: false,
            no_pid_namespace: false,
        }
    }

    fn finds_the_same(&self, later: &Look) -> bool {
        let timeless = |look: &Look| Look {
            asked: Mono(0),
            at: Mono(0),
            until: Mono(0),
            until_asked: Mono(0),
            // Grows with every look while somebody is held.
            held_until: look.held_until.filter(|_| !look.held),
            ..look.clone()
        };
        timeless(self) == timeless(later)
    }
}

fn left_out(children: usize) -> u32 {
    u32::try_from(children.saturating_sub(MOST_CHILDREN)).unwrap_or(u32::MAX)
}

impl Child {
    fn glance((process, place): &(&Process, Place)) -> Self {
        Self {
            pid: process.key.pid,
            start_ns: process.key.start_ns,
            ns_pid: process
                .ns_pid
                .and_then(|number| u32::try_from(number).ok())
                .map(NsPid),
            group: None,
            exe: process.exe.clone(),
            engine: process.engine,
            place: *place,
            condition: Condition::Free,
            told_unseen: false,
            below: Vec::new(),
        }
    }
}

impl From<&ChildFacts> for Child {
    fn from(facts: &ChildFacts) -> Self {
        let below = facts.engines_below.iter();
        Self {
            pid: facts.key.pid,
            start_ns: facts.key.start_ns,
            ns_pid: facts.ns_pid,
            group: facts.group,
            exe: facts.exe.clone(),
            engine: facts.engine,
            place: facts.place,
            condition: facts.condition,
            told_unseen: facts.told_unseen,
            below: below.take(MOST_CHILDREN).map(Child::from).collect(),
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
