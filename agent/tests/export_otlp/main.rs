//! OTLP against collectors of the test's own: gRPC with TLS, HTTP, and collectors that hang, refuse or are not there.
#![expect(clippy::unwrap_used, reason = "a test")]

mod export_support;

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use export_support::{
    PATIENCE, closed, eventually, get, info, opened, sent, settings, shown, start,
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use loopwarden::pipeline::{Mono, Notice};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

/// What a collector got.
#[derive(Debug)]
enum Got {
    Metrics {
        names: Vec<String>,
        token: Option<String>,
        open_stalls: f64,
    },
    Logs {
        events: Vec<String>,
        service: String,
    },
}

impl Got {
    fn metrics(request: &ExportMetricsServiceRequest, token: Option<String>) -> Self {
        let metrics: Vec<_> = request
            .resource_metrics
            .iter()
            .flat_map(|r| &r.scope_metrics)
            .flat_map(|s| &s.metrics)
            .collect();
        let mut open_stalls = 0.0;
        for metric in metrics
            .iter()
            .filter(|metric| metric.name == "loopwarden.stall.open")
        {
            if let Some(Data::Gauge(gauge)) = &metric.data {
                for point in &gauge.data_points {
                    if let Some(
                        opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsDouble(
                            v,
                        ),
                    ) = point.value
                    {
                        open_stalls += v;
                    }
                }
            }
        }
        Got::Metrics {
            names: metrics
                .into_iter()
                .map(|metric| metric.name.clone())
                .collect(),
            token,
            open_stalls,
        }
    }

    fn logs(request: &ExportLogsServiceRequest) -> Self {
        let resource = request
            .resource_logs
            .first()
            .and_then(|logs| logs.resource.as_ref());
        let service = resource
            .and_then(|resource| {
                resource
                    .attributes
                    .iter()
                    .find(|attribute| attribute.key == "service.name")
            })
            .map(|attribute| format!("{:?}", attribute.value))
            .unwrap_or_default();
        let records = request
            .resource_logs
            .iter()
            .flat_map(|r| &r.scope_logs)
            .flat_map(|s| &s.log_records);
        Got::Logs {
            events: records.map(|record| record.event_name.clone()).collect(),
            service,
        }
    }
}

/// A gRPC collector that refuses its first request as one that is restarting would.
#[derive(Clone)]
struct Collector {
    got: mpsc::UnboundedSender<Got>,
    requests: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        if self.requests.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(tonic::Status::unavailable("starting"));
        }
        let token = request
            .metadata()
            .get("x-token")
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned);
        let _ = self.got.send(Got::metrics(request.get_ref(), token));
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        let _ = self.got.send(Got::logs(request.get_ref()));
        Ok(tonic::Response::new(ExportLogsServiceResponse::default()))
    }
}

/// An authority of the test's own, and what it signed: a server at 127.0.0.1 and a client.
struct Pki {
    folder: tempfile::TempDir,
    authority: String,
    server: Identity,
}

impl Pki {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let sign = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            (
                params.signed_by(&key, &issuer).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let (server, client) = (sign("127.0.0.1"), sign("agent"));
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [("ca", &authority), ("cert", &client.0), ("key", &client.1)] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        Self {
            folder,
            authority,
            server: Identity::from_pem(server.0, server.1),
        }
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_str().unwrap().to_owned()
    }
}

async fn grpc_collector(tls: Option<&Pki>) -> (SocketAddr, mpsc::UnboundedReceiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (got, receiver) = mpsc::unbounded_channel();
    let collector = Collector {
        got,
        requests: Arc::default(),
    };
    let mut server = Server::builder();
    if let Some(pki) = tls {
        let config = ServerTlsConfig::new()
            .identity(pki.server.clone())
            .client_ca_root(Certificate::from_pem(&pki.authority));
        server = server.tls_config(config).unwrap();
    }
    let metrics =
        MetricsServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip);
    let logs = LogsServiceServer::new(collector).accept_compressed(CompressionEncoding::Gzip);
    let router = server.add_service(metrics).add_service(logs);
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    (address, receiver)
}

