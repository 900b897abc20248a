//! The page beside the collectors, and settings with which the exporters cannot start.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::export_support::{PATIENCE, Source, get, settings, start};

#[tokio::test]
async fn the_page_answers_what_it_should() {
    let (exporter, _source) = start(settings(true, &[])).await;
    let page = format!("http://{}", exporter.page_address().unwrap());
    let (status, text) = get(&format!("{page}/metrics"), "*/*").await.unwrap();
    assert_eq!(status, 200);
    assert!(
        text.contains("# TYPE loopwarden_agent_cpu_time_seconds_total counter\n"),
        "{text}"
    );
    let open = get(
        &format!("{page}/metrics"),
        "application/openmetrics-text;version=1.0.0",
    )
    .await
    .unwrap()
    .1;
    assert!(
        open.ends_with("# EOF\n")
            && open.contains("# UNIT loopwarden_agent_cpu_time_seconds seconds\n")
    );
    let (status, health) = get(&format!("{page}/healthz"), "*/*").await.unwrap();
    assert_eq!(
        (status, health.as_str()),
        (200, "ok\nsignal: unsupported (no such tracepoint)\n")
    );
    assert_eq!(get(&format!("{page}/secret"), "*/*").await.unwrap().0, 404);
    exporter.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    let settings = settings(true, &[("OTEL_EXPORTER_PROMETHEUS_PORT", &port)]);
    let source = Arc::new(Source::default());
    let error = loopwarden::export::Exporter::start(settings, source.clone(), source)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("export.metrics.listen"),
        "{error}"
    );
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_an_error_that_names_it() {
    let settings = settings(
        false,
        &[
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "https://me:hunter2@127.0.0.1:1",
            ),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ],
    );
    let source = Arc::new(Source::default());
    let error = loopwarden::export::Exporter::start(settings, source.clone(), source)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/nowhere/ca.pem") && error.contains("https://127.0.0.1:1"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}
