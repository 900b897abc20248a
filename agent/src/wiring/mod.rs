//! From the configuration to what the rescue thread and the scout need.

use crate::config::{Config, Target};
use crate::export::journal::JournalSettings;
use crate::pipeline::Mode;
use crate::pipeline::liveness::ProbeSpec;
use crate::pipeline::policy::EngineRules;
use crate::rescue::{EngineSettings, EvidenceLimits, Limits, Settings, TargetSettings};

mod rules;
#[cfg(test)]
mod tests;

pub use rules::{Complaint, Rules};

fn count(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The rescue thread's view of a target.
fn target_settings(target: &Target, mode: Mode) -> TargetSettings {
    TargetSettings {
        name: target.name.clone(),
        mode,
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
        engines: target
            .engine
            .as_ref()
            .map_or_else(Vec::new, |engine| engine.matchers.clone()),
        probed_port: target.liveness.and_then(|liveness| liveness.port),
    }
}

/// The rescue thread's view of a configuration, with these targets by their numbers.
fn settings(config: &Config, targets: Vec<TargetSettings>, match_all: bool) -> Settings {
    let limits = Limits {
        node_kills: count(config.limits.node_kills.count),
        per: config.limits.node_kills.per,
        pause: config.limits.pause,
    };
    Settings {
        targets,
        limits,
        evidence: EvidenceLimits {
            collect: config.evidence.collect,
            per_loop: config.evidence.per_loop,
            node_cpu_percent: config.evidence.node_cpu_percent,
        },
        match_all,
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
