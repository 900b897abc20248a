//! Good files and what they mean.

use std::time::Duration;

use crate::config::{Allowance, ApiUse, Budget, Config, OtlpProtocol};
use crate::pipeline::{Collect, Mode, Pid};

/// The example of the documentation, every key of it.
const EVERY_KEY: &str = r#"
mode: observe
targets:
  - preset: litellm
  - name: checkout-bff
    match: { exe: "node", cmdline: "server.js" }
    stall_after: 100ms
    engine: { match: [ { exe: "query-engine-*" } ], grace: 500ms, unknown_grace: 10s, untold_grace: never,
              through_wrapper: false, max_kills: { count: 20, per: 10m } }
    liveness: { period: 10s, timeout: 1s, failures: 3, imminent_margin: 10s }
  - name: pods
    match: { kubernetes: { namespace: shop, labels: { app: bff, "a.b/c": "1" } } }
limits: { node_kills: { count: 200, per: 1m }, pause: 1s }
annotations: { allow: [ enforce, engine, shorter-grace, stall-after ] }
kubernetes: { api: off, kubeconfig: /etc/k/config, node: node-1.example, events: false, engine_ready: true }
evidence: { collect: procfs, per_loop: 5s, node_cpu_percent: 3 }
export:
  otlp: { endpoint: "http://localhost:4317", protocol: grpc }
  metrics: { listen: "127.0.0.1:9469" }
journal: { dir: /var/lib/loopwarden, max_bytes: 64MiB }
"#;

