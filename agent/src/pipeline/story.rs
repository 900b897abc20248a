//! A wait episode as the policy saw it, kept so that another policy can be asked later (`replay/`).
//!
//! The rescue thread fills a story with what it has at hand anyway: the facts of each look that the policy asked for, and the
//! moments that kernel events name to the nanosecond. Nothing is read for its sake, and everything in it is bounded. It
//! must never hold a command line: what an engine is called is its executable's basename.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Awaited, WaitEnd, WaitOptions};
use super::family::Process;
use super::ids::{Mono, NsPid, Pid, PidKey};
use super::notice::{Outcome, Signal};
use super::policy::{ChildFacts, Condition, Place, WaitFacts};
use super::record::InForce;
use super::refusal::Refusal;

/// Looks kept; one stands for all that follow it and find the same.
const MOST_LOOKS: usize = 24;
/// Children kept of one look.
const MOST_CHILDREN: usize = 8;
/// Entries of each of the other lists.
const MOST: usize = 32;

/// A wait episode from its first entry to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeStory {
    /// The loop's process.
    pub pid: Pid,
    /// When that started, nanoseconds since boot.
    pub process_start_ns: u64,
    /// First entry of the episode.
    pub start: Mono,
    /// When the agent first saw it.
    pub first_seen: Mono,
    /// It is older than the agent.
    pub older_than_agent: bool,
    /// What was awaited.
    pub awaited: Awaited,
    /// The child behind an awaited pidfd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pidfd_child: Option<Pid>,
    /// The rules that were in force when it began.
    pub settings: InForce,
    /// Other rules came into force before it ended.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reloaded: bool,
    /// What was found, in order of time.
    pub looks: Vec<Look>,
    /// Looks that there was no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub looks_left_out: u32,
    /// Who was told to end by the loop's process, the first time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<Told>,
    /// When anybody told the loop's process to end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ending: Vec<Mono>,
    /// Who was stopped by a signal from when until when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
    /// Which children ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<End>,
    /// What was done, and what was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
    /// Kills that the budget of the process counted when the episode began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kills_before: Vec<Mono>,
    /// Kills that the budget of the node counted then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_kills_before: Vec<Mono>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Mono>,
    /// How, where the kernel told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<WaitEnd>,
}

/// What one look found, and all that followed it without finding anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the record, true for a reason of its own"
)]
pub struct Look {
    /// The moment for which the policy had asked.
    pub asked: Mono,
    /// The moment of the look.
    pub at: Mono,
    /// The last look that found the same …
    pub until: Mono,
    /// … and the moment for which the policy had asked for that one.
    pub until_asked: Mono,
    /// Nothing was read, because no rules were in force: conditions are assumed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unread: bool,
    /// How the thread waits.
    pub options: WaitOptions,
    /// The loop's own process group, as its process numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_group: Option<i32>,
    /// The thread is shown to be a loop thread.
    pub loop_thread: bool,
    /// The loop's process.
    pub loop_condition: Condition,
    /// Its live children.
    pub children: Vec<Child>,
    /// Children that there was no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub children_left_out: u32,
    /// Somebody was stopped or frozen.
    #[serde(default, skip_serializing_if = "is_false")]
    pub held: bool,
    /// Somebody was last seen stopped or frozen then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Mono>,
    /// How long the loop's cgroup was throttled in this episode.
    #[serde(
        rename = "throttled_ns",
        default,
        with = "nanos",
        skip_serializing_if = "Duration::is_zero"
    )]
    pub throttled: Duration,
    /// Another agent enforced on this process.
    #[serde(default, skip_serializing_if = "is_false")]
    pub other_enforcer: bool,
    /// Ids could not be told apart.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_pid_namespace: bool,
}

/// A child as a look found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its id.
    pub pid: Pid,
    /// When it started, nanoseconds since boot.
    pub start_ns: u64,
    /// Its number as the loop's process sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<NsPid>,
    /// Its process group, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<i32>,
    /// Basename of its executable.
    pub exe: String,
    /// Whether the rules in force made it an engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<bool>,
    /// Where it runs.
    pub place: Place,
    /// Whether it runs.
    pub condition: Condition,
    /// A signal of before the agent's time, which tells it to end, was pending.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told_unseen: bool,
    /// Engines below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<Child>,
}

