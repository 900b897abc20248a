//! What the agent tells the world: each notice becomes a line of `watch`, numbers in the metrics, and an event.

use std::sync::Arc;
use std::time::Duration;

use super::cause::{Cause, CauseKind};
use super::engines::{EngineNews, News};
use super::evidence::Evidence;
use super::histogram::Histogram;
use super::ids::{IncidentId, LoopId, Mono, Pid};
use super::liveness::{Outlook, RiskView};
use super::pod::PodName;
use super::refusal::Refusal;
use super::story::EpisodeStory;

/// Whether signals are sent or only told of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything but the signal.
    #[default]
    Observe,
    /// Signals are sent.
    Enforce,
}

impl Mode {
    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        }
    }
}

/// A signal the agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Signal {
    /// Asks the child to end.
    #[serde(rename = "SIGTERM")]
    Term,
    /// Ends the child.
    #[serde(rename = "SIGKILL")]
    Kill,
}

impl Signal {
    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Signal::Term => "SIGTERM",
            Signal::Kill => "SIGKILL",
        }
    }
}

/// Why a grace was not the one that is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraceReason {
    /// The kubelet would have decided to kill the container before its end.
    Deadline,
}

impl GraceReason {
    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            GraceReason::Deadline => "deadline",
        }
    }
}

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The signal was sent.
    Sent,
    /// Observe mode: it would have been sent.
    WouldSend,
    /// A guard refused.
    Refused(#[serde(skip)] Refusal),
    /// The call failed.
    Failed,
    /// The child was gone already.
    Gone,
    /// It was sent, and the child did not end.
    Ineffective,
}

impl Outcome {
    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Sent => "sent",
            Outcome::WouldSend => "would_send",
            Outcome::Refused(_) => "refused",
            Outcome::Failed => "failed",
            Outcome::Gone => "gone",
            Outcome::Ineffective => "ineffective",
        }
    }

    /// The outcome of these words of the contract, if they are some.
    #[must_use]
    pub fn from_words(word: &str, refused_by: Option<Refusal>) -> Option<Self> {
        let refused = refused_by.map(Outcome::Refused);
        [
            Outcome::Sent,
            Outcome::WouldSend,
            Outcome::Failed,
            Outcome::Gone,
            Outcome::Ineffective,
        ]
        .into_iter()
        .chain(refused)
        .find(|outcome| outcome.name() == word)
    }

    /// The guard, when one refused.
    #[must_use]
    pub const fn refusal(self) -> Option<Refusal> {
        match self {
            Outcome::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// How a stall ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The loop polled again.
    Poll,
    /// The process ended.
    Exit,
    /// The process ran another program.
    Exec,
    /// The agent stopped watching.
    Detached,
}

impl EndedBy {
    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EndedBy::Poll => "poll",
            EndedBy::Exit => "exit",
            EndedBy::Exec => "exec",
            EndedBy::Detached => "detached",
        }
    }
}

/// Who a loop is. Shared by all notices of the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopInfo {
    /// Its identity.
    pub id: LoopId,
    /// Number of its record, under which its counts are read while it is watched.
    pub slot: u32,
    /// Name of the configured target it belongs to.
    pub target: String,
    /// Basename of the executable.
    pub exe: String,
    /// System call it polls with.
    pub poller: String,
    /// How it is watched: `fentry`, `tracepoint` or `sampling`.
    pub plan: &'static str,
    /// The pod and container it runs in, as far as the Kubernetes API has told.
    pub pod: Option<PodName>,
}

/// A stall as it stands at `at`.
#[derive(Debug, Clone, PartialEq)]
pub struct StallView {
    /// The incident.
    pub incident: IncidentId,
    /// The moment for which the figures hold.
    pub at: Mono,
    /// How long the loop has been away.
    pub busy: Duration,
    /// The stall is older than the agent: `busy` is a lower bound.
    pub busy_is_lower_bound: bool,
    /// What it is stuck on.
    pub cause: Cause,
    /// What was found out so far beside the quick look.
    pub evidence: Option<Arc<Evidence>>,
    /// What a stall that is over was made of: parts of 5 % and more, largest first; empty if it was one thing.
    pub shares: Vec<(CauseKind, f64)>,
}

