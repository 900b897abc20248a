//! The HTTP side: `GET /status`, and `POST /` with a query. Transactions are accepted and mean nothing.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::http::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value as Json, json};
use tokio::net::TcpListener;

use crate::database::{Database, Failure};
use crate::{graphql, moments, operations};

/// Serves until the listener fails.
pub async fn serve(listener: TcpListener, database: Arc<Database>) -> std::io::Result<()> {
    let mut first = true;
    loop {
        let (stream, _) = listener.accept().await?;
        if std::mem::take(&mut first) {
            moments::note("accepted");
        }
        stream.set_nodelay(true)?;
        let database = database.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&database, request));
            // A client that goes away in the middle is its own business.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    database: &Database,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let json = match (&head.method, head.uri.path()) {
        (&Method::GET, "/status") => json!({ "status": "ok" }),
        (&Method::GET, "/metrics") => json!({ "counters": [], "gauges": [], "histograms": [] }),
        (&Method::POST, "/transaction/start") => json!({ "id": "standin" }),
        (&Method::POST, path) if path.starts_with("/transaction/") => json!({}),
        (&Method::POST, "/") => match body.collect().await {
            Ok(body) => execute(database, &body.to_bytes()).await,
            Err(err) => return Ok(response(StatusCode::BAD_REQUEST, err.to_string())),
        },
        _ => return Ok(response(StatusCode::NOT_FOUND, String::new())),
    };
    Ok(response(StatusCode::OK, json.to_string()))
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn execute(database: &Database, body: &[u8]) -> Json {
    let request: Json = serde_json::from_slice(body).unwrap_or_default();
    let fields = match graphql::parse(request["query"].as_str().unwrap_or_default()) {
        Ok(fields) => fields,
        Err(message) => {
            let code = "P2009";
            return json!({ "errors": [shown("the query", &Failure { code, message })] });
        }
    };
    let mut data = Map::new();
    let mut errors = Vec::new();
    for field in &fields {
        match operations::run(database, field).await {
            Ok(value) => {
                data.insert(field.alias.clone(), value);
            }
            Err(failure) => errors.push(shown(&field.name, &failure)),
        }
    }
    if errors.is_empty() {
        json!({ "data": data })
    } else {
        json!({ "errors": errors })
    }
}

/// The error object for the client; it also goes to the log, which is where a run's failures are looked for.
fn shown(what: &str, failure: &Failure) -> Json {
    let Failure { code, message } = failure;
    eprintln!("stand-in engine: {what}: {code} {message}");
    json!({
        "error": message,
        "user_facing_error": { "is_panic": false, "message": message, "meta": {}, "error_code": code },
    })
}
