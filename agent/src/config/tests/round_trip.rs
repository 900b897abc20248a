//! What is printed reads back to the same value.

use std::time::Duration;

use super::good::{every_key, read};
use crate::config::model::defaults;
use crate::config::{
    Annotations, Budget, CmdlineGlob, Config, EngineMatcher, EnginePolicy, EvidenceRules, ExeGlob,
    Export, Limits, Matcher, Metrics, Otlp, OtlpProtocol, Target,
};
use crate::pipeline::{Collect, Mode};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

#[test]
fn every_key_is_printed_and_reads_back() {
    let config = every_key();
    let text = config.to_yaml();
    assert_eq!(
        Config::parse(&text, "printed", None).unwrap_or_else(|error| panic!("{error}\n{text}")),
        config,
        "{text}"
    );
}

#[test]
fn the_default_is_printed_like_this() {
    assert_eq!(Config::built_in(None).unwrap().to_yaml(), DEFAULT);
}

const DEFAULT: &str = r#"mode: observe
targets:
  - name: "litellm"
    match:
      exe: "python*"
      cmdline: "litellm"
    stall_after: 100ms
    engine:
      match:
        - exe: "query-engine-*"
        - exe: "prisma-query-engine-*"
      grace: 500ms
      unknown_grace: 10s
      untold_grace: never
      through_wrapper: false
      max_kills:
        count: 20
        per: 10m
limits:
  node_kills:
    count: 200
    per: 1m
  pause: 1s
annotations:
  allow: []
kubernetes:
  api: auto
  events: true
  engine_ready: false
evidence:
  collect: full
  per_loop: 1s
  node_cpu_percent: 2
export:
  metrics:
    listen: "127.0.0.1:9469"
journal:
  dir: "/var/lib/loopwarden"
  max_bytes: 64MiB
"#;

fn span(most_ms: u64) -> impl Strategy<Value = Duration> {
    (1..=most_ms).prop_map(Duration::from_millis)
}

/// Any text that is a glob, with everything that YAML gives a meaning to.
fn exe() -> impl Strategy<Value = ExeGlob> {
    "[\\PC\n\t\r\u{85}\u{2028}'\"&&[^/]]{1,20}"
        .prop_filter_map("no glob", |text| ExeGlob::new(&text).ok())
}

fn cmdline() -> impl Strategy<Value = CmdlineGlob> {
    "[ -~\\n\\x00\\x7f\u{feff}\u{1f600}]{1,20}"
        .prop_filter_map("no glob", |text| CmdlineGlob::new(&text).ok())
}

fn budget() -> impl Strategy<Value = Budget> {
    (1..=100_000u32, 1..=86_400u64).prop_map(|(count, per)| Budget {
        count,
        per: Duration::from_secs(per),
    })
}

fn engine() -> impl Strategy<Value = EnginePolicy> {
    let matcher = prop_oneof![
        exe().prop_map(|exe| EngineMatcher {
            exe: Some(exe),
            cmdline: None
        }),
        (of(exe()), cmdline()).prop_map(|(exe, cmdline)| EngineMatcher {
            exe,
            cmdline: Some(cmdline)
        }),
    ];
    (
        vec(matcher, 1..4),
        span(3_600_000),
        span(80_000_000),
        of(span(80_000_000)),
        any::<bool>(),
        budget(),
    )
        .prop_map(
            |(matchers, grace, unknown, untold, through_wrapper, max_kills)| EnginePolicy {
                matchers,
                grace,
                unknown_grace: unknown.max(grace),
                untold_grace: untold.map(|untold| untold.max(grace)),
                through_wrapper,
                max_kills,
            },
        )
}

fn target() -> impl Strategy<Value = Target> {
    let matcher = prop_oneof![
        exe().prop_map(|exe| Matcher {
            exe: Some(exe),
            ..Matcher::default()
        }),
        (of(exe()), cmdline()).prop_map(|(exe, cmdline)| Matcher {
            exe,
            cmdline: Some(cmdline),
            ..Matcher::default()
        }),
    ];
    ("[a-zA-Z0-9._-]{1,63}", matcher, span(3_600_000), engine()).prop_map(
        |(name, matcher, stall_after, engine)| Target {
            name,
            matcher,
            stall_after,
            engine: Some(engine),
            liveness: None,
        },
    )
}

fn evidence() -> impl Strategy<Value = EvidenceRules> {
    let collect = (0..Collect::WORDS.len()).prop_map(|index| Collect::WORDS[index].1);
    (collect, 100..3_600_000u64, 1..=100u8).prop_map(|(collect, per_loop, node_cpu_percent)| {
        EvidenceRules {
            collect,
            per_loop: Duration::from_millis(per_loop),
            node_cpu_percent,
        }
    })
}

fn export() -> impl Strategy<Value = Export> {
    let protocol = prop_oneof![Just(OtlpProtocol::Grpc), Just(OtlpProtocol::HttpProtobuf)];
    let otlp = (
        "https?://[a-z][a-z0-9.-]{0,20}(:[1-9][0-9]{0,3})?(/[a-z0-9/]{0,9})?",
        protocol,
    )
        .prop_map(|(endpoint, protocol)| Otlp { endpoint, protocol });
    (of(otlp), of(any::<std::net::SocketAddrV4>())).prop_map(|(otlp, listen)| Export {
        otlp,
        metrics: listen.map(|listen| Metrics {
            listen: listen.into(),
        }),
    })
}

fn config() -> impl Strategy<Value = Config> {
    let mode = prop_oneof![Just(Mode::Observe), Just(Mode::Enforce)];
    let unique = |targets: Vec<Target>| {
        let mut names = std::collections::HashSet::new();
        targets
            .into_iter()
            .filter(|target| names.insert(target.name.clone()))
            .collect::<Vec<_>>()
    };
    (
        mode,
        vec(target(), 1..4),
        budget(),
        span(3_600_000),
        evidence(),
        export(),
    )
        .prop_map(
            move |(mode, targets, node_kills, pause, evidence, export)| Config {
                mode,
                targets: unique(targets),
                limits: Limits { node_kills, pause },
                annotations: Annotations::default(),
                kubernetes: defaults::KUBERNETES,
                evidence,
                export,
                journal: defaults::journal(),
            },
        )
}

proptest! {
    #[test]
    fn any_configuration_reads_back(config in config()) {
        let text = config.to_yaml();
        let back = Config::parse(&text, "printed", None);
        prop_assert_eq!(back.map_err(|error| format!("{error}\n{text}")), Ok(config));
    }

    #[test]
    fn a_diff_is_empty_only_between_equals(one in config(), other in config()) {
        prop_assert_eq!(one.diff(&other).is_empty(), one == other);
        prop_assert!(one.diff(&one.clone()).is_empty());
    }
}

#[test]
fn a_second_reading_prints_the_same() {
    let text = read("{}").to_yaml();
    assert_eq!(read(&text).to_yaml(), text);
}
