//! Metrics against a real Prometheus with its OTLP receiver: what it calls them, what it makes of their ends.
//!
//! `LOOPWARDEN_PROMETHEUS` is the path of a Prometheus 3.5 (`cargo xtask prometheus` fetches one and prints it). Without it
//! the test says so and ends, except where `LOOPWARDEN_CI` is 1: there it fails.
#![expect(clippy::unwrap_used, reason = "a test")]

mod export_support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use export_support::{
    PATIENCE, at_risk, closed, ended, engine, eventually, get, info, opened, sent, settings, start,
    totals, waited,
};
use loopwarden::export::Exporter;
use loopwarden::export::metric::{Kind, Metric};
use loopwarden::pipeline::{Mono, Notice};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// A Prometheus that ends with the test.
struct Prometheus {
    process: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(binary: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = "global: { scrape_interval: 1s }\nscrape_configs:\n- job_name: page\n  file_sd_configs:\n  \
                      - { files: [targets.json], refresh_interval: 1s }\n";
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        std::fs::write(folder.path().join("targets.json"), "[]").unwrap();
        let mut process = Command::new(binary)
            .current_dir(folder.path())
            .args([
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                "--web.listen-address=127.0.0.1:0",
            ])
            .args(["--web.enable-otlp-receiver", "--log.level=info"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()));
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let listening = lines.find_map(|line| {
            let line = line.unwrap();
            let address = line
                .contains("Listening on")
                .then(|| line.split("address=").nth(1))??;
            Some(address.split_whitespace().next()?.to_owned())
        });
        // Its log would fill the pipe and stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let address = listening.expect("Prometheus ended without listening");
        Self {
            process,
            address,
            folder,
        }
    }

    fn scrape(&self, exporter: &Exporter) {
        let targets = format!(
            "[{{\"targets\":[\"{}\"]}}]",
            exporter.page_address().unwrap()
        );
        // Moved into place: Prometheus would read a half-written file.
        let aside = self.folder.path().join("targets.new");
        std::fs::write(&aside, targets).unwrap();
        std::fs::rename(aside, self.folder.path().join("targets.json")).unwrap();
    }

