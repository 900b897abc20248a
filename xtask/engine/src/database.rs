//! The one connection to PostgreSQL: opened on demand, closed gracefully.
//!
//! Nothing here gives up on a query by itself: a database that stops answering keeps it waiting, as with the real engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::sql::{Column, Kind};

/// Prisma's own default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An error as the client library expects it: Prisma's code, and a sentence.
#[derive(Debug)]
pub struct Failure {
    pub code: &'static str,
    pub message: String,
}

/// A parameter in text form; the server reads it as whatever type the statement wants.
#[derive(Debug)]
pub struct TextParameter(pub Option<String>);

/// The database behind `DATABASE_URL`.
pub struct Database {
    config: Config,
    host: String,
    port: u16,
    open: Mutex<Option<Open>>,
    tables: Mutex<HashMap<String, Arc<Vec<Column>>>>,
}

struct Open {
    client: Arc<Client>,
    /// Reads and writes the connection; ends once the client is dropped, its last query is answered and Terminate is sent.
    task: JoinHandle<Result<(), tokio_postgres::Error>>,
    /// A second handle on the connection's socket, to see the server close it after that.
    socket: std::net::TcpStream,
}

impl Database {
    pub fn new(url: &str) -> Result<Self, Failure> {
        // What follows the question mark (connection_limit, pool_timeout) is for Prisma's pool and unknown to the driver.
        let url = url.split_once('?').map_or(url, |(url, _)| url);
        let config: Config = url
            .parse()
            .map_err(|err| failure("P1013", format!("DATABASE_URL cannot be read: {err}")))?;
        let Some(Host::Tcp(host)) = config.get_hosts().first().cloned() else {
            return Err(failure("P1013", "DATABASE_URL names no TCP host".into()));
        };
        Ok(Self {
            port: config.get_ports().first().copied().unwrap_or(5432),
            config,
            host,
            open: Mutex::default(),
            tables: Mutex::default(),
        })
    }

    /// The connection; opened when there is none yet.
    ///
    /// One that broke while idle fails the query that finds it so (P1017), and the next query opens a new one. The real engine
    /// does the same for connections it used in the last 15 s.
    pub async fn client(&self) -> Result<Arc<Client>, Failure> {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|open| open.client.is_closed()) {
            *open = None;
            return Err(failure("P1017", "Server has closed the connection.".into()));
        }
        if let Some(open) = open.as_ref() {
            return Ok(open.client.clone());
        }
        let new = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| format!("no answer within {CONNECT_TIMEOUT:?}"))
            .flatten()
            .map_err(|why| {
                let (host, port) = (&self.host, self.port);
                failure(
                    "P1001",
                    format!("Can't reach database server at `{host}`:`{port}` ({why})"),
                )
            })?;
        Ok(open.insert(new).client.clone())
    }

    async fn connect(&self) -> Result<Open, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|err| err.to_string())?;
        let (stream, socket) = twice(stream).map_err(|err| err.to_string())?;
        let (client, connection) = self
            .config
            .connect_raw(stream, NoTls)
            .await
            .map_err(|err| err.to_string())?;
        Ok(Open {
            client: Arc::new(client),
            task: tokio::spawn(connection),
            socket,
        })
    }

    /// Tells the server that this is the end and waits, at most `limit`, until it has closed the connection.
    pub async fn close(&self, limit: Duration) {
        // Somebody who is still connecting has nothing that could be closed in an orderly way.
        let Ok(mut open) = self.open.try_lock() else {
            return;
        };
        let Some(Open {
            client,
            task,
            socket,
        }) = open.take()
        else {
            return;
        };
        drop(client);
        let server_has_closed = async {
            // Not before the task has ended: both read from the same socket.
            let _ = task.await;
            let mut stream = TcpStream::from_std(socket)?;
            let mut rest = [0; 4096];
            while stream.read(&mut rest).await? > 0 {}
            Ok::<_, std::io::Error>(())
        };
        let _ = tokio::time::timeout(limit, server_has_closed).await;
    }

    /// What the catalogue says about a table; asked once.
    pub async fn columns(&self, table: &str) -> Result<Arc<Vec<Column>>, Failure> {
        if let Some(columns) = self.tables.lock().await.get(table) {
            return Ok(columns.clone());
        }
        let rows = self
            .client()
            .await?
            .query(
                "SELECT column_name::text, data_type::text, is_nullable::text, column_default IS NOT NULL \
                 FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position",
                &[&table],
            )
            .await?;
        if rows.is_empty() {
            return Err(failure(
                "P2021",
                format!("The table `{table}` does not exist in the current database."),
            ));
        }
        let columns: Vec<Column> = rows
            .iter()
            .map(|row| column(row.get(0), row.get(1), row.get(2), row.get(3)))
            .collect();
        let columns = Arc::new(columns);
        self.tables
            .lock()
            .await
            .insert(table.into(), columns.clone());
        Ok(columns)
    }

    pub async fn prepare(&self, sql: &str) -> Result<Statement, Failure> {
        Ok(self.client().await?.prepare(sql).await?)
    }

    /// Runs a statement whose only column is JSON text.
    pub async fn json_rows(
        &self,
        sql: &str,
        parameters: &[TextParameter],
    ) -> Result<Vec<Json>, Failure> {
        let rows = self
            .client()
            .await?
            .query(sql, &borrowed(parameters))
            .await?;
        rows.iter()
            .map(|row| {
                serde_json::from_str(row.try_get(0)?)
                    .map_err(|err| failure("P2010", format!("the database gave bad JSON: {err}")))
            })
            .collect()
    }

    /// Runs a statement for its effect; returns the number of rows touched.
    pub async fn execute(&self, sql: &str, parameters: &[TextParameter]) -> Result<u64, Failure> {
        Ok(self
            .client()
            .await?
            .execute(sql, &borrowed(parameters))
            .await?)
    }
}

pub fn failure(code: &'static str, message: String) -> Failure {
    Failure { code, message }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(err: tokio_postgres::Error) -> Self {
        let Some(database) = err.as_db_error() else {
            let code = if err.is_closed() { "P1017" } else { "P2010" };
            return failure(code, err.to_string());
        };
        let code = match database.code().code() {
            "23505" => "P2002",
            "42P01" => "P2021",
            "57P01" | "57P02" => "P1017",
            _ => "P2010",
        };
        failure(
            code,
            format!("{}: {}", database.code().code(), database.message()),
        )
    }
}

impl ToSql for TextParameter {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(text) = &self.0 else {
            return Ok(IsNull::Yes);
        };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

fn borrowed(parameters: &[TextParameter]) -> Vec<&(dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| parameter as _).collect()
}

fn twice(stream: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream)> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, socket))
}

fn column(name: String, data_type: &str, nullable: &str, has_default: bool) -> Column {
    Column {
        name,
        json: data_type.starts_with("json"),
        array: data_type == "ARRAY",
        nullable: nullable == "YES",
        has_default,
        kind: match data_type {
            "text" => Kind::Text,
            _ if data_type.starts_with("timestamp") => Kind::Timestamp,
            _ => Kind::Other,
        },
    }
}
