//! From what a file says to what holds: presets merged, defaults filled in, contradictions told.

use std::time::Duration;

use super::model::{
    Allowance, Annotations, Config, EnginePolicy, EvidenceRules, Export, Journal, Kubernetes,
    Limits, Liveness, Metrics, Otlp, OtlpProtocol,
};
use super::model::{Target, defaults};
use super::presets::{self, PRESETS};
use super::problem::{Location, Problems, quote};
use super::raw::{RawConfig, RawEngine, RawLiveness, RawOtlp, RawTarget};
use super::raw_export::Listen;
use super::read::At;
use super::{duration, schema};
use crate::pipeline::Mode;

/// The configuration that follows from `raw`; to be thrown away if a problem was told. `mode` is that of the command
/// line, which wins over the file.
pub(super) fn config(raw: RawConfig, mode: Option<Mode>, problems: &mut Problems) -> Config {
    let targets = raw.targets.unwrap_or_else(|| vec![default_target()]);
    let mut resolved: Vec<(Location, Target)> = Vec::new();
    for raw in targets {
        let Some((at, path, target)) = target(raw, problems) else {
            continue;
        };
        if let Some((first, _)) = resolved
            .iter()
            .find(|(_, earlier)| earlier.name == target.name)
        {
            let found = format!(
                "a second target named {:?}, the first is in line {}",
                target.name, first.line
            );
            problems.add(
                at,
                format!("{path}.name"),
                found,
                "give each target a name of its own",
            );
        }
        resolved.push((at, target));
    }
    let targets: Vec<Target> = resolved.into_iter().map(|(_, target)| target).collect();
    let file_mode = raw.mode.as_ref().map_or(Mode::default(), |mode| mode.value);
    let effective = mode.unwrap_or(file_mode);
    if effective == Mode::Enforce
        && problems.is_empty()
        && targets.iter().all(|target| target.engine.is_none())
        // A pod may name its own.
        && !raw.allow.as_ref().is_some_and(|allow| allow.contains(&Allowance::Engine))
    {
        let at = raw.mode.filter(|_| mode.is_none()).map(|mode| mode.at);
        let allowed = "give a target an engine, or use mode observe";
        problems.add(
            at,
            "mode",
            "enforce, but no target names an engine: nothing could ever be signalled",
            allowed,
        );
    }
    Config {
        mode: effective,
        targets,
        limits: Limits {
            node_kills: raw.node_kills.unwrap_or(defaults::LIMITS.node_kills),
            pause: raw.pause.unwrap_or(defaults::LIMITS.pause),
        },
        annotations: Annotations {
            allow: raw.allow.unwrap_or_default(),
        },
        kubernetes: Kubernetes {
            api: raw.api.unwrap_or(defaults::KUBERNETES.api),
            kubeconfig: raw.kubeconfig,
            node: raw.node,
            events: raw.events.unwrap_or(defaults::KUBERNETES.events),
            engine_ready: raw
                .engine_ready
                .unwrap_or(defaults::KUBERNETES.engine_ready),
        },
        evidence: EvidenceRules {
            collect: raw.collect.unwrap_or(defaults::EVIDENCE.collect),
            per_loop: raw.per_loop.unwrap_or(defaults::EVIDENCE.per_loop),
            node_cpu_percent: raw
                .node_cpu_percent
                .unwrap_or(defaults::EVIDENCE.node_cpu_percent),
        },
        export: Export {
            otlp: raw.otlp.map(otlp),
            metrics: match raw.listen {
                None => Some(defaults::METRICS),
                Some(Listen::Nowhere) => None,
                Some(Listen::On(listen)) => Some(Metrics { listen }),
            },
        },
        journal: Journal {
            dir: raw.journal_dir.unwrap_or_else(|| defaults::journal().dir),
            max_bytes: raw
                .journal_max_bytes
                .unwrap_or_else(|| defaults::journal().max_bytes),
        },
    }
}

fn default_target() -> RawTarget {
    let at = Location { line: 1, column: 1 };
    RawTarget {
        at,
        path: "targets[0]".to_owned(),
        preset: Some(At {
            at,
            value: defaults::PRESET.to_owned(),
        }),
        name: None,
        matcher: None,
        stall_after: None,
        engine: None,
        liveness: None,
    }
}

