//! The HTTP server of the text page: `/metrics`, `/healthz` and `/ready/engines`.
//!
//! Bounded: one request a connection, a limit on connections and on their time, so that neither a slow reader nor a port
//! scan holds anything for long. It answers from memory and writes nothing.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::shared::Shared;
use super::text::{self, Format};
use super::{clock, ready};

/// Connections served at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 32;
/// Time for one request and its answer.
const TIME: Duration = Duration::from_secs(10);
/// Rest after an accept that failed (no descriptors left), which would fail again at once.
const REST: Duration = Duration::from_millis(100);

/// Serves until the task is aborted.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    serve(stream, shared).await;
                    drop(place);
                });
            }
            Err(error) => {
                shared.page_failures.fetch_add(1, Ordering::Relaxed);
                log::warn!("cannot accept a connection for /metrics: {error}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Binds the page's address.
pub(super) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request| {
        let response = answer(&request, &shared);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIME)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A reader that went away or took too long is its own trouble.
    if !matches!(tokio::time::timeout(TIME, connection).await, Ok(Ok(()))) {
        shared.page_failures.fetch_add(1, Ordering::Relaxed);
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD\n".to_owned(),
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            let accept = request
                .headers()
                .get(ACCEPT)
                .and_then(|value| value.to_str().ok());
            let format = Format::accepted(accept);
            let mut response = plain(StatusCode::OK, text::encode(&shared.page(), format));
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static(format.content_type()),
            );
            response
        }
        "/healthz" => plain(StatusCode::OK, health(shared)),
        "/ready/engines" => {
            let now = clock::now().mono;
            let (status, text) = ready::answer(&shared.engines_ready(), request.uri().query(), now);
            plain(status, text)
        }
        "/" => plain(
            StatusCode::OK,
            "Loopwarden: /metrics, /healthz, /ready/engines\n".to_owned(),
        ),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there is /metrics, /healthz and /ready/engines\n".to_owned(),
        ),
    }
}

/// Alive, and which parts are not. A part that cannot work is no reason to restart the agent, so the status is 200.
fn health(shared: &Shared) -> String {
    let mut text = "ok\n".to_owned();
    for hook in shared.hooks().iter().filter(|hook| hook.verdict != "ok") {
        let _ = writeln!(text, "{}: {} ({})", hook.name, hook.verdict, hook.reason);
    }
    text
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
