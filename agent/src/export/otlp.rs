//! Series as messages of OTLP, already encoded.
//!
//! Pure: families in, request bodies out, small enough for a collector's limit (gRPC's default is 4 MiB).

use std::collections::BTreeMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Gauge, Histogram, HistogramDataPoint,
    Metric as MetricMessage, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::delivery::Event;
use super::metric::Kind;
use super::registry::{AttributeValue, Family, Point, Reading};
use crate::pipeline::IncidentId;

/// Data points in one request: some 200 to 600 bytes each.
const POINTS: usize = 4000;
/// Log records in one request.
const RECORDS: usize = 512;

/// One request body and how many data points or records it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The encoded request.
    pub body: Bytes,
    /// Data points or log records in it.
    pub items: u64,
    /// Incidents whose ends are among the records.
    pub ends: Vec<IncidentId>,
}

/// Who the agent is, as every request says it.
#[must_use]
pub fn resource(attributes: &BTreeMap<String, String>) -> Resource {
    let attributes = attributes
        .iter()
        .map(|(key, value)| attribute(key, Value::StringValue(value.clone())))
        .collect();
    Resource {
        attributes,
        ..Resource::default()
    }
}

/// An attribute of a message.
#[must_use]
pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// The requests for these families.
#[must_use]
pub fn metrics(families: &[Family], resource: &Resource) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut pending, mut points) = (Vec::new(), 0);
    for family in families {
        for part in family.points.chunks(POINTS) {
            if points + part.len() > POINTS {
                batches.push(metrics_batch(
                    std::mem::take(&mut pending),
                    points,
                    resource,
                ));
                points = 0;
            }
            pending.push(message(family, part));
            points += part.len();
        }
    }
    if points > 0 {
        batches.push(metrics_batch(pending, points, resource));
    }
    batches
}

/// The requests for these log records.
#[must_use]
pub fn logs(events: Vec<Event>, resource: &Resource) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut rest = events.into_iter().peekable();
    while rest.peek().is_some() {
        let part: Vec<Event> = rest.by_ref().take(RECORDS).collect();
        let ends = part.iter().filter_map(|event| event.ends).collect();
        let log_records: Vec<LogRecord> = part.into_iter().map(|event| event.record).collect();
        let items = log_records.len() as u64;
        let scope_logs = vec![ScopeLogs {
            scope: Some(scope()),
            log_records,
            ..ScopeLogs::default()
        }];
        let resource_logs = ResourceLogs {
            resource: Some(resource.clone()),
            scope_logs,
            ..ResourceLogs::default()
        };
        let request = ExportLogsServiceRequest {
            resource_logs: vec![resource_logs],
        };
        batches.push(Batch {
            body: request.encode_to_vec().into(),
            items,
            ends,
        });
    }
    batches
}

fn metrics_batch(metrics: Vec<MetricMessage>, points: usize, resource: &Resource) -> Batch {
    let scope_metrics = vec![ScopeMetrics {
        scope: Some(scope()),
        metrics,
        ..ScopeMetrics::default()
    }];
    let resource_metrics = ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics,
        ..ResourceMetrics::default()
    };
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![resource_metrics],
    };
    Batch {
        body: request.encode_to_vec().into(),
        items: points as u64,
        ends: Vec::new(),
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "loopwarden".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn message(family: &Family, points: &[Point]) -> MetricMessage {
    let row = family.metric.instrument();
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match row.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: points.iter().map(number).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        // A gauge has no beginning.
        Kind::Gauge => Data::Gauge(Gauge {
            data_points: points
                .iter()
                .map(|p| NumberDataPoint {
                    start_time_unix_nano: 0,
                    ..number(p)
                })
                .collect(),
        }),
        Kind::Histogram(bounds) => Data::Histogram(Histogram {
            data_points: points
                .iter()
                .map(|point| histogram(point, bounds))
                .collect(),
            aggregation_temporality: cumulative,
        }),
    };
    MetricMessage {
        name: row.name.to_owned(),
        description: row.help.to_owned(),
        unit: row.unit.to_owned(),
        data: Some(data),
        ..MetricMessage::default()
    }
}

