//! Stands in for Prisma's query engine (it holds no Prisma code): the real one comes from no package registry.
//!
//! It speaks the part of the engine's HTTP protocol that LiteLLM uses through prisma-client-py 0.11.0, on one real PostgreSQL
//! connection. Two things it does exactly as the incident reports describe, because the runs depend on them:
//!
//! - it connects to the database *before* it listens, and exits with 1 when that fails;
//! - on SIGINT or SIGTERM it closes its connection gracefully, for at most `STANDIN_CLOSE_MAX_S` seconds (30): it leaves within
//!   milliseconds when the database is healthy, and hangs when the database is frozen.
//!
//! `STANDIN_LISTEN_AFTER_MS` makes it listen so much later, and `STANDIN_MOMENTS` names a file to which it adds when it was started,
//! listened and first accepted.
//!
//! Data comes from `DATABASE_URL` and over HTTP on loopback; errors go to stderr, which is the proxy's.

mod database;
mod filter;
mod graphql;
mod moments;
mod operations;
mod server;
mod sql;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use database::{Database, Failure, failure};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The engine's commit that Prisma 5.4.2 ships, as the client library checks it.
const VERSION: &str = "query-engine ac9d7041ed77bcc8a8dbd2ab6616b39013829574";

const DEFAULT_PORT: u16 = 4466;
const DEFAULT_CLOSE_MAX_S: f64 = 30.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--version") {
        println!("{VERSION}");
        return ExitCode::SUCCESS;
    }
    moments::note_start();
    let code = match run(port(&arguments), close_max()).await {
        Ok(()) => 0,
        Err(Failure { code, message }) => {
            eprintln!(
                "{}",
                json!({ "is_panic": false, "message": message, "error_code": code })
            );
            1
        }
    };
    // Not by returning: the runtime would first wait for tasks that a frozen database holds.
    std::process::exit(code)
}

async fn run(port: u16, close_max: Duration) -> Result<(), Failure> {
    let mut interrupt = handler(SignalKind::interrupt())?;
    let mut terminate = handler(SignalKind::terminate())?;
    let url = std::env::var("DATABASE_URL")
        .map_err(|err| failure("P1012", format!("DATABASE_URL: {err}")))?;
    let database = Arc::new(Database::new(&url)?);
    tokio::select! {
        ended = work(port, database.clone()) => return ended,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    database.close(close_max).await;
    Ok(())
}

async fn work(port: u16, database: Arc<Database>) -> Result<(), Failure> {
    database.client().await?;
    tokio::time::sleep(listen_after()).await;
    let refused = |err| {
        failure(
            "P1011",
            format!("serving on 127.0.0.1:{port} failed: {err}"),
        )
    };
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(refused)?;
    moments::note("listening");
    server::serve(listener, database).await.map_err(refused)
}

fn handler(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|err| failure("P1011", format!("cannot handle {kind:?}: {err}")))
}

fn port(arguments: &[String]) -> u16 {
    let flag = arguments.iter().position(|argument| argument == "-p");
    flag.and_then(|flag| arguments.get(flag + 1)?.parse().ok())
        .unwrap_or(DEFAULT_PORT)
}

fn listen_after() -> Duration {
    let millis = std::env::var("STANDIN_LISTEN_AFTER_MS");
    let millis = millis.ok().and_then(|text| text.parse().ok());
    Duration::from_millis(millis.unwrap_or(0))
}

fn close_max() -> Duration {
    let seconds = std::env::var("STANDIN_CLOSE_MAX_S")
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
        .unwrap_or(DEFAULT_CLOSE_MAX_S);
    Duration::from_secs_f64(seconds)
}
