//! Single values of variables and of the file.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::{Compression, Protocol, SettingsError};

/// What stands for a value that may be a secret.
pub(super) const HIDDEN: &str = "<hidden>";

pub(super) fn error(
    name: &str,
    value: &str,
    problem: &str,
    allowed: &'static str,
) -> SettingsError {
    SettingsError {
        name: name.to_owned(),
        value: value.to_owned(),
        problem: problem.to_owned(),
        allowed,
    }
}

pub(super) fn protocol(name: &str, value: &str) -> Result<Protocol, SettingsError> {
    match value {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::HttpProtobuf),
        _ => Err(error(
            name,
            value,
            "this protocol is not spoken",
            "grpc, http/protobuf",
        )),
    }
}

pub(super) fn compression(name: &str, value: &str) -> Result<Compression, SettingsError> {
    match value {
        "none" => Ok(Compression::None),
        "gzip" => Ok(Compression::Gzip),
        _ => Err(error(name, value, "unknown compression", "gzip, none")),
    }
}

/// A time in milliseconds, as OpenTelemetry writes times.
pub(super) fn millis(name: &str, value: &str, least: u64) -> Result<Duration, SettingsError> {
    const ALLOWED: &str =
        "a whole number of milliseconds, for an interval at least 100, up to 86400000";
    match value.trim().parse::<u64>() {
        Ok(millis) if (least..=86_400_000).contains(&millis) => Ok(Duration::from_millis(millis)),
        Ok(_) => Err(error(name, value, "out of range", ALLOWED)),
        Err(_) => Err(error(name, value, "not a number", ALLOWED)),
    }
}

/// `key=value,key=value`, values percent-encoded.
pub(super) fn pairs(value: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut pairs = Vec::new();
    for pair in value
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once('=').ok_or("an entry has no '='")?;
        let decoded = percent_decode_str(value.trim())
            .decode_utf8()
            .map_err(|_| "a value is not UTF-8")?;
        if key.trim().is_empty() {
            return Err("an entry has no key");
        }
        pairs.push((key.trim().to_owned(), decoded.into_owned()));
    }
    Ok(pairs)
}

/// Headers, marked sensitive so that no `Debug` shows them; the error names the header, never its value.
pub(super) fn headers(name: &str, pairs: &[(String, String)]) -> Result<HeaderMap, SettingsError> {
    const ALLOWED: &str = "key=value,… with names and values that HTTP headers can have";
    let mut headers = HeaderMap::new();
    for (key, value) in pairs {
        let bad = |what: &str| {
            error(
                name,
                HIDDEN,
                &format!("the {what} of header {key:?} cannot be sent"),
                ALLOWED,
            )
        };
        let key = HeaderName::from_bytes(key.as_bytes()).map_err(|_| bad("name"))?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad("value"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

/// As [`pairs`] and [`headers`] for a variable.
pub(super) fn header_variable(name: &str, value: &str) -> Result<HeaderMap, SettingsError> {
    let pairs = pairs(value).map_err(|problem| {
        error(
            name,
            HIDDEN,
            problem,
            "key=value,key=value, percent-encoded",
        )
    })?;
    headers(name, &pairs)
}

/// `OTEL_RESOURCE_ATTRIBUTES`.
pub(super) fn resource(name: &str, value: &str) -> Result<BTreeMap<String, String>, SettingsError> {
    let pairs = pairs(value)
        .map_err(|problem| error(name, value, problem, "key=value,key=value, percent-encoded"))?;
    Ok(pairs.into_iter().collect())
}