/// A signal that was sent, would have been, or was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionNotice {
    /// The incident it belongs to.
    pub incident: IncidentId,
    /// When.
    pub at: Mono,
    /// The child it is about.
    pub child: Pid,
    /// Basename of the child's executable, empty if it could not be told.
    pub child_exe: String,
    /// Which signal.
    pub signal: Signal,
    /// Whether we enforce.
    pub mode: Mode,
    /// How long the loop had been away.
    pub busy: Duration,
    /// What became of it.
    pub outcome: Outcome,
    /// The grace that was in force.
    pub grace: Duration,
    /// Why it was not the one that is configured.
    pub grace_reason: Option<GraceReason>,
    /// What a person should know beside that: the error of the call, the state of the child.
    pub detail: Option<String>,
}

/// Counts of one loop since it is watched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoopTotals {
    /// Finished iterations.
    pub iterations: u64,
    /// Time inside its own poller.
    pub idle: Duration,
    /// Time in finished iterations.
    pub busy: Duration,
    /// Longest finished iteration.
    pub max: Duration,
    /// Finished iterations by length.
    pub histogram: Histogram,
}

impl LoopTotals {
    /// Takes in those of another loop.
    pub fn absorb(&mut self, other: &Self) {
        self.iterations = self.iterations.saturating_add(other.iterations);
        self.idle = self.idle.saturating_add(other.idle);
        self.busy = self.busy.saturating_add(other.busy);
        self.max = self.max.max(other.max);
        self.histogram.absorb(&other.histogram);
    }
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A loop was recognised and is watched from here on.
    Loop {
        /// When.
        at: Mono,
        /// Who.
        info: Arc<LoopInfo>,
    },
    /// It is known now, or has changed, in which pod a loop runs.
    Placed {
        /// When.
        at: Mono,
        /// Who, with the pod; from here on it is told of under this name.
        info: Arc<LoopInfo>,
    },
    /// A stall was noticed.
    StallOpened {
        /// Who.
        info: Arc<LoopInfo>,
        /// How it stands.
        view: StallView,
    },
    /// Its cause or evidence changed.
    StallUpdated {
        /// Who.
        info: Arc<LoopInfo>,
        /// How it stands.
        view: StallView,
    },
    /// A signal was sent, would have been, or was refused.
    Action {
        /// Who.
        info: Arc<LoopInfo>,
        /// What.
        action: ActionNotice,
    },
    /// The stall is over.
    StallClosed {
        /// Who.
        info: Arc<LoopInfo>,
        /// How it stood at the end.
        view: StallView,
        /// Our signal ended the child and the loop came back.
        rescued: bool,
        /// How it ended.
        ended_by: EndedBy,
        /// How close the kubelet was to killing the container, if a probe can have failed.
        liveness: Option<Outlook>,
    },
    /// The risk that the kubelet kills the container has changed, or goes on: told each second while there is one.
    Risk {
        /// Who.
        info: Arc<LoopInfo>,
        /// How much of a risk, and what is to be expected.
        risk: RiskView,
    },
    /// What the policy was shown of a wait episode in a stall, told just before the stall's end: for the journal alone.
    Episode {
        /// The incident it belongs to.
        incident: IncidentId,
        /// Who.
        info: Arc<LoopInfo>,
        /// The story.
        story: Arc<EpisodeStory>,
    },
    /// A wait for an engine by the loop thread is over.
    EngineWait {
        /// When it ended.
        at: Mono,
        /// Who.
        info: Arc<LoopInfo>,
        /// How long it took.
        lasted: Duration,
    },
    /// News of the engines of a loop's process.
    Engine {
        /// Who: one loop of the process.
        info: Arc<LoopInfo>,
        /// What.
        news: News,
    },
    /// A loop is not watched any more: its final counts.
    LoopEnded {
        /// When.
        at: Mono,
        /// Who.
        info: Arc<LoopInfo>,
        /// Its counts.
        totals: LoopTotals,
        /// How it ended.
        ended_by: EndedBy,
    },
    /// Something was lost, and how often since the last such notice.
    Lost {
        /// When it was noticed.
        at: Mono,
        /// What.
        what: String,
        /// How often.
        count: u64,
    },
}

impl Notice {
    /// The incident whose end it tells.
    #[must_use]
    pub fn ends(&self) -> Option<IncidentId> {
        match self {
            Self::StallClosed { view, .. } => Some(view.incident),
            Self::Engine { news, .. } => match &news.what {
                EngineNews::StartupRace(race) => Some(race.incident),
                _ => None,
            },
            _ => None,
        }
    }
}
