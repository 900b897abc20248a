//! What spans incidents: budgets and pauses.

use std::collections::HashMap;
use std::time::Duration;

use super::{Incident, enforces};
use crate::pipeline::ids::{Mono, Pid};
use crate::pipeline::policy::Guards;
use crate::pipeline::record::InForce;
use crate::pipeline::story::{Done, EpisodeStory, Look};

/// A kill is spent at the moment of the decision, a little before the signal is told of.
const SPENT_BEFORE: Duration = Duration::from_millis(50);

/// The wall clock is set now and then; by more than this much, the machine was started again.
const ANOTHER_BOOT: u64 = 10_000_000;

type Process = (Pid, u64);

/// Kills and pauses so far. Moments are those of the imagined course, which an earlier kill has set ahead of the record.
#[derive(Debug, Default)]
pub(super) struct World {
    spent: HashMap<Process, Vec<Mono>>,
    node: Vec<Mono>,
    paused: HashMap<Process, Mono>,
    /// How far the imagined course of this incident is ahead of the record.
    ahead: Duration,
    /// When the machine started, microseconds since 1970.
    boot: Option<u64>,
}

impl World {
    /// With the kills that the records count and do not tell of.
    pub(super) fn new(incidents: &[Incident]) -> Self {
        let mut world = Self::default();
        let stories = || incidents.iter().flat_map(|incident| &incident.episodes);
        let sent: Vec<Mono> = stories()
            .flat_map(|story| &story.acts)
            .filter(|act| matches!(act.outcome, Done::Sent | Done::Gone | Done::Failed))
            .map(|act| act.at)
            .collect();
        let elsewhere = |at: &Mono| {
            !sent
                .iter()
                .any(|sent| *sent >= *at && sent.since(*at) <= SPENT_BEFORE)
        };
        for story in stories() {
            let own = world.spent.entry(process_of(story)).or_default();
            for at in story.kills_before.iter().copied().filter(elsewhere) {
                if !own.contains(&at) {
                    own.push(at);
                }
            }
            for at in story.node_kills_before.iter().copied().filter(elsewhere) {
                if !world.node.contains(&at) {
                    world.node.push(at);
                }
            }
        }
        world
    }

    /// The next incident begins, at its recorded time.
    pub(super) fn begin(&mut self, incident: &Incident) {
        self.ahead = Duration::ZERO;
        let boot = incident.began.0.saturating_sub(incident.since.0 / 1000);
        if self
            .boot
            .replace(boot)
            .is_some_and(|known| known.abs_diff(boot) > ANOTHER_BOOT)
        {
            // The clock starts anew with the machine, and so do processes.
            self.node.clear();
            self.paused.clear();
        }
    }

    /// The imagined course gets further ahead of the record.
    pub(super) fn shift(&mut self, saved: Duration) {
        self.ahead += saved;
    }

    /// The guards at a moment of the record.
    pub(super) fn guards(
        &self,
        story: &EpisodeStory,
        look: &Look,
        policy: &InForce,
        at: Mono,
    ) -> Guards {
        let now = self.imagined(at);
        let within = |spent: &[Mono], per: Duration| {
            // A kill that is yet to come does not count.
            spent
                .iter()
                .filter(|at| **at <= now && now.since(**at) <= per)
                .count()
        };
        let own = self
            .spent
            .get(&process_of(story))
            .map_or(&[][..], Vec::as_slice);
        let engine = policy.engine.as_ref();
        let spent = engine
            .is_some_and(|engine| within(own, engine.max_kills_per) >= count(engine.max_kills))
            || within(&self.node, policy.node_kills_per) >= count(policy.node_kills);
        Guards {
            paused_until: self
                .paused
                .get(&process_of(story))
                .map(|until| until.plus(self.ahead)),
            budget_spent: spent,
            other_enforcer: enforces(policy) && look.other_enforcer,
            no_pid_namespace: look.no_pid_namespace,
        }
    }

    /// A signal is sent at a moment of the record.
    pub(super) fn spend(&mut self, story: &EpisodeStory, at: Mono) {
        let now = self.imagined(at);
        self.spent.entry(process_of(story)).or_default().push(now);
        self.node.push(now);
    }

    /// After SIGKILL.
    pub(super) fn pause(&mut self, story: &EpisodeStory, policy: &InForce, at: Mono) {
        let until = self.imagined(at).plus(policy.pause);
        self.paused.insert(process_of(story), until);
    }

    fn imagined(&self, at: Mono) -> Mono {
        let ahead = u64::try_from(self.ahead.as_nanos()).unwrap_or(u64::MAX);
        Mono(at.0.saturating_sub(ahead))
    }
}

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn process_of(story: &EpisodeStory) -> Process {
    (story.pid, story.process_start_ns)
}
