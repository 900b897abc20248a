//! State of one watched thread: candidate or loop, its open stall, its wait episode.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::accounts::Accounts;
use crate::action::Child;
use crate::pipeline::classify::{Shares, ThreadFacts};
use crate::pipeline::event::{Awaited, Poller, Reading, WaitOptions};
use crate::pipeline::liveness::Follower;
use crate::pipeline::recognise::Candidate;
use crate::pipeline::story::EpisodeStory;
use crate::pipeline::{
    Cause, CauseKind, ChildCause, Evidence, GraceReason, IncidentId, LoopId, LoopInfo, Mono,
    Outcome, Pid, Refusal, Signal,
};

/// A thread with a record.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) id: LoopId,
    pub(super) target: usize,
    pub(super) slot: u32,
    pub(super) stall_after: Duration,
    pub(super) candidate: Candidate,
    /// The call with which it was first seen polling, 0 if it was not.
    pub(super) first_call: u32,
    /// When it got its record.
    pub(super) adopted: Mono,
    /// Set once it is recognised.
    pub(super) info: Option<Arc<LoopInfo>>,
    /// The agent found it away from its poller, first seen then: stall lengths are lower bounds until it polls.
    pub(super) adopted_busy: Option<Mono>,
    pub(super) last: Option<Reading>,
    pub(super) stall: Option<Stall>,
    /// Beginning of the stall that was closed last: the record may show its end before the kernel's report arrives.
    pub(super) closed: Option<Mono>,
    /// Evidence about it is gathered once a second, and a few times more often in a row.
    pub(super) next_capture: Mono,
    /// The liveness probe that it answers, if one is known.
    pub(super) liveness: Option<Follower>,
    pub(super) episode: Option<Episode>,
    /// Stories of the episodes before, for the stall they may belong to.
    pub(super) stories: Vec<EpisodeStory>,
}

/// An open stall.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) incident: IncidentId,
    pub(super) since: Mono,
    pub(super) lower_bound: bool,
    pub(super) cause: Cause,
    /// When that was seen.
    pub(super) cause_at: Mono,
    /// What it was stuck on when we signalled, and when that was seen: the cause of a rescued stall, whatever the loop caught
    /// up with afterwards.
    pub(super) cause_of_action: Option<(Cause, Mono)>,
    pub(super) accounts: Option<Accounts>,
    /// When it was looked at last.
    pub(super) looked: Mono,
    pub(super) next_look: Mono,
    /// What it was made of so far.
    pub(super) shares: Shares,
    /// The cgroup of a starving loop was looked up again: it may have been moved since it was first seen.
    pub(super) cgroup_asked: bool,
    /// Looks in a row at which nothing could be shown.
    pub(super) unknown: u32,
    /// What the last look saw.
    pub(super) facts: ThreadFacts,
    /// What the evidence thread found.
    pub(super) evidence: Option<Arc<Evidence>>,
    /// What it found while the loop was stuck on each kind, as far as it differs.
    pub(super) evidence_of: BTreeMap<CauseKind, Arc<Evidence>>,
    /// When it was asked, while its answer is due.
    pub(super) asked: Option<Mono>,
    /// When it was asked last.
    pub(super) last_asked: Mono,
    /// And what about.
    pub(super) asked_about: Option<ThreadFacts>,
    /// What it found is about something else by now: it is to be asked again.
    pub(super) ask_again: bool,
    /// Signals we sent in this stall.
    pub(super) strikes: Vec<Struck>,
}

/// A grace that was given, and why it was not the one that is configured.
pub(super) type Given = (Duration, Option<GraceReason>);

/// A signal that was sent, until its effect is known.
#[derive(Debug)]
pub(super) struct Struck {
    pub(super) child: Child,
    pub(super) exe: String,
    pub(super) signal: Signal,
    pub(super) grace: Given,
    pub(super) at: Mono,
    pub(super) ended: Option<Mono>,
    pub(super) said_ineffective: bool,
}