pub(super) fn read(text: &str) -> Config {
    Config::parse(text, "f.yaml", None).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn every_key() -> Config {
    read(EVERY_KEY)
}

#[test]
fn every_key_is_read() {
    let config = every_key();
    let [litellm, bff, pods] = &config.targets[..] else {
        panic!("{:?}", config.targets)
    };
    assert_eq!(litellm.name, "litellm");
    assert!(bff.matcher.matches(Pid(1), b"node", b"node /srv/server.js"));
    let engine = bff.engine.as_ref().unwrap();
    assert_eq!(
        (engine.grace, engine.unknown_grace),
        (Duration::from_millis(500), Duration::from_secs(10))
    );
    assert_eq!((engine.untold_grace, engine.through_wrapper), (None, false));
    assert_eq!(
        engine.max_kills,
        Budget {
            count: 20,
            per: Duration::from_mins(10)
        }
    );
    let liveness = bff.liveness.unwrap();
    assert_eq!(
        (liveness.period, liveness.failures),
        (Duration::from_secs(10), 3)
    );
    let kubernetes = pods.matcher.kubernetes.as_ref().unwrap();
    assert_eq!(kubernetes.namespace.as_deref(), Some("shop"));
    assert_eq!(kubernetes.labels["a.b/c"], "1");
    assert_eq!(config.annotations.allow.len(), 4);
    assert_eq!(config.annotations.allow[2], Allowance::ShorterGrace);
    let api = &config.kubernetes;
    assert_eq!(
        (api.api, api.events, api.engine_ready),
        (ApiUse::Off, false, true)
    );
    assert_eq!(api.node.as_deref(), Some("node-1.example"));
    assert_eq!(config.evidence.collect, Collect::Procfs);
    assert_eq!(config.evidence.per_loop, Duration::from_secs(5));
    assert_eq!(config.evidence.node_cpu_percent, 3);
    assert_eq!(config.journal.max_bytes, 64 << 20);
}

#[test]
fn nothing_said_means_observe_litellm() {
    let config = read("{}");
    assert_eq!(Config::built_in(None).unwrap(), config);
    assert_eq!(config.mode, Mode::Observe);
    assert_eq!(config.targets.len(), 1);
    assert_eq!(config.limits.node_kills.count, 200);
    assert_eq!(config.export.otlp, None);
    assert_eq!(
        config.export.metrics.unwrap().listen.to_string(),
        "127.0.0.1:9469"
    );
    assert_eq!(
        Config::built_in(Some(Mode::Enforce)).unwrap().mode,
        Mode::Enforce
    );
}

#[test]
fn the_litellm_preset_knows_proxy_and_engine() {
    let target = read("targets: [ { preset: litellm } ]").targets.remove(0);
    for (exe, cmdline, belongs) in [
        (
            "python3.11",
            "/usr/bin/python3 /usr/local/bin/litellm --port 4000",
            true,
        ),
        (
            "python3",
            "python3 -m uvicorn litellm.proxy.proxy_server:app --workers 4",
            true,
        ),
        (
            "python",
            "/app/.venv/bin/python /app/.venv/bin/gunicorn litellm.proxy.proxy_server:app",
            true,
        ),
        ("python3.11", "python3 manage.py runserver", false),
        ("vim", "vim litellm.yaml", false),
    ] {
        assert_eq!(
            target
                .matcher
                .matches(Pid(9), exe.as_bytes(), cmdline.as_bytes()),
            belongs,
            "{cmdline}"
        );
    }
    let engine = target.engine.unwrap();
    for (exe, is_engine) in [
        ("query-engine-debian-openssl-3.0.x", true),
        ("prisma-query-engine-debian-openssl-3.0.x", true),
        ("node", false),
        ("python3.11", false),
    ] {
        assert_eq!(
            engine.is_engine(exe.as_bytes(), b"x query-engine-y"),
            is_engine,
            "{exe}"
        );
    }
}

#[test]
fn a_preset_is_overridden_key_by_key() {
    let text =
        "targets: [ { preset: litellm, name: proxy, stall_after: 50ms, engine: { grace: 20ms } } ]";
    let (own, base) = (read(text).targets.remove(0), read("{}").targets.remove(0));
    let (engine, base_engine) = (own.engine.unwrap(), base.engine.unwrap());
    assert_eq!(
        (own.name.as_str(), own.stall_after),
        ("proxy", Duration::from_millis(50))
    );
    assert_eq!(own.matcher, base.matcher);
    assert_eq!(engine.grace, Duration::from_millis(20));
    assert_eq!(engine.matchers, base_engine.matchers);

    let text = "targets: [ { preset: litellm, match: { exe: pypy3 } } ]";
    let own = read(text).targets.remove(0);
    assert_eq!(own.matcher.cmdline, None, "match is taken whole");
}

#[test]
fn a_long_grace_lengthens_the_default_of_the_unknown_one() {
    let engine = read("targets: [ { preset: litellm, engine: { grace: 1m } } ]")
        .targets
        .remove(0)
        .engine
        .unwrap();
    assert_eq!(engine.unknown_grace, Duration::from_mins(1));
}

#[test]
fn export_may_be_turned_and_bent() {
    let export =
        read("export: { metrics: { listen: none }, otlp: { protocol: http/protobuf } }").export;
    assert_eq!(export.metrics, None);
    let otlp = export.otlp.unwrap();
    assert_eq!(
        (otlp.endpoint.as_str(), otlp.protocol),
        ("http://localhost:4318", OtlpProtocol::HttpProtobuf)
    );
    assert_eq!(
        read("export: { otlp: {} }").export.otlp.unwrap().endpoint,
        "http://localhost:4317"
    );
}

#[test]
fn aliases_and_scalars_that_look_like_numbers_are_fine() {
    let config = read(
        "targets:\n  - { name: 123, match: { cmdline: 8080 }, engine: &e { match: [ { exe: q } ] } }\n  - { name: b, match: { exe: true }, engine: *e }\n",
    );
    assert_eq!(config.targets[0].name, "123");
    assert_eq!(config.targets[0].engine, config.targets[1].engine);
}

#[test]
fn a_diff_names_what_changed_and_only_that() {
    let before = read("targets: [ { preset: litellm } ]");
    let text = "mode: enforce\ntargets: [ { name: x, match: { exe: node } }, { preset: litellm, engine: { grace: 20ms } } ]\nlimits: { node_kills: { count: 5, per: 1m } }";
    assert_eq!(before.diff(&before), Vec::<String>::new());
    assert_eq!(
        before.diff(&read(text)),
        [
            "mode: observe -> enforce",
            "targets[litellm].engine.grace: 500ms -> 20ms",
            "limits.node_kills: {count: 200, per: 1m} -> {count: 5, per: 1m}",
            "targets[x].name: (new) \"x\"",
            "targets[x].match.exe: (new) \"node\"",
            "targets[x].stall_after: (new) 100ms",
        ]
    );
    let (ab, ba) = (
        "{ name: a, match: { exe: x } }",
        "{ name: b, match: { exe: y } }",
    );
    let one = read(&format!("targets: [ {ab}, {ba} ]"));
    let other = read(&format!("targets: [ {ba}, {ab} ]"));
    assert_eq!(one.diff(&other), ["targets: in another order"]);
}
