//! Which value wins: the variable of the signal, the general variable, the file, the default.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::parse::{self, HIDDEN};
use super::{
    Compression, DEFAULT_INTERVAL, DEFAULT_LISTEN, DEFAULT_TIMEOUT, Endpoint, FileOtlp,
    FileSettings, Protocol, Settings, SettingsError, Target, TlsFiles,
};

pub(super) struct Reader<'a> {
    file: &'a FileSettings,
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

/// A signal of OTLP.
#[derive(Clone, Copy)]
struct Signal {
    word: &'static str,
    path: &'static str,
}

const METRICS: Signal = Signal {
    word: "METRICS",
    path: "/v1/metrics",
};
const LOGS: Signal = Signal {
    word: "LOGS",
    path: "/v1/logs",
};

impl<'a> Reader<'a> {
    pub(super) fn new(
        file: &'a FileSettings,
        variable: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            file,
            variable,
            warnings: Vec::new(),
        }
    }

    pub(super) fn settings(mut self) -> Result<Settings, SettingsError> {
        let disabled = self.disabled();
        let metrics_exporters = self.exporters(
            METRICS,
            &["otlp", "prometheus", "none"],
            "otlp, prometheus, none",
        )?;
        let logs_exporters = self.exporters(LOGS, &["otlp", "none"], "otlp, none")?;
        let page_asked = metrics_exporters
            .as_ref()
            .is_some_and(|list| list.iter().any(|e| e == "prometheus"));
        let metrics = self
            .target(METRICS, metrics_exporters)?
            .filter(|_| !disabled);
        let logs = self.target(LOGS, logs_exporters)?.filter(|_| !disabled);
        self.warn_of_what_is_not_done();
        Ok(Settings {
            metrics,
            logs,
            metrics_listen: self.listen(page_asked)?,
            interval: self.interval()?,
            resource: self.resource()?,
            warnings: self.warnings,
        })
    }

    /// A variable that is set and not empty: OpenTelemetry takes an empty one as unset.
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// `OTEL_EXPORTER_OTLP_{SIGNAL}_{what}`, else `OTEL_EXPORTER_OTLP_{what}`: name and value.
    fn of_signal(&self, signal: Signal, what: &str) -> Option<(String, String)> {
        [
            format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.word),
            format!("OTEL_EXPORTER_OTLP_{what}"),
        ]
        .into_iter()
        .find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn disabled(&mut self) -> bool {
        match self.get("OTEL_SDK_DISABLED") {
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(value) if !value.eq_ignore_ascii_case("false") => {
                self.warnings.push(format!(
                    "OTEL_SDK_DISABLED={value}: taken as false; allowed: true, false"
                ));
                false
            }
            _ => false,
        }
    }

    /// `OTEL_{SIGNAL}_EXPORTER`, a list.
    fn exporters(
        &self,
        signal: Signal,
        known: &[&str],
        allowed: &'static str,
    ) -> Result<Option<Vec<String>>, SettingsError> {
        let name = format!("OTEL_{}_EXPORTER", signal.word);
        let Some(value) = self.get(&name) else {
            return Ok(None);
        };
        let list: Vec<String> = value
            .split(',')
            .map(|entry| entry.trim().to_owned())
            .collect();
        match list.iter().find(|entry| !known.contains(&entry.as_str())) {
            Some(_) => Err(parse::error(&name, &value, "unknown exporter", allowed)),
            None => Ok(Some(list)),
        }
    }

    fn target(
        &self,
        signal: Signal,
        exporters: Option<Vec<String>>,
    ) -> Result<Option<Target>, SettingsError> {
        let endpoint = self.of_signal(signal, "ENDPOINT");
        let file = self.file.otlp.as_ref();
        let wanted = match exporters {
            Some(list) => list.iter().any(|exporter| exporter == "otlp"),
            None => {
                endpoint.is_some()
                    || file.is_some_and(|file| signal.word == METRICS.word || !file.without_logs)
            }
        };
        if !wanted {
            return Ok(None);
        }
        let nothing = FileOtlp::default();
        let file = file.unwrap_or(&nothing);
        let protocol = self.protocol(signal, file)?;
        let (endpoint, protocol, authorization) = address(signal, endpoint, file, protocol)?;
        let mut headers = self.headers(signal, file)?;
        if let Some(value) = authorization
            && !headers.contains_key(AUTHORIZATION)
        {
            headers.insert(AUTHORIZATION, value);
        }
        let timeout = match self.of_signal(signal, "TIMEOUT") {
            Some((name, value)) => parse::millis(&name, &value, 1)?,
            None => file.timeout.unwrap_or(DEFAULT_TIMEOUT),
        };
        let compression = match (self.of_signal(signal, "COMPRESSION"), &file.compression) {
            (Some((name, value)), _) => parse::compression(&name, &value)?,
            (None, Some(value)) => parse::compression("export.otlp.compression", value)?,
            (None, None) => Compression::None,
        };
        let tls = self.tls(signal, file)?;
        Ok(Some(Target {
            endpoint,
            protocol,
            headers,
            timeout,
            compression,
            tls,
        }))
    }

    fn protocol(&self, signal: Signal, file: &FileOtlp) -> Result<Option<Protocol>, SettingsError> {
        match (self.of_signal(signal, "PROTOCOL"), &file.protocol) {
            (Some((name, value)), _) => parse::protocol(&name, &value).map(Some),
            (None, Some(value)) => parse::protocol("export.otlp.protocol", value).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn headers(&self, signal: Signal, file: &FileOtlp) -> Result<HeaderMap, SettingsError> {
        if let Some((name, value)) = self.of_signal(signal, "HEADERS") {
            return parse::header_variable(&name, &value);
        }
        let pairs: Vec<(String, String)> = file.headers.clone().into_iter().collect();
        parse::headers("export.otlp.headers", &pairs)
    }

    fn tls(&self, signal: Signal, file: &FileOtlp) -> Result<TlsFiles, SettingsError> {
        let path = |what: &str, of_file: &Option<PathBuf>| {
            self.of_signal(signal, what)
                .map(|(_, value)| PathBuf::from(value))
                .or_else(|| of_file.clone())
        };
        let tls = TlsFiles {
            certificate: path("CERTIFICATE", &file.certificate),
            client_certificate: path("CLIENT_CERTIFICATE", &file.client_certificate),
            client_key: path("CLIENT_KEY", &file.client_key),
        };
        if tls.client_certificate.is_some() == tls.client_key.is_some() {
            return Ok(tls);
        }
        Err(parse::error(
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "one of them",
            "only one of client certificate and key is given",
            "both or none",
        ))
    }

    fn listen(&self, asked: bool) -> Result<Option<SocketAddr>, SettingsError> {
        let (host, port) = (
            self.get("OTEL_EXPORTER_PROMETHEUS_HOST"),
            self.get("OTEL_EXPORTER_PROMETHEUS_PORT"),
        );
        let mut listen = self.file.metrics_listen;
        if asked || host.is_some() || port.is_some() {
            let mut address = listen.unwrap_or(DEFAULT_LISTEN);
            if let Some(host) = host {
                let ip = if host == "localhost" {
                    Ok(DEFAULT_LISTEN.ip())
                } else {
                    host.parse::<IpAddr>()
                };
                address.set_ip(ip.map_err(|_| {
                    let allowed = "an IP address of this machine, or localhost";
                    parse::error(
                        "OTEL_EXPORTER_PROMETHEUS_HOST",
                        &host,
                        "not an IP address",
                        allowed,
                    )
                })?);
            }
            if let Some(port) = port {
                address.set_port(port.parse().map_err(|_| {
                    parse::error(
                        "OTEL_EXPORTER_PROMETHEUS_PORT",
                        &port,
                        "not a port",
                        "a number up to 65535",
                    )
                })?);
            }
            listen = Some(address);
        }
        Ok(listen)
    }

    fn interval(&self) -> Result<std::time::Duration, SettingsError> {
        match self.get("OTEL_METRIC_EXPORT_INTERVAL") {
            Some(value) => parse::millis("OTEL_METRIC_EXPORT_INTERVAL", &value, 100),
            None => Ok(self.file.interval.unwrap_or(DEFAULT_INTERVAL)),
        }
    }

    fn resource(&self) -> Result<BTreeMap<String, String>, SettingsError> {
        let mut resource = BTreeMap::from([
            ("service.name".to_owned(), "loopwarden".to_owned()),
            (
                "service.version".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
        ]);
        if let Some(value) = self.get("OTEL_RESOURCE_ATTRIBUTES") {
            resource.extend(parse::resource("OTEL_RESOURCE_ATTRIBUTES", &value)?);
        }
        if let Some(name) = self.get("OTEL_SERVICE_NAME") {
            resource.insert("service.name".to_owned(), name);
        }
        Ok(resource)
    }

    /// Values that are right for others: a pod that inherits them must not fail to start.
    fn warn_of_what_is_not_done(&mut self) {
        for (name, done) in [
            (
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                "cumulative",
            ),
            (
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                "explicit_bucket_histogram",
            ),
        ] {
            if let Some(value) = self.get(name)
                && !value.eq_ignore_ascii_case(done)
            {
                self.warnings
                    .push(format!("{name}={value}: not honoured; allowed: {done}"));
            }
        }
    }
}

/// The address of a signal and the protocol: where none is named, the port tells, 4317 being gRPC's by convention.
fn address(
    signal: Signal,
    variable: Option<(String, String)>,
    file: &FileOtlp,
    protocol: Option<Protocol>,
) -> Result<(Endpoint, Protocol, Option<http::HeaderValue>), SettingsError> {
    let (name, address) = variable
        .or_else(|| {
            file.endpoint
                .clone()
                .map(|address| ("export.otlp.endpoint".to_owned(), address))
        })
        .unwrap_or_else(|| {
            let grpc = protocol == Some(Protocol::Grpc);
            (
                "default".to_owned(),
                if grpc {
                    "http://localhost:4317"
                } else {
                    "http://localhost:4318"
                }
                .to_owned(),
            )
        });
    let (endpoint, authorization) = Endpoint::parse(&address).map_err(|problem| {
        parse::error(
            &name,
            HIDDEN,
            &problem,
            "http://HOST:PORT or https://HOST:PORT",
        )
    })?;
    let by_port = || match endpoint.uri().port_u16() {
        Some(4317) => Protocol::Grpc,
        _ => Protocol::HttpProtobuf,
    };
    let protocol = protocol.unwrap_or_else(by_port);
    let whole = name.contains(&format!("_{}_", signal.word));
    let endpoint = match protocol {
        Protocol::HttpProtobuf if !whole => endpoint.join(signal.path),
        _ => endpoint,
    };
    Ok((endpoint, protocol, authorization))
}