fn target(mut raw: RawTarget, problems: &mut Problems) -> Option<(Location, String, Target)> {
    if let Some(preset) = raw.preset.take() {
        let Some(base) = presets::load(&preset, &raw.path) else {
            let known: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
            let found = format!("there is no preset {}", quote(&preset.value));
            problems.add(
                preset.at,
                format!("{}.preset", raw.path),
                found,
                format!("allowed: {}", known.join(", ")),
            );
            return None;
        };
        raw = merge(raw, base);
    }
    let engine = raw
        .engine
        .map(|raw_engine| engine(raw_engine, &raw.path, problems));
    let liveness = raw
        .liveness
        .map(|raw_liveness| liveness(&raw_liveness, &raw.path, problems));
    let missing = |what: &str| {
        (
            raw.at,
            raw.path.clone(),
            format!("has no {what}"),
            format!("add {what}, or a preset"),
        )
    };
    let (name, matcher) = match (raw.name, raw.matcher) {
        (Some(name), Some(matcher)) => (name, matcher),
        (name, matcher) => {
            for (absent, what) in [(name.is_none(), "name"), (matcher.is_none(), "match")] {
                let (at, path, found, allowed) = missing(what);
                if absent && !problems.mention(&format!("{path}.{what}")) {
                    problems.add(at, path, found, allowed);
                }
            }
            return None;
        }
    };
    let target = Target {
        name: name.value,
        matcher,
        stall_after: raw.stall_after.unwrap_or(defaults::STALL_AFTER),
        engine: engine.flatten(),
        liveness: liveness.flatten(),
    };
    Some((name.at, raw.path, target))
}

/// What `own` says, and where it is silent what `base` says. Lists and `match` are taken whole from one of them.
fn merge(own: RawTarget, base: RawTarget) -> RawTarget {
    let engine = match (own.engine, base.engine) {
        (Some(own), Some(base)) => Some(RawEngine {
            at: own.at,
            matchers: own.matchers.or(base.matchers),
            grace: own.grace.or(base.grace),
            unknown_grace: own.unknown_grace.or(base.unknown_grace),
            untold_grace: own.untold_grace.or(base.untold_grace),
            through_wrapper: own.through_wrapper.or(base.through_wrapper),
            max_kills: own.max_kills.or(base.max_kills),
        }),
        (own, base) => own.or(base),
    };
    RawTarget {
        at: own.at,
        path: own.path,
        preset: None,
        name: own.name.or(base.name),
        matcher: own.matcher.or(base.matcher),
        stall_after: own.stall_after.or(base.stall_after),
        engine,
        liveness: own.liveness.or(base.liveness),
    }
}

fn engine(raw: RawEngine, path: &str, problems: &mut Problems) -> Option<EnginePolicy> {
    let key = |name: &str| format!("{path}.engine.{name}");
    let grace = raw.grace.map_or(defaults::GRACE, |grace| grace.value);
    let unknown = raw.unknown_grace.unwrap_or(At {
        at: raw.at,
        value: defaults::UNKNOWN_GRACE.max(grace),
    });
    let untold = raw.untold_grace.unwrap_or(At {
        at: raw.at,
        value: None,
    });
    // The less is known of a wait, the longer it is let be; the other way round the careful case would be the quick one.
    let mut at_least_grace = |name: &str, at: Location, value: Duration| {
        if value < grace {
            let (value, grace) = (duration::format(value), duration::format(grace));
            problems.add(
                at,
                key(name),
                format!("{value} is shorter than grace ({grace})"),
                "allowed: grace or longer",
            );
        }
    };
    at_least_grace("unknown_grace", unknown.at, unknown.value);
    if let Some(value) = untold.value {
        at_least_grace("untold_grace", untold.at, value);
    }
    let Some(matchers) = raw.matchers else {
        if !problems.mention(&key("match")) {
            let allowed = "add match: [ { exe: \"…\" } ]";
            problems.add(
                raw.at,
                format!("{path}.engine"),
                "has no match, so no child could ever be an engine",
                allowed,
            );
        }
        return None;
    };
    Some(EnginePolicy {
        matchers,
        grace,
        unknown_grace: unknown.value,
        untold_grace: untold.value,
        through_wrapper: raw.through_wrapper.unwrap_or(false),
        max_kills: raw.max_kills.unwrap_or(defaults::MAX_KILLS),
    })
}

fn liveness(raw: &RawLiveness, path: &str, problems: &mut Problems) -> Option<Liveness> {
    let (Some(period), Some(timeout), Some(failures)) = (raw.period, raw.timeout, raw.failures)
    else {
        // The kubelet's own defaults would be a guess about a probe that nobody has described.
        let all = &schema::keys("targets[].liveness")[..3];
        if !problems.mention(&format!("{path}.liveness")) {
            let allowed = format!("add all of {}", all.join(", "));
            problems.add(raw.at, format!("{path}.liveness"), "half a probe", allowed);
        }
        return None;
    };
    let imminent_margin = raw.imminent_margin.unwrap_or(defaults::IMMINENT_MARGIN);
    Some(Liveness {
        period,
        timeout,
        failures,
        port: None,
        imminent_margin,
    })
}

fn otlp(raw: RawOtlp) -> Otlp {
    let protocol = raw.protocol.unwrap_or_default();
    let standard = match protocol {
        OtlpProtocol::Grpc => "http://localhost:4317",
        OtlpProtocol::HttpProtobuf => "http://localhost:4318",
    };
    Otlp {
        endpoint: raw.endpoint.unwrap_or_else(|| standard.to_owned()),
        protocol,
    }
}
