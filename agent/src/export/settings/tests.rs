use super::*;

const SECRET: &str = "hunter2";

fn read(file: &FileSettings, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::from_env_over(file, |name| {
        variables
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

fn file(endpoint: &str) -> FileSettings {
    FileSettings {
        otlp: Some(FileOtlp {
            endpoint: Some(endpoint.to_owned()),
            ..FileOtlp::default()
        }),
        metrics_listen: Some(DEFAULT_LISTEN),
        interval: None,
    }
}

fn target(target: Option<&Target>) -> String {
    target.map_or("off".to_owned(), |target| {
        let protocol = if target.protocol == Protocol::Grpc {
            "grpc"
        } else {
            "http"
        };
        format!("{protocol} {}", target.endpoint)
    })
}

/// File, variables, where metrics go, where logs go.
type Row<'a> = (&'a FileSettings, &'a [(&'a str, &'a str)], &'a str, &'a str);

#[test]
fn where_each_signal_goes() {
    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let none = FileSettings::default();
    let in_file = file("http://file:4317");
    let protocol = "OTEL_EXPORTER_OTLP_PROTOCOL";
    #[rustfmt::skip]
    let table: &[Row] = &[
        (&none, &[], "off", "off"),
        (&in_file, &[], "grpc http://file:4317/", "grpc http://file:4317/"),
        (&in_file, &[(ENDPOINT, "")], "grpc http://file:4317/", "grpc http://file:4317/"),
        (&in_file, &[(ENDPOINT, "http://env:4317")], "grpc http://env:4317/", "grpc http://env:4317/"),
        (&none, &[(ENDPOINT, "http://env:4318")], "http http://env:4318/v1/metrics", "http http://env:4318/v1/logs"),
        (&none, &[(ENDPOINT, "http://env:4318/base/")], "http http://env:4318/base/v1/metrics", "http http://env:4318/base/v1/logs"),
        (&none, &[(ENDPOINT, "http://env:4318"), (protocol, "grpc")], "grpc http://env:4318/", "grpc http://env:4318/"),
        (&in_file, &[(protocol, "http/protobuf")], "http http://file:4317/v1/metrics", "http http://file:4317/v1/logs"),
        (&none, &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m:1/x")], "http http://m:1/x", "off"),
        (&none, &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://m:1/x"), (ENDPOINT, "http://e:2")], "http https://m:1/x", "http http://e:2/v1/logs"),
        (&in_file, &[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://l:1"), ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf")], "grpc http://file:4317/", "http http://l:1/"),
        (&none, &[("OTEL_METRICS_EXPORTER", "otlp")], "http http://localhost:4318/v1/metrics", "off"),
        (&none, &[("OTEL_METRICS_EXPORTER", "otlp"), (protocol, "grpc")], "grpc http://localhost:4317/", "off"),
        (&in_file, &[("OTEL_METRICS_EXPORTER", "none")], "off", "grpc http://file:4317/"),
        (&in_file, &[("OTEL_LOGS_EXPORTER", "none")], "grpc http://file:4317/", "off"),
        (&in_file, &[("OTEL_METRICS_EXPORTER", "prometheus")], "off", "grpc http://file:4317/"),
        (&in_file, &[("OTEL_SDK_DISABLED", "TRUE")], "off", "off"),
        (&in_file, &[("OTEL_SDK_DISABLED", "false")], "grpc http://file:4317/", "grpc http://file:4317/"),
    ];
    for (file, variables, metrics, logs) in table {
        let settings = read(file, variables).unwrap();
        assert_eq!(target(settings.metrics.as_ref()), *metrics, "{variables:?}");
        assert_eq!(target(settings.logs.as_ref()), *logs, "{variables:?}");
    }
}

#[test]
fn a_file_can_keep_logs_out() {
    let mut file = file("http://prometheus:9090/api/v1/otlp");
    file.otlp.as_mut().unwrap().without_logs = true;
    let settings = read(&file, &[]).unwrap();
    assert_eq!(
        target(settings.metrics.as_ref()),
        "http http://prometheus:9090/api/v1/otlp/v1/metrics"
    );
    assert_eq!(target(settings.logs.as_ref()), "off");
}

#[test]
fn every_other_value_and_its_precedence() {
    let mut file = file("http://file:4317");
    file.interval = Some(Duration::from_secs(5));
    let otlp = file.otlp.as_mut().unwrap();
    otlp.timeout = Some(Duration::from_secs(3));
    otlp.compression = Some("gzip".into());
    otlp.certificate = Some("/file/ca".into());
    otlp.headers = BTreeMap::from([("x-file".into(), "1".into())]);
    let plain = read(&file, &[]).unwrap();
    let metrics = plain.metrics.unwrap();
    assert_eq!(
        (plain.interval, metrics.timeout),
        (Duration::from_secs(5), Duration::from_secs(3))
    );
    assert_eq!(metrics.compression, Compression::Gzip);
    assert_eq!(metrics.headers["x-file"], "1");
    let over = read(
        &file,
        &[
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "300"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-env=a%20b , x-two=2"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-logs=3"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/env/ca"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/env/cert"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/env/key"),
            ("OTEL_SERVICE_NAME", "mine"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,k8s.node.name=n%2C1",
            ),
            ("OTEL_EXPORTER_PROMETHEUS_PORT", "9999"),
        ],
    )
    .unwrap();
    let (metrics, logs) = (over.metrics.unwrap(), over.logs.unwrap());
    assert_eq!(over.interval, Duration::from_secs(1));
    assert_eq!(
        (metrics.timeout.as_millis(), logs.timeout.as_millis()),
        (200, 300)
    );
    assert_eq!(metrics.compression, Compression::None);
    assert_eq!(
        (
            metrics.headers["x-env"].to_str().unwrap(),
            metrics.headers.len()
        ),
        ("a b", 2)
    );
    assert_eq!(
        (logs.headers["x-logs"].to_str().unwrap(), logs.headers.len()),
        ("3", 1)
    );
    assert_eq!(metrics.tls.certificate, Some("/env/ca".into()));
    assert_eq!(
        (
            &over.resource["service.name"][..],
            &over.resource["k8s.node.name"][..]
        ),
        ("mine", "n,1")
    );
    assert_eq!(over.metrics_listen, Some("127.0.0.1:9999".parse().unwrap()));
}

#[test]
fn the_page_is_where_file_or_variables_say() {
    let off = FileSettings::default();
    let listen = |variables| {
        read(&off, variables)
            .unwrap()
            .metrics_listen
            .map(|address| address.to_string())
    };
    assert_eq!(listen(&[]), None);
    assert_eq!(
        listen(&[("OTEL_METRICS_EXPORTER", "prometheus")]).unwrap(),
        "127.0.0.1:9469"
    );
    assert_eq!(
        listen(&[("OTEL_EXPORTER_PROMETHEUS_HOST", "::1")]).unwrap(),
        "[::1]:9469"
    );
}

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    #[rustfmt::skip]
    let table = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/json", "grpc, http/protobuf"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "udp", "udp", "grpc, http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "10s", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "0", "milliseconds"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1", "1", "at least 100"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "zstd", "gzip, none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "", "http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "unix:///x", "", "http://HOST:PORT"),
        ("OTEL_METRICS_EXPORTER", "console", "console", "otlp, prometheus, none"),
        ("OTEL_LOGS_EXPORTER", "prometheus", "prometheus", "otlp, none"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x", "", "key=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a", "a", "key=value"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "70000", "70000", "65535"),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "nowhere", "nowhere", "IP address"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key", "one of them", "both or none"),
    ];
    for (name, value, shown, allowed) in table {
        let error = read(&file("http://file:4317"), &[(name, value)])
            .expect_err(name)
            .to_string();
        for part in [name, shown, allowed] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn what_cannot_be_honoured_is_a_warning() {
    let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    assert_eq!(
        read(&FileSettings::default(), &[(name, "Cumulative")])
            .unwrap()
            .warnings,
        [""; 0]
    );
    let warnings = read(
        &FileSettings::default(),
        &[(name, "delta"), ("OTEL_SDK_DISABLED", "1")],
    )
    .unwrap()
    .warnings;
    assert_eq!(warnings.len(), 2);
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("delta") && warning.contains("cumulative"))
    );
}

#[test]
fn no_credential_is_ever_shown() {
    let good = [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://me:hunter2@host:4318/x?token=hunter2",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2"),
    ];
    let settings = read(&FileSettings::default(), &good).unwrap();
    let metrics = settings.metrics.clone().unwrap();
    assert_eq!(
        metrics.endpoint.to_string(),
        "https://host:4318/x/v1/metrics"
    );
    assert_eq!(
        metrics.endpoint.uri().query(),
        Some("token=hunter2"),
        "it is used all the same"
    );
    assert_eq!(metrics.headers["authorization"], "Basic bWU6aHVudGVyMg==");
    assert!(!format!("{settings:?}").contains(SECRET), "{settings:?}");
    let from_file = file("http://me:hunter2@host:4317");
    assert!(!format!("{from_file:?}").contains(SECRET));
    let bad = [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://me:hunter2@:bad port",
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "me:hunter2@host"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2%0A"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2%ff"),
    ];
    for pair in bad {
        let error = read(&file("http://me:hunter2@host:4317"), &[pair]).expect_err(pair.1);
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    }
}