fn number(point: &Point) -> NumberDataPoint {
    let (value, flags) = match point.reading {
        Reading::Number(value) => (Some(number_data_point::Value::AsDouble(value)), 0),
        _ => (None, ended()),
    };
    NumberDataPoint {
        attributes: attributes(point),
        start_time_unix_nano: point.start_ns,
        time_unix_nano: point.time_ns,
        flags,
        value,
        ..NumberDataPoint::default()
    }
}

fn histogram(point: &Point, bounds: &'static [f64]) -> HistogramDataPoint {
    // The end names buckets and sum too: Prometheus ends the series that a point would have written, and no other.
    let (counts, sum, flags) = match &point.reading {
        Reading::Histogram { counts, sum, .. } => (counts.clone(), Some(*sum), 0),
        _ => (vec![0; bounds.len() + 1], Some(0.0), ended()),
    };
    HistogramDataPoint {
        attributes: attributes(point),
        start_time_unix_nano: point.start_ns,
        time_unix_nano: point.time_ns,
        count: counts.iter().sum(),
        sum,
        bucket_counts: counts,
        explicit_bounds: bounds.to_vec(),
        flags,
        ..HistogramDataPoint::default()
    }
}

fn ended() -> u32 {
    DataPointFlags::NoRecordedValueMask as u32
}

fn attributes(point: &Point) -> Vec<KeyValue> {
    let value = |value: &AttributeValue| match value {
        AttributeValue::Text(text) => Value::StringValue(text.to_string()),
        AttributeValue::Int(number) => Value::IntValue(*number),
    };
    point
        .base
        .iter()
        .chain(&point.own)
        .map(|(key, v)| attribute(key, value(v)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::export::metric::{Metric, STALL_BOUNDS};
    use crate::export::registry::word;

    fn point(reading: Reading) -> Point {
        Point {
            base: Arc::new(vec![("process.pid", AttributeValue::Int(7))]),
            own: vec![word("cause", "sleep")],
            start_ns: 1,
            time_ns: 2,
            reading,
        }
    }

    fn decode(batch: &Batch) -> Vec<MetricMessage> {
        let mut request = ExportMetricsServiceRequest::decode(batch.body.clone()).unwrap();
        request
            .resource_metrics
            .remove(0)
            .scope_metrics
            .remove(0)
            .metrics
    }

    #[test]
    fn the_end_of_a_series_has_the_flag_and_no_value() {
        let families = [
            Family {
                metric: Metric::LoopTime,
                points: vec![point(Reading::Gone)],
            },
            Family {
                metric: Metric::StallDuration,
                points: vec![point(Reading::Gone)],
            },
        ];
        let batches = metrics(&families, &Resource::default());
        let messages = decode(&batches[0]);
        let (Some(Data::Sum(sum)), Some(Data::Histogram(histogram))) =
            (&messages[0].data, &messages[1].data)
        else {
            panic!("{messages:?}");
        };
        assert_eq!(
            (sum.data_points[0].flags, sum.data_points[0].value),
            (1, None)
        );
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].attributes.len(), 2);
        let ended = &histogram.data_points[0];
        assert_eq!((ended.flags, ended.count, ended.sum), (1, 0, Some(0.0)));
        assert_eq!(ended.explicit_bounds, STALL_BOUNDS);
    }

    #[test]
    fn requests_are_split_and_lose_nothing() {
        let families: Vec<Family> = [Metric::LoopTime, Metric::LoopStalled, Metric::StallOpen]
            .into_iter()
            .map(|metric| Family {
                metric,
                points: vec![point(Reading::Number(1.0)); POINTS - 1000],
            })
            .collect();
        let batches = metrics(&families, &Resource::default());
        let items: Vec<u64> = batches.iter().map(|batch| batch.items).collect();
        assert_eq!(items.iter().sum::<u64>(), 3 * (POINTS as u64 - 1000));
        assert!(
            items.iter().all(|items| *items <= POINTS as u64) && batches.len() == 3,
            "{items:?}"
        );
        assert!(batches.iter().all(|batch| batch.body.len() < 4 << 20));
        assert!(metrics(&[], &Resource::default()).is_empty());
    }

    #[test]
    fn log_records_are_split() {
        let batches = logs(
            vec![LogRecord::default().into(); RECORDS + 1],
            &Resource::default(),
        );
        assert_eq!(
            batches.iter().map(|batch| batch.items).collect::<Vec<_>>(),
            [RECORDS as u64, 1]
        );
    }
}
