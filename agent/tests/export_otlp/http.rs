//! Over HTTP: what is sent again, and what is not.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::AN_HOUR;
use super::export_support::{PATIENCE, closed, eventually, info, opened, settings, shown, start};
use super::got::Got;

/// Answers by the number of the request.
async fn http_collector(
    answer: impl Fn(usize, &Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
) -> (SocketAddr, mpsc::UnboundedReceiver<(u16, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (got, receiver) = mpsc::unbounded_channel();
    let requests = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (got, requests, answer) = (got.clone(), requests.clone(), answer.clone());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let response = answer(requests.fetch_add(1, Ordering::SeqCst), &request);
                let got = got.clone();
                async move {
                    let gzip = request
                        .headers()
                        .get("content-encoding")
                        .is_some_and(|value| value == "gzip");
                    let body = request.into_body().collect().await?.to_bytes().to_vec();
                    let _ = got.send((
                        response.status().as_u16(),
                        if gzip { gunzip(&body) } else { body },
                    ));
                    Ok::<_, hyper::Error>(response)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    (address, receiver)
}

fn gunzip(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(body)
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

fn response(status: u16, body: Vec<u8>) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("retry-after", "0")
        .body(Full::new(body.into()))
        .unwrap()
}

#[tokio::test]
async fn over_http_a_busy_collector_gets_the_same_data_again() {
    let (address, mut got) = http_collector(|n, request| {
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        assert_eq!(request.uri().path(), "/v1/metrics");
        response(if n < 2 { 503 } else { 200 }, Vec::new())
    })
    .await;
    let endpoint = format!("http://{address}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_LOGS_EXPORTER", "none"),
        AN_HOUR,
    ];
    let (exporter, _source) = start(settings(false, &variables)).await;
    exporter.notice(opened(&info(7)));
    let mut bodies = Vec::new();
    for expected in [503, 503, 200] {
        let (status, body) = tokio::time::timeout(PATIENCE, got.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(status, expected);
        bodies.push(body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    let request = ExportMetricsServiceRequest::decode(&bodies[0][..]).unwrap();
    assert!(
        matches!(Got::metrics(&request, None), Got::Metrics { open_stalls, .. } if open_stalls > 0.5)
    );
    exporter.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn what_a_collector_refuses_is_counted_and_not_sent_again() {
    let (address, mut got) = http_collector(|n, _| {
        let partial = ExportMetricsPartialSuccess {
            rejected_data_points: 3,
            error_message: "too old".into(),
        };
        let partial = ExportMetricsServiceResponse {
            partial_success: Some(partial),
        };
        if n == 0 {
            response(400, Vec::new())
        } else {
            response(200, partial.encode_to_vec())
        }
    })
    .await;
    let endpoint = format!("http://{address}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_LOGS_EXPORTER", "none"),
        AN_HOUR,
    ];
    let (exporter, _source) = start(settings(true, &variables)).await;
    exporter.notice(opened(&info(7)));
    let (status, body) = tokio::time::timeout(PATIENCE, got.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status, 400);
    let dropped = "loopwarden_agent_export_dropped_total{exporter=\"otlp_metrics\"}";
    let lost = eventually(
        "given up",
        async || shown(&exporter, dropped).await,
        |v| v.is_some_and(|v| v > 0.0),
    )
    .await;
    exporter.notice(closed(&info(7)));
    let (status, second) = tokio::time::timeout(PATIENCE, got.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status, 200);
    assert_ne!(second, body);
    eventually(
        "refused",
        async || shown(&exporter, dropped).await,
        |v| *v == lost.map(|lost| lost + 3.0),
    )
    .await;
    exporter.shutdown(PATIENCE).await;
}
