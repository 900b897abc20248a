//! OTLP against collectors of the test's own: gRPC with TLS, HTTP, and collectors that hang, refuse or are not there.
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../export_support/mod.rs"]
mod export_support;
mod got;
mod grpc;
mod hindered;
mod http;
mod pki;
mod start;

/// With an interval of an hour only what is pushed at once can arrive.
const AN_HOUR: (&str, &str) = ("OTEL_METRIC_EXPORT_INTERVAL", "3600000");
