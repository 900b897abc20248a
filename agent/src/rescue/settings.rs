//! What the rescue thread is told to do.

use std::time::Duration;

use crate::config::EngineMatcher;
use crate::pipeline::liveness::ProbeSpec;
use crate::pipeline::policy::EngineRules;
use crate::pipeline::record::{EngineInForce, InForce};
use crate::pipeline::{Collect, Mode};

/// How engines of one target are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// The graces.
    pub rules: EngineRules,
    /// At most so many kills of one loop process …
    pub max_kills: usize,
    /// … in so much time.
    pub per: Duration,
}

/// One target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSettings {
    /// Its name.
    pub name: String,
    /// Whether signals are sent.
    pub mode: Mode,
    /// From which length on an iteration is a stall.
    pub stall_after: Duration,
    /// Its engines; without, nothing is ever signalled.
    pub engine: Option<EngineSettings>,
    /// What an engine is.
    pub engines: Vec<EngineMatcher>,
    /// The liveness probe of its containers, where one is known.
    pub liveness: Option<ProbeSpec>,
    /// The port that is probed, if it is known; else those on which a process listens.
    pub probed_port: Option<u16>,
}

/// Limits of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most so many kills on the node …
    pub node_kills: usize,
    /// … in so much time.
    pub per: Duration,
    /// Pause of a loop process after an action.
    pub pause: Duration,
}

impl Settings {
    /// Whether signals are sent for loops of a target; not where there is no such target (any more).
    #[must_use]
    pub fn mode(&self, target: usize) -> Mode {
        self.targets
            .get(target)
            .map_or(Mode::Observe, |target| target.mode)
    }

    /// The name of a target.
    #[must_use]
    pub fn name(&self, target: usize) -> Option<&str> {
        self.targets.get(target).map(|target| target.name.as_str())
    }

    /// The rules for one target, as the journal keeps them.
    #[must_use]
    pub fn in_force(&self, target_number: usize) -> InForce {
        let target = self.targets.get(target_number);
        target.map_or_else(|| self.without_target(), |target| self.in_force_of(target))
    }

    /// What holds where there is no such target (any more): nothing is done.
    fn without_target(&self) -> InForce {
        InForce {
            mode: Mode::Observe,
            stall_after: Duration::ZERO,
            engine: None,
            pause: self.limits.pause,
            node_kills: u32::try_from(self.limits.node_kills).unwrap_or(u32::MAX),
            node_kills_per: self.limits.per,
        }
    }

    /// The same of a target of these settings.
    #[must_use]
    pub fn in_force_of(&self, target: &TargetSettings) -> InForce {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        InForce {
            mode: target.mode,
            stall_after: target.stall_after,
            engine: target.engine.map(|engine| EngineInForce {
                grace: engine.rules.grace,
                unknown_grace: engine.rules.unknown_grace,
                untold_grace: engine.rules.untold_grace,
                through_wrapper: engine.rules.through_wrapper,
                max_kills: count(engine.max_kills),
                max_kills_per: engine.per,
            }),
            node_kills: count(self.limits.node_kills),
            ..self.without_target()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            node_kills: 200,
            per: Duration::from_mins(1),
            pause: Duration::from_secs(1),
        }
    }
}

/// What is found out about stalls, and what that may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvidenceLimits {
    /// How far it goes.
    pub collect: Collect,
    /// About one loop it is gathered so often.
    pub per_loop: Duration,
    /// All of it may take so many hundredths of one core.
    pub node_cpu_percent: u8,
}

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The targets, by number; one that differs in a pod has another number there.
    pub targets: Vec<TargetSettings>,
    /// Limits of the node.
    pub limits: Limits,
    /// Of evidence.
    pub evidence: EvidenceLimits,
    /// Match every new process of the machine against the targets.
    pub match_all: bool,
}