/// The loop's process told a child to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Whom.
    pub pid: Pid,
    /// When.
    pub at: Mono,
    /// With which signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// A process was stopped by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Which.
    pub pid: Pid,
    /// From then …
    pub from: Mono,
    /// … until then, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Mono>,
}

/// A child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Which.
    pub pid: Pid,
    /// When.
    pub at: Mono,
    /// Its status as wait sees it, where the kernel told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
}

/// What was told of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// When.
    pub at: Mono,
    /// About which child; 0 where none could be named.
    pub child: Pid,
    /// Which signal.
    pub signal: Signal,
    /// What became of it.
    pub outcome: Done,
    /// Which guard refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_by: Option<Refusal>,
}

/// What became of an action, by the words of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The signal was sent.
    Sent,
    /// Observe mode: it would have been sent.
    WouldSend,
    /// A guard refused.
    Refused,
    /// The call failed.
    Failed,
    /// The child was gone already.
    Gone,
    /// It was sent, and the child did not end.
    Ineffective,
}

impl Done {
    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Done::Sent => "sent",
            Done::WouldSend => "would_send",
            Done::Refused => "refused",
            Done::Failed => "failed",
            Done::Gone => "gone",
            Done::Ineffective => "ineffective",
        }
    }
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Sent => Done::Sent,
            Outcome::WouldSend => Done::WouldSend,
            Outcome::Refused(_) => Done::Refused,
            Outcome::Failed => Done::Failed,
            Outcome::Gone => Done::Gone,
            Outcome::Ineffective => Done::Ineffective,
        }
    }
}

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
        if let Some(from) = process.stopped {
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
            own_group: facts.own_group,
            loop_thread: facts.loop_thread,
            loop_condition: facts.loop_condition,
            children: children.take(MOST_CHILDREN).map(Child::from).collect(),
            children_left_out: left_out(facts.children.len()),
            held,
            held_until: facts.held_until,
            throttled: facts.throttled,
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Spans as whole nanoseconds.
mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        span: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::notice::Mode;

    fn story() -> EpisodeStory {
        let process = PidKey {
            pid: Pid(10),
            start_ns: 1,
        };
        let settings = InForce {
            mode: Mode::Enforce,
            ..InForce::default()
        };
        EpisodeStory::new(process, (Mono(5), Mono(5)), Awaited::Process(7), settings)
    }

    fn look(at: u64, held: bool) -> Look {
        Look {
            held,
            held_until: held.then_some(Mono(at)),
            ..Look::glance(&[], WaitOptions::default(), Mono(at))
        }
    }

    #[test]
    fn looks_that_find_the_same_are_one() {
        let mut story = story();
        for at in 10..20 {
            story.look(look(at, true));
        }
        story.look(look(30, false));
        assert_eq!(story.looks.len(), 2);
        let first = &story.looks[0];
        assert_eq!(
            (first.at, first.until, first.held_until),
            (Mono(10), Mono(19), Some(Mono(19)))
        );
    }

    #[test]
    fn a_story_is_bounded_and_keeps_its_end() {
        let mut story = story();
        for at in 0..1000 {
            story.look(look(at, at % 2 == 0));
            story.hold(Hold {
                pid: Pid(20),
                from: Mono(at),
                until: None,
            });
            story.acted(Act {
                at: Mono(at),
                child: Pid(20),
                signal: Signal::Kill,
                outcome: Done::Failed,
                refused_by: None,
            });
        }
        assert_eq!(story.looks.len(), MOST_LOOKS);
        assert_eq!(story.looks.last().unwrap().at, Mono(999));
        assert!(story.looks_left_out > 900);
        assert_eq!((story.holds.len(), story.acts.len()), (MOST, MOST));
    }

    #[test]
    fn a_story_is_read_as_it_was_written() {
        let mut story = story();
        story.look(look(10, true));
        story.pidfd_child = Some(Pid(20));
        story.over = Some(Mono(50));
        let text = serde_json::to_string(&story).unwrap();
        assert_eq!(serde_json::from_str::<EpisodeStory>(&text).unwrap(), story);
    }
}
