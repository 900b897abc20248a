//! The facts of one wait episode, and the configured rules for engines.

use std::time::Duration;

use crate::pipeline::event::{Awaited, WaitOptions};
use crate::pipeline::ids::{Mono, NsPid, Pid, PidKey};

/// How engines of a target are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineRules {
    /// Time a told engine has to end.
    pub grace: Duration,
    /// The same where it is unknown who told it, before our SIGTERM.
    pub unknown_grace: Duration,
    /// The same where nobody told it; `None` is never.
    pub untold_grace: Option<Duration>,
    /// Signal the engine behind a wrapper.
    pub through_wrapper: bool,
}

impl Default for EngineRules {
    fn default() -> Self {
        Self {
            grace: Duration::from_millis(500),
            unknown_grace: Duration::from_secs(10),
            untold_grace: None,
            through_wrapper: false,
        }
    }
}

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It runs or sleeps.
    Free,
    /// Stopped by a signal, or its cgroup is frozen.
    Held,
    /// A debugger traces it.
    Traced,
    /// It has ended (a zombie, or not there).
    Gone,
    /// It could not be read.
    Unreadable,
}

/// Whether a child runs in its loop's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It does.
    Same,
    /// It does not.
    Other,
    /// Not read yet, or not readable.
    Unknown,
}

/// A child of the loop's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildFacts {
    /// Identity.
    pub key: PidKey,
    /// Its number as the loop's process sees it, if known.
    pub ns_pid: Option<NsPid>,
    /// Its process group as the loop's process numbers it, if known.
    pub group: Option<i32>,
    /// Basename of its executable.
    pub exe: String,
    /// Whether it is an engine; `None` if that could not be told.
    pub engine: Option<bool>,
    /// First time its parent told it to end.
    pub told: Option<Mono>,
    /// Its birth was seen.
    pub seen_born: bool,
    /// A signal that tells it to end is pending, and nobody was seen to send it: it was told before the agent came.
    pub told_unseen: bool,
    /// Where it runs.
    pub place: Place,
    /// Whether it runs.
    pub condition: Condition,
    /// Its state in words.
    pub state: &'static str,
    /// Engines below it.
    pub engines_below: Vec<ChildFacts>,
}

/// Everything the decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitFacts {
    /// First entry of the episode.
    pub start: Mono,
    /// When the agent first saw it.
    pub first_seen: Mono,
    /// It is older than the agent, which therefore does not know who told whom.
    pub older_than_agent: bool,
    /// What is awaited.
    pub awaited: Awaited,
    /// How.
    pub options: WaitOptions,
    /// The thread is in the wait at this moment, and not only before in the same iteration.
    pub waits: bool,
    /// The child behind an awaited pidfd.
    pub pidfd_child: Option<Pid>,
    /// The loop's own process group, as its process numbers it.
    pub own_group: Option<i32>,
    /// The thread is shown to be a loop thread.
    pub loop_thread: bool,
    /// The loop's process.
    pub loop_condition: Condition,
    /// Last time anybody told the loop's process to end.
    pub target_ending: Option<Mono>,
    /// Until when its pod gives it for that, where the pod is known.
    pub ends_by: Option<Mono>,
    /// The loop's live children.
    pub children: Vec<ChildFacts>,
    /// The loop or the child was seen stopped, frozen or throttled until then.
    pub held_until: Option<Mono>,
    /// How long the loop's cgroup was throttled in this episode, or the engine's own, which does not count either.
    pub throttled: Duration,
    /// When we sent SIGTERM in this episode.
    pub termed: Option<Mono>,
    /// Until when the loop has to be free, so that the kubelet does not decide to kill its container. From probes that were seen or a
    /// pod's spec, never from the configuration alone.
    pub free_by: Option<Mono>,
    /// The guards that do not depend on the episode.
    pub guards: Guards,
}

/// Budget, pause and lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guards {
    /// No action before then.
    pub paused_until: Option<Mono>,
    /// The budget is used up.
    pub budget_spent: bool,
    /// Another agent enforces on this process.
    pub other_enforcer: bool,
    /// Ids cannot be told apart.
    pub no_pid_namespace: bool,
}
