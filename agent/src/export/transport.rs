//! One request to a collector, over gRPC or HTTP/protobuf.
//!
//! Takes encoded bodies and says whether a failure is worth another try, by OTLP's rules. It never retries itself and
//! never puts a header or user information into an error.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use rustls::ClientConfig;
use tonic::body::Body;

use super::settings::{Endpoint, Protocol, Target};
use super::tls::{self, TlsError};

mod grpc;
mod plain;

/// Answers are short; a longer one is not from a collector.
const MAX_ANSWER: usize = 64 << 10;

pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// The signal a transport carries; it names the gRPC service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Metrics.
    Metrics,
    /// Log records.
    Logs,
}

/// A connection to a collector.
#[derive(Debug)]
pub struct Transport {
    target: Target,
    signal: Signal,
    tls: ClientConfig,
    client: HttpClient,
}

/// What a collector said to a request that it took.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Items it refused all the same.
    pub rejected: u64,
    /// Why.
    pub message: String,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What came back.
    pub what: String,
    /// Whether to try again.
    pub retry: Retry,
}

/// What OTLP says about another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again.
    Never,
    /// After a time of our own.
    Backoff,
    /// Not before this.
    After(Duration),
}

impl Transport {
    /// Prepares a connection; nothing is sent yet.
    pub fn new(target: Target, signal: Signal) -> Result<Self, TlsError> {
        let tls = tls::config(&target.tls)?;
        let client = client(&target, tls.clone());
        Ok(Self {
            target,
            signal,
            tls,
            client,
        })
    }

    /// Where requests go, without credentials.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.target.endpoint
    }

    /// Sends one request and waits for the answer, at most the target's timeout.
    pub async fn send(&mut self, body: Bytes) -> Result<Answer, Failure> {
        let attempt = async {
            match self.target.protocol {
                Protocol::Grpc => grpc::send(&self.client, &self.target, self.signal, body).await,
                Protocol::HttpProtobuf => plain::send(&self.client, &self.target, body).await,
            }
        };
        let result = tokio::time::timeout(self.target.timeout, attempt)
            .await
            .unwrap_or_else(|_| {
                let what = format!("no answer within {:?}", self.target.timeout);
                Err(Failure {
                    what,
                    retry: Retry::Backoff,
                })
            });
        if matches!(&result, Err(failure) if failure.retry == Retry::Backoff) {
            // A connection that hangs would stay in the pool and fail the next try too.
            self.client = client(&self.target, self.tls.clone());
        }
        result
    }
}

fn client(target: &Target, tls: ClientConfig) -> HttpClient {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(target.timeout));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    let grpc = target.protocol == Protocol::Grpc;
    let connector = if grpc {
        https.enable_http2().wrap_connector(tcp)
    } else {
        https.enable_http1().wrap_connector(tcp)
    };
    Client::builder(TokioExecutor::new())
        .http2_only(grpc)
        .pool_max_idle_per_host(1)
        .build(connector)
}

/// The body of an answer, read to its end so that the connection can be used again.
async fn answer_body<B>(body: B) -> Result<Bytes, Failure>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = Limited::new(body, MAX_ANSWER).collect().await;
    whole
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure {
            what: format!("the answer broke off: {error}"),
            retry: Retry::Backoff,
        })
}

/// The answer of both signals: they differ in the name of a field only.
fn decode_answer(body: Bytes) -> Answer {
    let partial = ExportMetricsServiceResponse::decode(body)
        .ok()
        .and_then(|response| response.partial_success);
    partial.map_or_else(Answer::default, |partial| Answer {
        rejected: u64::try_from(partial.rejected_data_points).unwrap_or(0),
        message: partial.error_message,
    })
}

/// An error with its causes: hyper says "error trying to connect" and keeps the reason to itself.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