/// What is awaited: a wait call's children, or a pidfd in a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Wait(Awaited, WaitOptions),
    Pidfd(Poller),
}

impl Wanted {
    /// The call that blocks; of a poll only its arguments are known, and a look with `WNOHANG` blocks nobody.
    pub(super) fn blocking_call(self) -> Option<&'static str> {
        match self {
            Self::Wait(_, options) if options.polls() => None,
            Self::Wait(_, options) if options.waitid => Some("waitid"),
            Self::Wait(..) => Some("wait4"),
            Self::Pidfd(_) => None,
        }
    }

    /// As arguments of a wait call.
    pub(super) fn call(self) -> (Awaited, WaitOptions) {
        match self {
            Wanted::Wait(awaited, options) => (awaited, options),
            Wanted::Pidfd(poller) => (Awaited::PidFd(poller.fd), WaitOptions::default()),
        }
    }
}

/// A wait episode.
#[derive(Debug)]
pub(super) struct Episode {
    pub(super) start: Mono,
    pub(super) first_seen: Mono,
    pub(super) older_than_agent: bool,
    pub(super) wanted: Wanted,
    pub(super) pidfd_child: Option<Pid>,
    pub(super) next_look: Option<Mono>,
    pub(super) termed: Option<Mono>,
    /// Whether that SIGTERM was sent, or only told of.
    pub(super) termed_as: Option<Outcome>,
    /// What became of a SIGKILL that was due, if it was not refused.
    pub(super) killed: Option<Outcome>,
    pub(super) held_until: Option<Mono>,
    /// Until when the loop had to be free, as of the last look.
    pub(super) free_by: Option<Mono>,
    /// Somebody was held at the last look.
    pub(super) held: bool,
    /// Throttling of the loop's cgroup when the episode was first looked at.
    pub(super) throttled_before: Option<Duration>,
    /// How long the engine had been, at the first look, where it is in another cgroup.
    pub(super) engine_before: Option<(Pid, Duration)>,
    /// Refusals already told in this episode.
    pub(super) said: BTreeSet<Refusal>,
    /// The engine it turned out to be about.
    pub(super) engine: Option<Pid>,
    /// What the journal is to know of it.
    pub(super) story: Box<EpisodeStory>,
    /// It was told with the end of its stall.
    pub(super) story_told: bool,
}

impl Loop {
    /// The process and thread, and the target it belongs to, before anything is known of it.
    pub(super) fn new(
        id: LoopId,
        target: usize,
        slot: u32,
        stall_after: Duration,
        adopted: Mono,
    ) -> Self {
        Self {
            id,
            target,
            slot,
            stall_after,
            candidate: Candidate::default(),
            first_call: 0,
            adopted,
            info: None,
            adopted_busy: None,
            last: None,
            stall: None,
            closed: None,
            next_capture: Mono(0),
            liveness: None,
            episode: None,
            stories: Vec::new(),
        }
    }

    /// The wait episode that a reading shows.
    pub(super) fn wanted(reading: &Reading) -> Option<(Mono, Wanted)> {
        if let Some(wait) = reading.wait {
            let waits = wait.calls > 1 || !wait.options.polls();
            return waits.then_some((wait.start, Wanted::Wait(wait.awaited, wait.options)));
        }
        reading
            .nested
            .map(|nested| (nested.first, Wanted::Pidfd(nested.poller)))
    }

    /// Whether the wait going on names this child, alive or not.
    pub(super) fn still_awaits(&self, child: &ChildCause) -> bool {
        let Some(episode) = &self.episode else {
            return false;
        };
        match episode.wanted {
            Wanted::Wait(Awaited::Process(number), _) => {
                u32::try_from(number) == Ok(child.ns_pid.0)
            }
            Wanted::Wait(Awaited::PidFd(_), _) | Wanted::Pidfd(_) => {
                episode.pidfd_child == Some(child.pid)
            }
            Wanted::Wait(Awaited::Any | Awaited::Group(_), _) => false,
        }
    }
}
