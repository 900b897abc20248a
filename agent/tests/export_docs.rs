//! docs/metrics.md is made from the instrument table. `LOOPWARDEN_BLESS=1` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use loopwarden::export::metric::{COMMON, Instrument, Kind, Metric, Scope};
use loopwarden::export::names;
use loopwarden::export::registry::PAGE_KEEPS;
use loopwarden::export::settings::{DEFAULT_INTERVAL, DEFAULT_LISTEN};
use loopwarden::pipeline::engines::Why;
use loopwarden::pipeline::{CauseKind, Refusal};

#[test]
fn the_page_of_metrics_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let expected = page();
    if std::env::var_os("LOOPWARDEN_BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/metrics.md differs from the table of metrics: run this test with LOOPWARDEN_BLESS=1 and commit the page"
    );
}

fn page() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         <!-- Made by agent/tests/export_docs.rs from agent/src/export/metric.rs: change it there. -->\n\n\
         One set of series, shown in two ways that have the same names in Prometheus:\n\n",
    );
    let interval = DEFAULT_INTERVAL.as_secs();
    let _ = write!(
        out,
        "- scraped from `http://{DEFAULT_LISTEN}/metrics` (Prometheus text format, or OpenMetrics when asked for);\n\
         - pushed over OTLP (gRPC or HTTP/protobuf, cumulative) every {interval} s, and at once when a stall opens or ends, \
         when its cause becomes known, at an action, and when the risk of a kill changes.\n\n"
    );
    let keeps = PAGE_KEEPS.as_secs() / 60;
    let common: Vec<String> = COMMON.iter().map(|key| format!("`{key}`")).collect();
    let _ = write!(
        out,
        "## About watched processes\n\n\
         Every series carries {} (in Prometheus `{}`), and where the [pod](kubernetes.md) is known `k8s.namespace.name`, `k8s.pod.name` and \
         `k8s.container.name` (`k8s_namespace_name`, …); loops of one process are added up. The series of a process exist, at 0 \
         and for every value of their attributes, from the moment its first loop is recognised. Those of \
         `loopwarden.liveness` exist where a probe is configured, from its first risk on. When its last loop is gone, \
         gauges end at once; counters and histograms are pushed once more and then end, and stay on the page for {keeps} \
         minutes.\n\n",
        common.join(", "),
        COMMON.map(names::label).join("`, `"),
    );
    table(&mut out, Scope::Process);
    out.push_str("\n## About the agent\n\n");
    table(&mut out, Scope::Agent);
    out.push_str("\n## Values of attributes\n\n| attribute | values |\n| --- | --- |\n");
    for (attribute, values) in values() {
        let _ = writeln!(out, "| `{attribute}` | {values} |");
    }
    bounds(&mut out);
    events(&mut out);
    out
}

fn table(out: &mut String, scope: Scope) {
    out.push_str("| OpenTelemetry | Prometheus | kind | unit | attributes | tells |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for metric in Metric::ALL
        .iter()
        .filter(|metric| metric.instrument().scope == scope)
    {
        let Instrument {
            name,
            unit,
            kind,
            attributes,
            help,
            ..
        } = metric.instrument();
        let attributes: Vec<String> = attributes.iter().map(|key| format!("`{key}`")).collect();
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let prometheus = metric.prometheus_name();
        let _ = writeln!(
            out,
            "| `{name}` | `{prometheus}` | {kind} | `{unit}` | {} | {help} |",
            attributes.join(", ")
        );
    }
}

fn values() -> Vec<(&'static str, String)> {
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    vec![
        (
            "state",
            "of `loopwarden.loop.time` `idle`, `active`; of `loopwarden.engine.ready` `accepts`, `starting`, `unknown`".to_owned(),
        ),
        ("stage", words(&["listening", "accepting"])),
        ("reason", words(&Why::COUNTED.map(Why::name))),
        ("cause", words(&CauseKind::ALL.map(CauseKind::name))),
        ("signal", words(&["SIGTERM", "SIGKILL"])),
        ("mode", words(&["observe", "enforce"])),
        (
            "outcome",
            format!(
                "of signals {}; of `loopwarden.engine.connects` {}",
                words(&[
                    "sent",
                    "would_send",
                    "refused",
                    "failed",
                    "gone",
                    "ineffective",
                ]),
                words(&["ok", "refused"])
            ),
        ),
        (
            "refused_by",
            format!(
                "only of signals where `outcome` is `refused`: {}",
                words(&Refusal::ALL.map(Refusal::name))
            ),
        ),
        ("verdict", words(&["ok", "unsupported", "broken"])),
        ("exporter", words(&["page", "otlp_metrics", "otlp_logs"])),
    ]
}

fn bounds(out: &mut String) {
    out.push_str(
        "\n## Bounds of the histograms\n\n| metric | upper bounds in seconds |\n| --- | --- |\n",
    );
    for metric in Metric::ALL {
        if let Kind::Histogram(bounds) = metric.instrument().kind {
            let bounds: Vec<String> = bounds.iter().map(ToString::to_string).collect();
            let _ = writeln!(
                out,
                "| `{}` | {} |",
                metric.instrument().name,
                bounds.join(", ")
            );
        }
    }
    out.push_str(
        "\nThe bounds of iterations and scans are powers of two of a nanosecond, which are bounds of the kernel's own \
         histogram too: folding it moves no count across a bound.\n",
    );
}

fn events(out: &mut String) {
    out.push_str(
        "\n## Events\n\n\
         Over OTLP the following are also told as log records, each with its name in `event_name`, a severity, a sentence as \
         body, and attributes: `loopwarden.stall_opened`, `loopwarden.stall_closed`, `loopwarden.action`, \
         `loopwarden.liveness_risk`, `loopwarden.startup_race`, `loopwarden.lost`. Which is told when, with which attributes, and what follows an outage of the collector: [events](events.md).\n\n\
         ## Settings\n\n\
         The section `export` of the configuration file, and over it the standard variables, each also as the variable of a \
         signal where OpenTelemetry has one (`OTEL_EXPORTER_OTLP_LOGS_ENDPOINT`): `OTEL_EXPORTER_OTLP_ENDPOINT`, `_PROTOCOL` \
         (`grpc`, `http/protobuf`; if nothing says, port 4317 means gRPC), `_HEADERS`, `_TIMEOUT`, `_COMPRESSION`, \
         `_CERTIFICATE`, `_CLIENT_CERTIFICATE`, `_CLIENT_KEY`; `OTEL_METRICS_EXPORTER` (`otlp`, `prometheus`, `none`), \
         `OTEL_LOGS_EXPORTER` (`otlp`, `none`), `OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_SERVICE_NAME`, \
         `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SDK_DISABLED` (ends the pushing, not the page), `OTEL_EXPORTER_PROMETHEUS_HOST`, \
         `OTEL_EXPORTER_PROMETHEUS_PORT`. Prometheus takes metrics only: set `OTEL_LOGS_EXPORTER=none`, and the path of its \
         receiver: `OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:9090/api/v1/otlp`.\n",
    );
}
