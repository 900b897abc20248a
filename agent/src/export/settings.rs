//! Where to export to: the file's `export:` section with the standard `OTEL_*` variables over it.
//!
//! Pure: variables come through a closure and nothing is opened; `Exporter::start` reads certificates and binds ports.
//! Credentials (header values, user information and query of an endpoint) never reach `Debug`, `Display` or an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderMap;

mod endpoint;
mod env;
mod parse;

pub use endpoint::Endpoint;

/// Where the text page listens unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9469);

/// Time between two full pushes. OpenTelemetry's 60 s would show at most one value of a stall before the kubelet ends it
/// (21 to 31 s with its defaults); this shows it growing, at four wake-ups a minute.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);

/// Time for one export, as OpenTelemetry has it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the configuration file says in `export:`; `None` is what it leaves open.
#[derive(Debug, Clone, Default)]
pub struct FileSettings {
    /// `otlp:`, absent when nothing is pushed.
    pub otlp: Option<FileOtlp>,
    /// `metrics: { listen }`; `None` for no page.
    pub metrics_listen: Option<SocketAddr>,
    /// `interval`
    pub interval: Option<Duration>,
}

/// What the file says in `export: otlp:`.
#[derive(Clone, Default)]
pub struct FileOtlp {
    /// `endpoint`, without the path of a signal.
    pub endpoint: Option<String>,
    /// `protocol`: `grpc` or `http/protobuf`.
    pub protocol: Option<String>,
    /// `headers`
    pub headers: BTreeMap<String, String>,
    /// `timeout`
    pub timeout: Option<Duration>,
    /// `compression`: `gzip` or `none`.
    pub compression: Option<String>,
    /// `certificate`: authorities to trust instead of the machine's, PEM.
    pub certificate: Option<PathBuf>,
    /// `client_certificate`, PEM.
    pub client_certificate: Option<PathBuf>,
    /// `client_key`, PEM.
    pub client_key: Option<PathBuf>,
    /// `logs: false` pushes metrics only, for receivers such as Prometheus that take nothing else.
    pub without_logs: bool,
}

/// What is exported and where to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where metrics are pushed to.
    pub metrics: Option<Target>,
    /// Where log records are pushed to.
    pub logs: Option<Target>,
    /// Where the text page listens.
    pub metrics_listen: Option<SocketAddr>,
    /// Time between two full pushes.
    pub interval: Duration,
    /// Who the agent is.
    pub resource: BTreeMap<String, String>,
    /// Variables that were understood and cannot be honoured, for the log.
    pub warnings: Vec<String>,
}

/// Where one signal goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// Whole address of the signal.
    pub endpoint: Endpoint,
    /// Protocol.
    pub protocol: Protocol,
    /// Headers sent along; values are marked sensitive.
    pub headers: HeaderMap,
    /// Time for one attempt.
    pub timeout: Duration,
    /// Whether the body is compressed.
    pub compression: Compression,
    /// Files for TLS.
    pub tls: TlsFiles,
}

/// Protocols of OTLP that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `none`
    None,
    /// `gzip`
    Gzip,
}

/// Files for TLS, all PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities to trust instead of the machine's.
    pub certificate: Option<PathBuf>,
    /// Certificate to show.
    pub client_certificate: Option<PathBuf>,
    /// Its key.
    pub client_key: Option<PathBuf>,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: {problem}; allowed: {allowed}")]
pub struct SettingsError {
    /// Variable, or key of the file.
    pub name: String,
    /// Its value, without credentials.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What is allowed.
    pub allowed: &'static str,
}

/// Endpoint and headers may hold credentials: only what cannot is shown.
impl std::fmt::Debug for FileOtlp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileOtlp")
            .field("protocol", &self.protocol)
            .field("timeout", &self.timeout)
            .field("compression", &self.compression)
            .field("without_logs", &self.without_logs)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The file's settings with the `OTEL_*` variables over them.
    pub fn from_env_over(
        file: &FileSettings,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        env::Reader::new(file, &variable).settings()
    }
}

#[cfg(test)]
mod tests;
