//! A collector of the test's own, which can be away, refuse, or take what comes.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use loopwarden::pipeline::IncidentId;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use tokio::net::{TcpListener, TcpSocket};

use super::export_support::PATIENCE;

/// How it treats requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Connections break.
    Away,
    /// Status 400.
    Refuse,
    /// Status 200.
    Take,
}

/// The end of an incident, as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Of the log record.
    pub uid: String,
    /// It says that it is late.
    pub late: bool,
}

impl End {
    /// The uid of an incident's end.
    pub fn uid_of(incident: IncidentId) -> String {
        format!("{incident}-closed")
    }
}

/// What it has seen.
#[derive(Debug)]
pub struct Seen {
    mood: Mood,
    /// What it took, in order.
    pub ends: Vec<End>,
    /// Requests that broke.
    pub broken: usize,
    /// Requests that it refused.
    pub refused: usize,
}

type Shared = Arc<(Mutex<Seen>, Condvar)>;

/// The collector. Its port is its own from the beginning; whether somebody listens there is another matter.
pub struct Collector {
    runtime: tokio::runtime::Runtime,
    socket: Option<TcpSocket>,
    /// Where it is.
    pub address: SocketAddr,
    shared: Shared,
}

impl Collector {
    /// One that is not there yet: connections are refused.
    pub fn reserve() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(([127, 0, 0, 1], 0).into())
            .expect("a free port");
        let address = socket.local_addr().expect("an address");
        let seen = Seen {
            mood: Mood::Take,
            ends: Vec::new(),
            broken: 0,
            refused: 0,
        };
        Self {
            runtime,
            socket: Some(socket),
            address,
            shared: Arc::new((Mutex::new(seen), Condvar::new())),
        }
    }

    /// Begins to listen.
    pub fn listen(&mut self, mood: Mood) {
        self.mood(mood);
        let socket = self.socket.take().expect("listens once");
        let _context = self.runtime.enter();
        let listener = socket.listen(64).expect("it listens");
        self.runtime.spawn(serve(listener, self.shared.clone()));
    }

    /// Treats requests like this from now on.
    pub fn mood(&self, mood: Mood) {
        self.shared.0.lock().expect("a lock").mood = mood;
    }

    /// The URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until `enough`, and tells what came by then.
    pub fn wait(&self, what: &str, enough: impl Fn(&Seen) -> bool) -> Vec<End> {
        let (seen, news) = &*self.shared;
        let guard = seen.lock().expect("a lock");
        let (seen, waited) = news
            .wait_timeout_while(guard, PATIENCE, |seen| !enough(seen))
            .expect("a lock");
        assert!(!waited.timed_out(), "{what}: {seen:?}");
        seen.ends.clone()
    }

    /// Requests that it refused.
    pub fn refused(&self) -> usize {
        self.shared.0.lock().expect("a lock").refused
    }
}

async fn serve(listener: TcpListener, shared: Shared) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let service = hyper::service::service_fn(move |request| answer(request, shared.clone()));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Shared,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let body = request.into_body().collect().await?.to_bytes();
    let (seen, news) = &*shared;
    let mut seen = seen.lock().expect("a lock");
    news.notify_all();
    let status = match seen.mood {
        Mood::Away => {
            seen.broken += 1;
            return Err("away".into());
        }
        Mood::Refuse => {
            seen.refused += 1;
            400
        }
        Mood::Take => {
            let request = ExportLogsServiceRequest::decode(body)?;
            seen.ends.extend(ends(&request));
            200
        }
    };
    Ok(Response::builder().status(status).body(Full::default())?)
}

fn ends(request: &ExportLogsServiceRequest) -> Vec<End> {
    request
        .resource_logs
        .iter()
        .flat_map(|logs| &logs.scope_logs)
        .flat_map(|logs| &logs.log_records)
        .filter(|record| record.event_name == "loopwarden.stall_closed")
        .map(|record| End {
            uid: match attribute(record, "log.record.uid") {
                Some(Value::StringValue(uid)) => uid.clone(),
                other => panic!("{other:?}"),
            },
            late: attribute(record, "loopwarden.late") == Some(&Value::BoolValue(true)),
        })
        .collect()
}

fn attribute<'a>(record: &'a LogRecord, key: &str) -> Option<&'a Value> {
    let mut attributes = record.attributes.iter();
    let KeyValue { value, .. } = attributes.find(|attribute| attribute.key == key)?;
    value.as_ref()?.value.as_ref()
}