async fn next(
    got: &mut mpsc::UnboundedReceiver<Got>,
    what: &str,
    ok: impl Fn(&Got) -> bool,
) -> Got {
    let search = async {
        loop {
            let item = got.recv().await.expect("the collector ended");
            if ok(&item) {
                return item;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

fn has_event(got: &Got, name: &str) -> bool {
    matches!(got, Got::Logs { events, .. } if events.iter().any(|event| event == name))
}

/// With an interval of an hour only what is pushed at once can arrive.
const AN_HOUR: (&str, &str) = ("OTEL_METRIC_EXPORT_INTERVAL", "3600000");

#[tokio::test]
async fn stalls_and_actions_go_out_at_once_over_grpc_with_mutual_tls() {
    let pki = Pki::new();
    let (address, mut got) = grpc_collector(Some(&pki)).await;
    let (endpoint, ca, cert, key) = (
        format!("https://{address}"),
        pki.path("ca"),
        pki.path("cert"),
        pki.path("key"),
    );
    let (exporter, _source) = start(settings(
        true,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &cert),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret"),
            ("OTEL_SERVICE_NAME", "mine"),
            AN_HOUR,
        ],
    ))
    .await;
    let me = info(7);
    exporter.notice(Notice::Loop {
        at: Mono(0),
        info: me.clone(),
    });
    exporter.notice(opened(&me));
    let first = next(
        &mut got,
        "a stall",
        |got| matches!(got, Got::Metrics { open_stalls, .. } if *open_stalls > 0.5),
    );
    let Got::Metrics { token, names, .. } = first.await else {
        unreachable!()
    };
    assert_eq!(token.as_deref(), Some("secret"));
    assert!(
        names.iter().any(|name| name == "loopwarden.action.signals"),
        "{names:?}"
    );
    assert_eq!(
        shown(
            &exporter,
            "loopwarden_agent_export_failures_total{exporter=\"otlp_metrics\"}"
        )
        .await,
        Some(1.0),
        "the first try was refused, and what it carried came with the second"
    );
    exporter.notice(sent(&me));
    exporter.notice(closed(&me));
    next(
        &mut got,
        "the action",
        |got| matches!(got, Got::Metrics { open_stalls, .. } if *open_stalls < 0.5),
    )
    .await;
    exporter.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn log_records_carry_the_events() {
    let (address, mut got) = grpc_collector(None).await;
    let endpoint = format!("http://{address}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_SERVICE_NAME", "mine"),
        AN_HOUR,
    ];
    let (exporter, _source) = start(settings(false, &variables)).await;
    let me = info(7);
    exporter.notice(opened(&me));
    let first = next(&mut got, "opened", |got| {
        has_event(got, "loopwarden.stall_opened")
    })
    .await;
    assert!(
        matches!(&first, Got::Logs { service, .. } if service.contains("mine")),
        "{first:?}"
    );
    exporter.notice(sent(&me));
    next(&mut got, "action", |got| {
        has_event(got, "loopwarden.action")
    })
    .await;
    exporter.notice(closed(&me));
    exporter.notice(Notice::Lost {
        at: Mono(0),
        what: "ring".into(),
        count: 2,
    });
    next(&mut got, "closed and lost in one request", |got| {
        has_event(got, "loopwarden.stall_closed") && has_event(got, "loopwarden.lost")
    })
    .await;
    exporter.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn what_waits_is_sent_when_the_agent_ends() {
    let (address, mut got) = grpc_collector(None).await;
    let endpoint = format!("http://{address}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        AN_HOUR,
    ];
    let (exporter, _source) = start(settings(false, &variables)).await;
    exporter.notice(opened(&info(7)));
    exporter.shutdown(PATIENCE).await;
    next(
        &mut got,
        "the stall",
        |got| matches!(got, Got::Metrics { open_stalls, .. } if *open_stalls > 0.5),
    )
    .await;
}

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
    let source = Arc::new(export_support::Source::default());
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
    let source = Arc::new(export_support::Source::default());
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
