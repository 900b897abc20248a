//! OTLP over HTTP with protobuf bodies.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compression as Level, write::GzEncoder};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::Full;
use tonic::body::Body;

use super::{Answer, Failure, HttpClient, Retry, answer_body, decode_answer, with_causes};
use crate::export::settings::{Compression, Target};

/// Longest wait that a collector may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

pub(super) async fn send(
    client: &HttpClient,
    target: &Target,
    body: Bytes,
) -> Result<Answer, Failure> {
    let response = client
        .request(request(target, body)?)
        .await
        .map_err(|error| Failure {
            what: with_causes(&error),
            retry: Retry::Backoff,
        })?;
    let (head, body) = response.into_parts();
    let body = answer_body(body).await;
    if head.status.is_success() {
        return body.map(decode_answer);
    }
    Err(Failure {
        what: format!("HTTP status {}", head.status),
        retry: retry(head.status, &head.headers),
    })
}

fn request(target: &Target, body: Bytes) -> Result<Request<Body>, Failure> {
    let mut request = Request::post(target.endpoint.uri().clone());
    if let Some(headers) = request.headers_mut() {
        headers.extend(target.headers.clone());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("loopwarden/", env!("CARGO_PKG_VERSION"))),
        );
        if target.compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    let body = match target.compression {
        Compression::None => body,
        Compression::Gzip => gzip(&body).map_err(|error| never(&error))?,
    };
    request
        .body(Body::new(Full::new(body)))
        .map_err(|error| never(&error))
}

fn never(error: &dyn std::error::Error) -> Failure {
    Failure {
        what: format!("cannot make the request: {error}"),
        retry: Retry::Never,
    }
}

fn gzip(body: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Level::fast());
    encoder.write_all(body)?;
    encoder.finish().map(Bytes::from)
}

/// 429, 502, 503 and 504 are worth another try, after the time the collector asks for.
fn retry(status: StatusCode, headers: &HeaderMap) -> Retry {
    if !matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        return Retry::Never;
    }
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(Retry::Backoff, |seconds| {
        Retry::After(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_statuses_are_tried_again() {
        let after = |value: &'static str| {
            HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))])
        };
        for (status, headers, expected) in [
            (400, HeaderMap::new(), Retry::Never),
            (401, HeaderMap::new(), Retry::Never),
            (404, after("3"), Retry::Never),
            (429, HeaderMap::new(), Retry::Backoff),
            (500, HeaderMap::new(), Retry::Never),
            (502, HeaderMap::new(), Retry::Backoff),
            (503, after("3"), Retry::After(Duration::from_secs(3))),
            (503, after("999999"), Retry::After(MAX_RETRY_AFTER)),
            (504, after("Fri, 31 Dec 1999 23:59:59 GMT"), Retry::Backoff),
        ] {
            assert_eq!(
                retry(StatusCode::from_u16(status).unwrap(), &headers),
                expected,
                "{status}"
            );
        }
    }
}
