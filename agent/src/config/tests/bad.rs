//! Bad files and the exact words that answer them.

use crate::config::Config;
use crate::pipeline::Mode;

fn message(text: &str) -> String {
    match Config::parse(text, "f.yaml", None) {
        Ok(config) => panic!("{text:?} was read as {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn each_mistake_is_told_with_its_place_and_what_is_allowed() {
    for (text, expected) in TABLE {
        assert_eq!(message(text), *expected, "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "mode: kill\ntargets:\n  - name: a b\n    match: { exe: x/y }\n    stall_afer: 1s\n    engine: { match: [], grace: 5 }\ncolour: red\n";
    let places: Vec<String> = message(text)
        .lines()
        .map(|line| line.split(' ').next().unwrap_or("").to_owned())
        .collect();
    let expected = ["1:7", "3:11", "4:19", "5:5", "6:22", "6:33", "7:1"]
        .map(|place| format!("f.yaml:{place}:"));
    assert_eq!(places, expected, "{}", message(text));
}

#[test]
fn a_file_full_of_mistakes_gives_a_list_of_bounded_length() {
    let text = (0..5000)
        .map(|n| format!("key{n}: 1"))
        .collect::<Vec<_>>()
        .join("\n");
    let message = message(&text);
    assert_eq!(message.lines().count(), 21);
    assert!(message.ends_with("f.yaml: and 4980 more"), "{message}");
}

#[test]
fn the_command_line_may_make_a_good_file_contradictory() {
    let text = "targets: [ { name: a, match: { exe: node } } ]";
    assert!(Config::parse(text, "f.yaml", None).is_ok());
    let error = Config::parse(text, "f.yaml", Some(Mode::Enforce))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("f.yaml: mode: enforce, but no target names an engine"),
        "{error}"
    );
}

#[test]
fn credentials_are_never_repeated() {
    for endpoint in [
        "http://me:hunter2@x:4317",
        "http://x/?token=hunter2",
        "hunter2",
        "ftp://hunter2",
        "http://[hunter2",
    ] {
        let message = message(&format!(
            "export: {{ otlp: {{ endpoint: \"{endpoint}\" }} }}"
        ));
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[rustfmt::skip] // A row is a file and its answer; broken lines would hide which is which.
const TABLE: &[(&str, &str)] = &[
    (
        "",
        "f.yaml: the file is empty; write {} for the defaults",
    ),
    (
        "# only a comment\n",
        "f.yaml: the file is empty; write {} for the defaults",
    ),
    (
        "just text",
        r#"f.yaml:1:1: found "just text"; allowed: a mapping with the keys mode, targets, limits, annotations, kubernetes, evidence, export, journal"#,
    ),
    (
        "- a\n",
        "f.yaml:1:1: found a list; allowed: a mapping with the keys mode, targets, limits, annotations, kubernetes, evidence, export, journal",
    ),
    (
        "mode:\n",
        "f.yaml:1:5: mode: found nothing; allowed: observe or enforce",
    ),
    (
        "mode: kill\n",
        r#"f.yaml:1:7: mode: "kill" is none of these; allowed: observe or enforce"#,
    ),
    (
        "mode: [enforce]\n",
        "f.yaml:1:7: mode: found a list; allowed: observe or enforce",
    ),
    (
        "mode: observe\nmode: observe\n",
        "f.yaml:2:1: mode: the key is there twice; remove one of them",
    ),
    (
        "targets: []\n",
        "f.yaml:1:10: targets: found an empty list; allowed: a list of targets, at least one",
    ),
    (
        "targets: { preset: litellm }\n",
        "f.yaml:1:10: targets: found a mapping; allowed: a list of targets",
    ),
    (
        "targets: [ litellm ]\n",
        r#"f.yaml:1:12: targets[0]: found "litellm"; allowed: a mapping with the keys preset, name, match, stall_after, engine, liveness"#,
    ),
    (
        "targets: [ { preset: litelm } ]\n",
        r#"f.yaml:1:22: targets[0].preset: there is no preset "litelm"; allowed: litellm"#,
    ),
    (
        "targets: [ {} ]\n",
        "f.yaml:1:12: targets[0]: has no name; add name, or a preset\nf.yaml:1:12: targets[0]: has no match; add match, or a preset",
    ),
    (
        "targets: [ { name: a } ]\n",
        "f.yaml:1:12: targets[0]: has no match; add match, or a preset",
    ),
    (
        "targets: [ { name: a, match: {} } ]\n",
        "f.yaml:1:30: targets[0].match: matches every process; allowed: at least one of exe, cmdline, kubernetes",
    ),
    (
        "targets:\n  - { name: a, match: { exe: x } }\n  - { name: a, match: { exe: y } }\n",
        r#"f.yaml:3:13: targets[1].name: a second target named "a", the first is in line 2; give each target a name of its own"#,
    ),
    (
        "targets: [ { preset: litellm }, { preset: litellm } ]\n",
        r#"f.yaml:1:43: targets[1].name: a second target named "litellm", the first is in line 1; give each target a name of its own"#,
    ),
    (
        "targets: [ { name: a b, match: { exe: x } } ]\n",
        r#"f.yaml:1:20: targets[0].name: "a b" is no name for a target; allowed: 1 to 63 letters, digits, '-', '_' or '.'"#,
    ),
    (
        "targets: [ { name: a, match: { exe: /usr/bin/node } } ]\n",
        r#"f.yaml:1:37: targets[0].match.exe: "/usr/bin/node" contains '/', but only the basename of the executable is compared; allowed: a glob over the basename, such as query-engine-*"#,
    ),
    (
        "targets: [ { name: a, match: { exe: 'a[' } } ]\n",
        r#"f.yaml:1:37: targets[0].match.exe: "a[" is no glob: unclosed character class; missing ']'; allowed: a glob over the basename, such as query-engine-*"#,
    ),
    (
        "targets: [ { name: a, match: { cmdline: '' } } ]\n",
        r#"f.yaml:1:41: targets[0].match.cmdline: "" is empty; allowed: a part of the command line, with * for anything"#,
    ),
    (
        "targets: [ { preset: litellm, stall_after: 0s } ]\n",
        r#"f.yaml:1:44: targets[0].stall_after: "0s" is too little; allowed: 1ms to 1h, written like 500ms, 10s, 1m30s"#,
    ),
    (
        "targets: [ { preset: litellm, stall_after: 100 } ]\n",
        r#"f.yaml:1:44: targets[0].stall_after: "100" has no unit; allowed: 1ms to 1h, written like 500ms, 10s, 1m30s"#,
    ),
    (
        "targets: [ { preset: litellm, stall_after: soon } ]\n",
        r#"f.yaml:1:44: targets[0].stall_after: "soon" is no span of time; allowed: 1ms to 1h, written like 500ms, 10s, 1m30s"#,
    ),
    (
        "targets: [ { preset: litellm, stall_after: 2h } ]\n",
        r#"f.yaml:1:44: targets[0].stall_after: "2h" is too much; allowed: 1ms to 1h, written like 500ms, 10s, 1m30s"#,
    ),
    (
        "targets:\n- preset: litellm\n  stall_afer: 1s\n",
        r#"f.yaml:3:3: targets[0]: unknown key "stall_afer" (did you mean stall_after?); allowed: preset, name, match, stall_after, engine, liveness"#,
    ),
    (
        "targets:\n- preset: litellm\n  grace: 1s\n",
        r#"f.yaml:3:3: targets[0]: unknown key "grace" (grace belongs in targets[].engine); allowed: preset, name, match, stall_after, engine, liveness"#,
    ),
    (
        "targets: [ { name: a, match: { exe: x }, engine: { grace: 1s } } ]\n",
        r#"f.yaml:1:50: targets[0].engine: has no match, so no child could ever be an engine; add match: [ { exe: "…" } ]"#,
    ),
    (
        "targets: [ { name: a, match: { exe: x }, engine: { match: [] } } ]\n",
        "f.yaml:1:59: targets[0].engine.match: found an empty list; allowed: a list of mappings with exe, cmdline or both, at least one",
    ),
    (
        "targets: [ { name: a, match: { exe: x }, engine: { match: [ {} ] } } ]\n",
        "f.yaml:1:61: targets[0].engine.match[0]: matches every child; allowed: at least one of exe, cmdline",
    ),
    (
        "targets: [ { name: a, match: { exe: x }, engine: { match: { exe: q } } } ]\n",
        "f.yaml:1:59: targets[0].engine.match: found a mapping; allowed: a list of mappings with exe, cmdline or both",
    ),
    (
        "targets: [ { preset: litellm, engine: { grace: 15s, unknown_grace: 10s } } ]\n",
        "f.yaml:1:68: targets[0].engine.unknown_grace: 10s is shorter than grace (15s); allowed: grace or longer",
    ),
    (
        "targets: [ { preset: litellm, engine: { untold_grace: 100ms } } ]\n",
        "f.yaml:1:55: targets[0].engine.untold_grace: 100ms is shorter than grace (500ms); allowed: grace or longer",
    ),
    (
        "targets: [ { preset: litellm, engine: { untold_grace: 0s } } ]\n",
        r#"f.yaml:1:55: targets[0].engine.untold_grace: "0s" is too little; allowed: never, or 1ms to 24h, written like 500ms, 10s, 1m30s"#,
    ),
    (
        "targets: [ { preset: litellm, engine: { unknown_grace: never } } ]\n",
        r#"f.yaml:1:56: targets[0].engine.unknown_grace: "never" is no span of time; allowed: 0s to 24h, written like 500ms, 10s, 1m30s"#,
    ),
    (
        "targets: [ { preset: litellm, engine: { through_wrapper: yes } } ]\n",
        r#"f.yaml:1:58: targets[0].engine.through_wrapper: "yes" is none of these; allowed: true or false"#,
    ),
    (
        "targets: [ { preset: litellm, engine: { max_kills: { count: 0, per: 10m } } } ]\n",
        r#"f.yaml:1:61: targets[0].engine.max_kills.count: "0" is too little; allowed: a whole number from 1 to 100000"#,
    ),
    (
        "targets: [ { preset: litellm, engine: { max_kills: { count: 3 } } } ]\n",
        "f.yaml:1:52: targets[0].engine.max_kills: half a budget; allowed: both count and per, such as { count: 20, per: 10m }",
    ),
    (
        "targets: [ { preset: litellm, engine: { max_kills: 3 } } ]\n",
        r#"f.yaml:1:52: targets[0].engine.max_kills: found "3"; allowed: a mapping with the keys count, per"#,
    ),
    (
        "targets: [ { preset: litellm, engine: } ]\n",
        "f.yaml:1:37: targets[0].engine: found nothing; allowed: a mapping with the keys match, grace, unknown_grace, untold_grace, through_wrapper, max_kills",
    ),
    (
        "targets: [ { preset: litellm, liveness: { period: 10s } } ]\n",
        "f.yaml:1:41: targets[0].liveness: half a probe; add all of period, timeout, failures",
    ),
    (
        "kubernetes: { api: on, node: Node_1, kubeconfig: admin.conf, events: no }\n",
        "f.yaml:1:20: kubernetes.api: \"on\" is none of these; allowed: auto or off\nf.yaml:1:30: kubernetes.node: \"Node_1\" is no name of a node; allowed: the name of a node: lower-case letters, digits, '-' and '.', at most 253\nf.yaml:1:50: kubernetes.kubeconfig: \"admin.conf\" is not absolute; allowed: an absolute path\nf.yaml:1:70: kubernetes.events: \"no\" is none of these; allowed: true or false",
    ),
    (
        "mode: enforce\ntargets: [ { name: a, match: { exe: node } } ]\n",
        "f.yaml:1:7: mode: enforce, but no target names an engine: nothing could ever be signalled; give a target an engine, or use mode observe",
    ),
    (
        "limits: { node_kills: { count: many, per: 1m }, pause: -1s }\n",
        "f.yaml:1:32: limits.node_kills.count: \"many\" is no whole number; allowed: a whole number from 1 to 100000\nf.yaml:1:56: limits.pause: \"-1s\" is no span of time; allowed: 0s to 1h, written like 500ms, 10s, 1m30s",
    ),
    (
        "export: { otlp: { endpoint: 'http://me:hunter2@x:4317' } }\n",
        "f.yaml:1:29: export.otlp.endpoint: the URL holds credentials, a query or a fragment (not shown); allowed: an http or https URL such as http://localhost:4317; give credentials in OTEL_EXPORTER_OTLP_HEADERS",
    ),
    (
        "export: { otlp: { endpoint: 'localhost:4317' } }\n",
        "f.yaml:1:29: export.otlp.endpoint: no such URL (not shown); allowed: an http or https URL such as http://localhost:4317",
    ),
    (
        "export: { otlp: { protocol: http } }\n",
        r#"f.yaml:1:29: export.otlp.protocol: "http" is none of these; allowed: grpc or http/protobuf"#,
    ),
    (
        "export: { metrics: { listen: 9469 } }\n",
        r#"f.yaml:1:30: export.metrics.listen: "9469" is no address and port; allowed: IP:PORT such as 127.0.0.1:9469 or [::]:9469, or none"#,
    ),
    (
        "export: { prometheus: {} }\n",
        r#"f.yaml:1:11: export: unknown key "prometheus"; allowed: otlp, metrics"#,
    ),
    (
        "a: [1\nb: 2\n",
        "f.yaml:2:2: no YAML: illegal placement of ':' indicator; correct the syntax here or in the lines before",
    ),
    (
        "mode: \"observe\n",
        "f.yaml:2:1: no YAML: invalid indentation in multiline quoted scalar; correct the syntax here or in the lines before",
    ),
    (
        "\tmode: x\n",
        r#"f.yaml:1:8: mode: "x" is none of these; allowed: observe or enforce"#,
    ),
    (
        "mode: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n",
        r#"f.yaml:1:7: mode: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"… is none of these; allowed: observe or enforce"#,
    ),
    (
        "mode: \"\\e[31m\"\n",
        r#"f.yaml:1:7: mode: "\u{1b}[31m" is none of these; allowed: observe or enforce"#,
    ),
];
