//! The record of an incident, as the journal keeps it: everything that was told of it, in one value.
//!
//! Plain data, versioned. A reader takes fields that it does not know without complaint, and every field that came after the first
//! version has a default; `v` is raised only when an old reader would misunderstand. `collect` builds records from notices, the
//! journal (`export/journal`) writes and reads them, and `incidents` and `replay` show them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::{Cause, CauseKind};
use super::evidence::Evidence;
use super::ids::{IncidentId, Mono, Pid, Tid};
use super::liveness::Outlook;
use super::notice::{EndedBy, GraceReason, LoopInfo, Mode, Signal};
use super::pod::PodName;
use super::policy::EngineRules;
use super::refusal::Refusal;
use super::stamp::{Stamp, millis};
use super::story::EpisodeStory;

/// The version that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// One incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncidentRecord {
    /// Version of the format.
    pub v: u32,
    /// Its name.
    pub incident: IncidentId,
    /// The run of the agent that saw it: an incident that is open in a run that has ended was never finished.
    pub run: IncidentId,
    /// Whether it lasts.
    pub state: State,
    /// The loop.
    pub who: Who,
    /// When the loop left its poller, as far as it was seen.
    pub began: Stamp,
    /// The same on the events' clock, which starts with the machine.
    pub began_mono_ns: Mono,
    /// When the stall was noticed.
    pub opened: Stamp,
    /// The loop was away before the agent came: `began` is when it was first seen so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub began_earlier: bool,
    /// What was in force when it opened.
    pub settings: InForce,
    /// What it was stuck on: at the end, or at the last news; of a rescue, when the signal was sent.
    pub cause: Cause,
    /// All kinds of cause that it had, longest first, and for how long.
    #[serde(default)]
    pub causes: Vec<Share>,
    /// What happened, in order.
    #[serde(default)]
    pub timeline: Vec<Entry>,
    /// Entries of the timeline that were left out in its middle.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeline_left_out: u64,
    /// What was found out beside the quick look, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Capture>,
    /// Signals sent, not sent, refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
    /// What the policy was shown of its wait episodes, for `replay`; absent before there was `replay`, and while it lasts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub episodes: Vec<EpisodeStory>,
    /// How it ended; absent while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<End>,
    /// What was cut off to keep the record small.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<String>,
}

/// Whether an incident lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It lasts, or the agent ended while it lasted.
    Open,
    /// It is over, and the record complete.
    Closed,
}

/// A loop and its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The configured target.
    pub target: String,
    /// Basename of the executable.
    pub exe: String,
    /// The process, on the host.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// When the process started, nanoseconds since boot.
    pub start_ns: u64,
    /// The call it polls with.
    #[serde(default)]
    pub poller: String,
    /// How it was watched: `fentry`, `tracepoint` or `sampling`.
    #[serde(default)]
    pub plan: String,
    /// The pod and container it ran in, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

impl From<&LoopInfo> for Who {
    fn from(info: &LoopInfo) -> Self {
        Self {
            target: info.target.clone(),
            exe: info.exe.clone(),
            pid: info.id.process.pid,
            tid: info.id.tid,
            start_ns: info.id.process.start_ns,
            poller: info.poller.clone(),
            plan: info.plan.to_owned(),
            pod: info.pod.clone(),
        }
    }
}

/// The settings that held for a loop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct InForce {
    /// Whether signals are sent.
    pub mode: Mode,
    /// From which length on an iteration is a stall.
    #[serde(rename = "stall_after_ms", with = "millis")]
    pub stall_after: Duration,
    /// How engines are treated; without, nothing is ever signalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineInForce>,
    /// Pause of a loop process after an action.
    #[serde(rename = "pause_ms", with = "millis", default)]
    pub pause: Duration,
    /// Kills that the node allows …
    #[serde(default)]
    pub node_kills: u32,
    /// … in so much time.
    #[serde(rename = "node_kills_per_ms", with = "millis", default)]
    pub node_kills_per: Duration,
}

