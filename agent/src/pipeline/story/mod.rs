//! A wait episode as the policy saw it, kept so that another policy can be asked later (`replay/`).
//!
//! The rescue thread fills a story with what it has at hand anyway: the facts of each look that the policy asked for, and the
//! moments that kernel events name to the nanosecond. Nothing is read for its sake, and everything in it is bounded. It
//! must never hold a command line: what an engine is called is its executable's basename.

mod fill;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Awaited, WaitEnd, WaitOptions};
use super::ids::{Mono, NsPid, Pid};
use super::notice::{Outcome, Signal};
use super::policy::{Condition, Place};
use super::record::InForce;
use super::refusal::Refusal;

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
    /// It had left the wait at this moment, for something else in the same iteration.
    #[serde(default, skip_serializing_if = "is_false")]
    pub left: bool,
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
    /// How long the loop's cgroup was throttled in this episode, or the engine's own.
    #[serde(
        rename = "throttled_ns",
        default,
        with = "nanos",
        skip_serializing_if = "Duration::is_zero"
    )]
    pub throttled: Duration,
    /// Until when the loop had to be free, so that the kubelet would not decide to kill its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_by: Option<Mono>,
    /// Until when its pod gave the loop's process to end, where it was told to and the pod is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_by: Option<Mono>,
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
