//! From the configuration to what the rescue thread and the scout need.

use std::time::Duration;

use crate::config::Config;
use crate::export::journal::JournalSettings;
use crate::pipeline::Pid;
use crate::pipeline::liveness::ProbeSpec;
use crate::pipeline::policy::EngineRules;
use crate::pipeline::record::{EngineInForce, InForce};
use crate::rescue::{EngineSettings, EvidenceLimits, Limits, Settings, TargetSettings};
use crate::target::scout::Matching;

/// The rescue thread's view of a configuration.
#[must_use]
pub fn settings_of(config: &Config, match_all: bool) -> Settings {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let targets = config.targets.iter().map(|target| TargetSettings {
        name: target.name.clone(),
        stall_after: target.stall_after,
        engine: target.engine.as_ref().map(|engine| EngineSettings {
            rules: EngineRules {
                grace: engine.grace,
                unknown_grace: engine.unknown_grace,
                untold_grace: engine.untold_grace,
                through_wrapper: engine.through_wrapper,
            },
            max_kills: count(engine.max_kills.count),
            per: engine.max_kills.per,
        }),
        liveness: target.liveness.map(|liveness| ProbeSpec {
            imminent_margin: liveness.imminent_margin,
            ..ProbeSpec::new(liveness.period, liveness.timeout, liveness.failures)
        }),
        probed_port: target.liveness.and_then(|liveness| liveness.port),
    });
    let limits = Limits {
        node_kills: count(config.limits.node_kills.count),
        per: config.limits.node_kills.per,
        pause: config.limits.pause,
    };
    Settings {
        mode: config.mode,
        targets: targets.collect(),
        limits,
        evidence: EvidenceLimits {
            collect: config.evidence.collect,
            per_loop: config.evidence.per_loop,
            node_cpu_percent: config.evidence.node_cpu_percent,
        },
        match_all,
    }
}

/// What holds for loops of one target, as the journal keeps it; nothing of a target that there is not (any more).
#[must_use]
pub fn in_force(config: &Config, target: &str) -> InForce {
    let target = config.targets.iter().find(|known| known.name == target);
    InForce {
        mode: config.mode,
        stall_after: target.map_or(Duration::ZERO, |target| target.stall_after),
        engine: target
            .and_then(|target| target.engine.as_ref())
            .map(|engine| EngineInForce {
                grace: engine.grace,
                unknown_grace: engine.unknown_grace,
                untold_grace: engine.untold_grace,
                through_wrapper: engine.through_wrapper,
                max_kills: engine.max_kills.count,
                max_kills_per: engine.max_kills.per,
            }),
        pause: config.limits.pause,
        node_kills: config.limits.node_kills.count,
        node_kills_per: config.limits.node_kills.per,
    }
}

/// Where a configuration wants its journal.
#[must_use]
pub fn journal_of(config: &Config) -> JournalSettings {
    JournalSettings {
        dir: config.journal.dir.clone(),
        max_bytes: config.journal.max_bytes,
    }
}

/// Matches processes against a configuration: the first target that matches has them.
#[derive(Debug)]
pub struct ConfigRules(pub Config);

impl Matching for ConfigRules {
    fn target(&self, pid: Pid, exe: &str, command_line: &str) -> Option<usize> {
        let matches = |target: &crate::config::Target| {
            target
                .matcher
                .matches(pid, exe.as_bytes(), command_line.as_bytes())
        };
        self.0.targets.iter().position(matches)
    }

    fn is_engine(&self, target: usize, exe: &str, command_line: &str) -> bool {
        let engine = self
            .0
            .targets
            .get(target)
            .and_then(|target| target.engine.as_ref());
        engine.is_some_and(|engine| engine.is_engine(exe.as_bytes(), command_line.as_bytes()))
    }
}