/// How engines of a target were treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInForce {
    /// Time a told engine has to end.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
    /// The same where it is unknown who told it.
    #[serde(rename = "unknown_grace_ms", with = "millis")]
    pub unknown_grace: Duration,
    /// The same where nobody told it; absent is never.
    #[serde(
        rename = "untold_grace_ms",
        with = "millis::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub untold_grace: Option<Duration>,
    /// Signal the engine behind a wrapper.
    #[serde(default)]
    pub through_wrapper: bool,
    /// Kills of one loop process that are allowed …
    #[serde(default)]
    pub max_kills: u32,
    /// … in so much time.
    #[serde(rename = "max_kills_per_ms", with = "millis", default)]
    pub max_kills_per: Duration,
}

impl EngineInForce {
    /// The rules that the policy takes.
    #[must_use]
    pub fn rules(&self) -> EngineRules {
        EngineRules {
            grace: self.grace,
            unknown_grace: self.unknown_grace,
            untold_grace: self.untold_grace,
            through_wrapper: self.through_wrapper,
        }
    }
}

/// One kind of cause and its part in the stall.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Which.
    pub kind: CauseKind,
    /// How long it was the cause.
    #[serde(rename = "lasted_ms", with = "millis")]
    pub lasted: Duration,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub time: Stamp,
    /// How long the loop had been away.
    #[serde(rename = "busy_ms", with = "millis")]
    pub busy: Duration,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The stall was noticed.
    Opened {
        /// What it seemed to be.
        cause: Cause,
    },
    /// Its cause changed, or more of it is known.
    Cause {
        /// To what.
        cause: Cause,
    },
    /// Evidence came in: this one of the record's.
    Evidence {
        /// Index.
        capture: usize,
    },
    /// A signal was sent, would have been, or was refused: this one of the record's.
    Action {
        /// Index.
        action: usize,
    },
    /// It is over.
    Closed,
}

/// What was found out at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// When it came in.
    pub time: Stamp,
    /// The cause at that time.
    pub kind: CauseKind,
    /// All of it.
    pub found: Evidence,
}

/// A signal that was sent, would have been, or was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// When.
    pub time: Stamp,
    /// How long the loop had been away.
    #[serde(rename = "busy_ms", with = "millis")]
    pub busy: Duration,
    /// The child, on the host.
    pub child: Pid,
    /// Basename of its executable, empty if it could not be told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exe: String,
    /// Which signal.
    pub signal: Signal,
    /// Whether we enforce.
    pub mode: Mode,
    /// What became of it: a word of the contract.
    pub outcome: String,
    /// The guard, when one refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_by: Option<Refusal>,
    /// The grace that was in force.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
    /// Why it was not the one that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_reason: Option<GraceReason>,
    /// What a person should know beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How an incident ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub time: Stamp,
    /// How long the loop was away in all.
    #[serde(rename = "busy_ms", with = "millis")]
    pub busy: Duration,
    /// Our signal ended the child and the loop came back.
    pub rescued: bool,
    /// How it ended.
    pub ended_by: EndedBy,
    /// How things stood with the liveness probe, if one is known and can have failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Outlook>,
}

impl IncidentRecord {
    /// How long the loop was away: in all, or as far as the record goes.
    #[must_use]
    pub fn busy(&self) -> Duration {
        let last = self.timeline.last().map(|entry| entry.busy);
        self.outcome
            .map(|end| end.busy)
            .or(last)
            .unwrap_or_default()
    }

    /// The newest evidence that has what `part` looks for.
    pub fn newest<'a, T: 'a>(
        &'a self,
        part: impl Fn(&'a Evidence) -> Option<T>,
    ) -> Option<(Stamp, T)> {
        self.evidence
            .iter()
            .rev()
            .find_map(|capture| Some((capture.time, part(&capture.found)?)))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's interface")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's interface")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