    async fn api(&self, path: &str) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.address);
        match get(&url, "application/json").await {
            Ok((200, body)) => serde_json::from_str(&body).unwrap(),
            other => Value::String(format!("{other:?}")),
        }
    }

    /// The result of an instant query: value by value.
    async fn query(&self, expression: &str) -> Vec<f64> {
        let path = format!(
            "query?query={}",
            utf8_percent_encode(expression, NON_ALPHANUMERIC)
        );
        let answer = self.api(&path).await;
        let result = answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        result
            .iter()
            .filter_map(|series| series["value"][1].as_str()?.parse().ok())
            .collect()
    }

    async fn wait(&self, expression: &str, ok: impl Fn(&Vec<f64>) -> bool) -> Vec<f64> {
        eventually(expression, async || self.query(expression).await, ok).await
    }

    /// Names of the metrics of a job.
    async fn names(&self, job: &str) -> BTreeSet<String> {
        let selector = format!("{{job=\"{job}\",__name__=~\"loopwarden_.*\"}}");
        let path = format!(
            "label/__name__/values?match[]={}",
            utf8_percent_encode(&selector, NON_ALPHANUMERIC)
        );
        let names = self.api(&path).await;
        names["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    }

    /// Labels of a metric of a job.
    async fn labels(&self, job: &str, name: &str) -> BTreeSet<String> {
        let selector = format!("{name}{{job=\"{job}\"}}");
        let path = format!(
            "labels?match[]={}",
            utf8_percent_encode(&selector, NON_ALPHANUMERIC)
        );
        let labels = self.api(&path).await;
        labels["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|label| Some(label.as_str()?.to_owned()))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("LOOPWARDEN_PROMETHEUS").map(Into::into);
    if path.is_none() {
        let missing = "LOOPWARDEN_PROMETHEUS is not set (see `cargo xtask prometheus`)";
        assert!(
            std::env::var("LOOPWARDEN_CI").as_deref() != Ok("1"),
            "{missing}"
        );
        eprintln!("NOT TESTED against a real Prometheus: {missing}");
    }
    path
}

fn variables<'a>(
    endpoint: &'a str,
    interval: &'a str,
    service: &'a str,
) -> [(&'a str, &'a str); 6] {
    [
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_METRIC_EXPORT_INTERVAL", interval),
        ("OTEL_SERVICE_NAME", service),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=node-1"),
    ]
}

#[tokio::test]
async fn a_real_prometheus_understands_what_is_pushed_and_scraped() {
    let Some(binary) = binary() else { return };
    let prometheus = Prometheus::start(&binary);
    let endpoint = format!("http://{}/api/v1/otlp/v1/metrics", prometheus.address);
    let ready = format!("http://{}/-/ready", prometheus.address);
    let _ = eventually(
        "ready",
        async || get(&ready, "*/*").await,
        |answer| matches!(answer, Ok((200, _))),
    )
    .await;

    what_cannot_wait_is_pushed_at_once(&prometheus, &endpoint).await;

    let (exporter, source) = start(settings(true, &variables(&endpoint, "500", "pushed"))).await;
    prometheus.scrape(&exporter);
    let me = info(7);
    source.loops.lock().unwrap().push((me.clone(), totals()));
    let lost = Notice::Lost {
        at: Mono(0),
        what: "ring_full".into(),
        count: 3,
    };
    let story = [
        opened(&me),
        at_risk(&me),
        sent(&me),
        waited(&me),
        engine(&me),
        closed(&me),
        lost,
    ];
    for notice in story {
        exporter.notice(notice);
    }
    values_and_labels(&prometheus).await;
    the_first_event_is_seen(&prometheus).await;
    scraped_and_pushed_names_are_the_same(&prometheus).await;

    source.loops.lock().unwrap().clear();
    exporter.notice(ended(&me));
    series_end_with_their_process(&prometheus).await;
    exporter.shutdown(PATIENCE).await;
}

/// With an interval of an hour, nothing would arrive in the time of the test.
async fn what_cannot_wait_is_pushed_at_once(prometheus: &Prometheus, endpoint: &str) {
    let (exporter, _source) =
        start(settings(false, &variables(endpoint, "3600000", "at_once"))).await;
    let me = info(5);
    exporter.notice(Notice::Loop {
        at: Mono(0),
        info: me.clone(),
    });
    exporter.notice(opened(&me));
    prometheus
        .wait(
            "loopwarden_stall_open{job=\"at_once\",cause=\"child_wait\"}",
            |v| *v == [1.0],
        )
        .await;
    prometheus
        .wait(
            "loopwarden_loop_stalled_seconds{job=\"at_once\"} > 0.09",
            |v| v.len() == 1,
        )
        .await;
    exporter.notice(sent(&me));
    let signals =
        "loopwarden_action_signals_total{job=\"at_once\",outcome=\"sent\",signal=\"SIGKILL\"}";
    prometheus.wait(signals, |v| *v == [1.0]).await;
    exporter.notice(closed(&me));
    prometheus
        .wait(
            "loopwarden_stall_open{job=\"at_once\",cause=\"child_wait\"}",
            |v| *v == [0.0],
        )
        .await;
    exporter.shutdown(Duration::from_secs(10)).await;
}

async fn values_and_labels(prometheus: &Prometheus) {
    const WHO: &str =
        "loopwarden_target=\"litellm\",process_executable_name=\"python3.11\",process_pid=\"7\"";
    for job in ["job=\"pushed\",instance=\"node-1\"", "job=\"page\""] {
        let rescue = "loopwarden_rescue_duration_seconds";
        for (series, expected) in [
            (
                "loopwarden_loop_time_seconds_total{state=\"idle\",WHO}",
                40.0,
            ),
            (
                "loopwarden_loop_time_seconds_total{state=\"active\",WHO}",
                20.0,
            ),
            (
                "loopwarden_loop_iteration_duration_seconds_count{WHO}",
                1000.0,
            ),
            ("loopwarden_loop_iteration_duration_seconds_sum{WHO}", 20.0),
            ("loopwarden_loop_stalled_seconds{WHO}", 0.0),
            (
                "loopwarden_stall_duration_seconds_count{cause=\"child_wait\",WHO}",
                1.0,
            ),
            (
                "loopwarden_stall_duration_seconds_count{cause=\"sleep\",WHO}",
                0.0,
            ),
            ("loopwarden_stall_open{cause=\"gil_wait\",WHO}", 0.0),
            ("loopwarden_engine_wait_duration_seconds_count{WHO}", 1.0),
            (
                "loopwarden_action_signals_total{signal=\"SIGKILL\",mode=\"enforce\",outcome=\"sent\",WHO}",
                1.0,
            ),
            (
                "loopwarden_action_signals_total{signal=\"SIGTERM\",mode=\"enforce\",refused_by=\"budget\",WHO}",
                0.0,
            ),
            (&format!("{rescue}_sum{{WHO}}"), 0.52),
            (
                "loopwarden_agent_hook_verdict{hook=\"signal\",verdict=\"unsupported\"}",
                1.0,
            ),
            (
                "loopwarden_agent_hook_verdict{hook=\"signal\",verdict=\"ok\"}",
                0.0,
            ),
            (
                "loopwarden_agent_kernel_events_total{counter=\"ring_full\"}",
                2.0,
            ),
            ("loopwarden_agent_scan_lateness_seconds_count{}", 3.0),
            ("loopwarden_agent_loops{}", 1.0),
            (
                "loopwarden_agent_journal_incidents_total{outcome=\"counted\"}",
                1.0,
            ),
            ("loopwarden_agent_journal_size_bytes{}", 4096.0),
        ] {
            let query = series
                .replace("WHO", WHO)
                .replace('{', &format!("{{{job},"))
                .replace(",}", "}");
            prometheus
                .wait(&query, |values| *values == [expected])
                .await;
        }
        for (quantile, low, high) in [(0.5, 0.067, 0.134), (0.99, 0.134, 0.268)] {
            let by =
                format!("sum by (le) (loopwarden_loop_iteration_duration_seconds_bucket{{{job}}})");
            let query = format!("histogram_quantile({quantile}, {by})");
            prometheus
                .wait(&query, |values| {
                    values.len() == 1 && values[0] > low && values[0] < high
                })
                .await;
        }
    }
    prometheus
        .wait("target_info{job=\"pushed\",host_name!=\"\"}", |values| {
            *values == [1.0]
        })
        .await;
}

/// The signal went out before any export: `increase()` has to see it all the same.
async fn the_first_event_is_seen(prometheus: &Prometheus) {
    for series in [
        "loopwarden_action_signals_total{job=\"pushed\",outcome=\"sent\",signal=\"SIGKILL\"}",
        "loopwarden_stall_duration_seconds_count{job=\"pushed\",cause=\"child_wait\"}",
    ] {
        prometheus
            .wait(&format!("increase({series}[5m])"), |values| {
                values.len() == 1 && values[0] > 0.0
            })
            .await;
    }
}

async fn scraped_and_pushed_names_are_the_same(prometheus: &Prometheus) {
    let names = async || {
        (
            prometheus.names("page").await,
            prometheus.names("pushed").await,
        )
    };
    let (scraped, _) = eventually("names", names, |(page, pushed)| {
        !page.is_empty() && page == pushed
    })
    .await;
    for metric in Metric::ALL {
        let mut name = metric.prometheus_name();
        if matches!(metric.instrument().kind, Kind::Histogram(_)) {
            name.push_str("_count");
        }
        assert!(scraped.contains(&name), "{name} is not among {scraped:?}");
    }
    for name in &scraped {
        let (page, pushed) = (
            prometheus.labels("page", name).await,
            prometheus.labels("pushed", name).await,
        );
        assert_eq!(page, pushed, "{name}");
    }
}

async fn series_end_with_their_process(prometheus: &Prometheus) {
    for name in [
        "loopwarden_loop_stalled_seconds",
        "loopwarden_loop_time_seconds_total",
        "loopwarden_stall_duration_seconds_bucket",
        "loopwarden_stall_duration_seconds_count",
        "loopwarden_stall_duration_seconds_sum",
        "loopwarden_action_signals_total",
    ] {
        // Without the mark of the end, an instant query would show the last value for five minutes more.
        prometheus
            .wait(&format!("{name}{{job=\"pushed\"}}"), Vec::is_empty)
            .await;
        let before = format!("count(last_over_time({name}{{job=\"pushed\"}}[5m]))");
        prometheus
            .wait(&before, |values| values.len() == 1 && values[0] > 0.0)
            .await;
    }
    prometheus
        .wait(
            "loopwarden_loop_stalled_seconds{job=\"page\"}",
            Vec::is_empty,
        )
        .await;
    let kept = "loopwarden_loop_time_seconds_total{job=\"page\",state=\"idle\"}";
    prometheus.wait(kept, |values| *values == [40.0]).await;
    prometheus
        .wait("loopwarden_agent_loops{job=\"pushed\"}", |values| {
            *values == [0.0]
        })
        .await;
}
