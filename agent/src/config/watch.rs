//! The configuration that the options of `watch` stand for: one target, named `watch`, of given processes.

use std::time::Duration;

use super::model::{
    Annotations, ApiUse, Config, EngineMatcher, EnginePolicy, EvidenceRules, Export, Kubernetes,
    Liveness, Matcher, Target, defaults,
};
use super::pattern::ExeGlob;
use crate::pipeline::{Collect, Mode, Pid};

/// Options of `watch` that say what to do.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// `--enforce`.
    pub enforce: bool,
    /// `--stall-after`.
    pub stall_after: Option<Duration>,
    /// `--engine`, each; `config::ExeGlob::new` reads one. None of them: nothing can be signalled.
    pub engines: Vec<ExeGlob>,
    /// `--grace`.
    pub grace: Option<Duration>,
    /// `--evidence`.
    pub collect: Collect,
    /// `--liveness`.
    pub liveness: Option<Liveness>,
    /// `--pid`, each, or the started command.
    pub pids: Vec<Pid>,
}

impl Config {
    /// The configuration of `watch`: no page and no push, because `watch` starts no exporter.
    #[must_use]
    pub fn for_watch(options: WatchOptions) -> Self {
        let grace = options.grace.unwrap_or(defaults::GRACE);
        let matchers = options.engines.into_iter().map(|exe| EngineMatcher {
            exe: Some(exe),
            cmdline: None,
        });
        let matchers: Vec<_> = matchers.collect();
        let engine = (!matchers.is_empty()).then_some(EnginePolicy {
            matchers,
            grace,
            unknown_grace: defaults::UNKNOWN_GRACE.max(grace),
            untold_grace: None,
            through_wrapper: false,
            max_kills: defaults::MAX_KILLS,
        });
        let target = Target {
            name: "watch".to_owned(),
            matcher: Matcher {
                pids: Some(options.pids),
                ..Matcher::default()
            },
            stall_after: options.stall_after.unwrap_or(defaults::STALL_AFTER),
            engine,
            liveness: options.liveness,
        };
        Self {
            mode: if options.enforce {
                Mode::Enforce
            } else {
                Mode::Observe
            },
            targets: vec![target],
            limits: defaults::LIMITS,
            annotations: Annotations::default(),
            kubernetes: Kubernetes {
                api: ApiUse::Off,
                ..defaults::KUBERNETES
            },
            evidence: EvidenceRules {
                collect: options.collect,
                ..defaults::EVIDENCE
            },
            export: Export {
                otlp: None,
                metrics: None,
            },
            journal: defaults::journal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_engine_there_is_no_policy() {
        let config = Config::for_watch(WatchOptions {
            enforce: true,
            pids: vec![Pid(7)],
            ..WatchOptions::default()
        });
        assert_eq!(config.mode, Mode::Enforce);
        assert_eq!(config.targets[0].engine, None);
        assert!(
            config.targets[0]
                .matcher
                .matches(Pid(7), b"node", b"node x")
        );
        assert!(
            !config.targets[0]
                .matcher
                .matches(Pid(8), b"node", b"node x")
        );
    }

    #[test]
    fn a_command_not_yet_started_matches_nothing() {
        let config = Config::for_watch(WatchOptions::default());
        assert!(!config.targets[0].matcher.matches(Pid(1), b"init", b"init"));
    }

    #[test]
    fn a_long_grace_lengthens_the_unknown_one() {
        let options = WatchOptions {
            engines: vec![ExeGlob::new("query-engine-*").unwrap()],
            grace: Some(Duration::from_mins(1)),
            ..WatchOptions::default()
        };
        let engine = Config::for_watch(options).targets.remove(0).engine.unwrap();
        assert_eq!(engine.unknown_grace, Duration::from_mins(1));
        assert!(
            engine.is_engine(b"query-engine-x", b"") && !engine.is_engine(b"sh", b"query-engine-x")
        );
    }
}
