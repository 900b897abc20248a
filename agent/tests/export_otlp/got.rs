//! What a collector got, and waiting for it.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use tokio::sync::mpsc;

use super::export_support::PATIENCE;

/// What a collector got.
#[derive(Debug)]
pub(super) enum Got {
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
    pub(super) fn metrics(request: &ExportMetricsServiceRequest, token: Option<String>) -> Self {
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
                    if let Some(Value::AsDouble(v)) = point.value {
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

    pub(super) fn logs(request: &ExportLogsServiceRequest) -> Self {
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

pub(super) async fn next(
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

pub(super) fn has_event(got: &Got, name: &str) -> bool {
    matches!(got, Got::Logs { events, .. } if events.iter().any(|event| event == name))
}
