//! Collectors that hang, or are not there: they hold up nothing, and what is lost is counted.

use std::time::Duration;

use tokio::net::TcpListener;

use super::AN_HOUR;
use super::export_support::{PATIENCE, eventually, info, sent, settings, shown, start};

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let hung = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    for protocol in ["grpc", "http/protobuf"] {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
            AN_HOUR,
        ];
        counted_and_not_held_up(&variables).await;
    }
    hung.abort();
}

#[tokio::test]
async fn a_collector_that_is_not_there_holds_up_nothing() {
    // Bound and closed again: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = format!("http://{address}");
    for protocol in ["grpc", "http/protobuf"] {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            AN_HOUR,
        ];
        counted_and_not_held_up(&variables).await;
    }
}

async fn counted_and_not_held_up(variables: &[(&str, &str)]) {
    const NOTICES: u32 = 20_000;
    let (exporter, _source) = start(settings(true, variables)).await;
    let (me, sender) = (info(7), exporter.sender());
    // On a thread of its own, as the rescue thread is: a call that waited for the runtime would hang the test.
    let caller = std::thread::spawn(move || {
        for _ in 0..NOTICES {
            sender.notice(sent(&me));
        }
    });
    tokio::task::spawn_blocking(move || caller.join())
        .await
        .unwrap()
        .unwrap();
    let sent = "loopwarden_action_signals_total{loopwarden_target=\"litellm\",process_executable_name=\"python3.11\",\
                process_pid=\"7\",signal=\"SIGKILL\",mode=\"enforce\",outcome=\"sent\"}";
    let ask = async || {
        let counted = shown(&exporter, sent).await.unwrap_or(0.0);
        counted
            + shown(&exporter, "loopwarden_agent_notices_dropped_total")
                .await
                .unwrap_or(0.0)
    };
    eventually(
        "every notice is counted, or counted as dropped",
        ask,
        |sum| *sum > f64::from(NOTICES) - 0.5,
    )
    .await;
    for lane in ["otlp_metrics", "otlp_logs"] {
        let failures = format!("loopwarden_agent_export_failures_total{{exporter=\"{lane}\"}}");
        eventually(
            &failures,
            async || shown(&exporter, &failures).await,
            |v| v.is_some_and(|v| v >= 1.0),
        )
        .await;
    }
    tokio::time::timeout(PATIENCE, exporter.shutdown(Duration::from_millis(10)))
        .await
        .expect("it has to end");
}
