//! Over gRPC: what is pushed at once, and as which records.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Server, ServerTlsConfig};

use super::AN_HOUR;
use super::export_support::{PATIENCE, closed, info, opened, sent, settings, shown, start};
use super::got::{Got, has_event, next};
use super::pki::Pki;

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

pub(super) async fn grpc_collector(
    tls: Option<&Pki>,
) -> (SocketAddr, mpsc::UnboundedReceiver<Got>) {
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
