//! OTLP over gRPC, with bodies that are encoded already.

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{Answer, Failure, HttpClient, MAX_ANSWER, Retry, Signal, decode_answer, with_causes};
use crate::export::settings::{Compression, Target};

pub(super) async fn send(
    client: &HttpClient,
    target: &Target,
    signal: Signal,
    body: Bytes,
) -> Result<Answer, Failure> {
    let mut grpc = Grpc::with_origin(client.clone(), target.endpoint.uri().clone())
        .max_decoding_message_size(MAX_ANSWER);
    if target.compression == Compression::Gzip {
        grpc = grpc.send_compressed(CompressionEncoding::Gzip);
    }
    grpc.ready().await.map_err(|error| Failure {
        what: with_causes(&error),
        retry: Retry::Backoff,
    })?;
    let mut request = Request::new(body);
    *request.metadata_mut() = MetadataMap::from_headers(target.headers.clone());
    request.set_timeout(target.timeout);
    let path = PathAndQuery::from_static(match signal {
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    });
    match grpc.unary(request, path, Raw).await {
        Ok(response) => Ok(decode_answer(response.into_inner())),
        Err(status) => Err(failure(&status)),
    }
}

fn failure(status: &Status) -> Failure {
    let mut what = format!("gRPC status {:?}: {}", status.code(), status.message());
    if let Some(cause) = std::error::Error::source(status) {
        what = format!("{what}: {}", with_causes(cause));
    }
    Failure {
        what,
        retry: retry(status),
    }
}

/// OTLP's list; `RESOURCE_EXHAUSTED` only when the collector says that it recovers.
fn retry(status: &Status) -> Retry {
    let asked = status
        .get_details_retry_info()
        .map(|info| Retry::After(info.retry_delay.unwrap_or_default()));
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => asked.unwrap_or(Retry::Backoff),
        // Made on this side: the connection broke.
        Code::Unknown if std::error::Error::source(status).is_some() => Retry::Backoff,
        Code::ResourceExhausted => asked.unwrap_or(Retry::Never),
        _ => Retry::Never,
    }
}

/// Bytes as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn which_codes_are_tried_again() {
        let soon = ErrorDetails::with_retry_info(Some(Duration::from_secs(2)));
        for (code, details, expected) in [
            (Code::Unavailable, None, Retry::Backoff),
            (
                Code::Unavailable,
                Some(soon.clone()),
                Retry::After(Duration::from_secs(2)),
            ),
            (Code::DeadlineExceeded, None, Retry::Backoff),
            (Code::ResourceExhausted, None, Retry::Never),
            (
                Code::ResourceExhausted,
                Some(soon),
                Retry::After(Duration::from_secs(2)),
            ),
            (Code::InvalidArgument, None, Retry::Never),
            (Code::Unauthenticated, None, Retry::Never),
            (Code::Unimplemented, None, Retry::Never),
            (Code::Unknown, None, Retry::Never),
        ] {
            let status = details.map_or_else(
                || Status::new(code, "x"),
                |details| Status::with_error_details(code, "x", details),
            );
            assert_eq!(retry(&status), expected, "{code:?}");
        }
    }
}
