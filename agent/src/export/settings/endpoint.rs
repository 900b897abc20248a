//! The address of a collector, without anything that may be a secret.

use std::fmt;

use base64::Engine as _;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;

/// An address; user information has been taken out (see [`Endpoint::parse`]), and a query is used but never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
}

impl Endpoint {
    /// Takes an address apart: itself, and what its user information says as an `authorization` header.
    ///
    /// The error says what is wrong and repeats nothing of the address.
    pub fn parse(address: &str) -> Result<(Self, Option<HeaderValue>), String> {
        let (scheme, rest) = address.split_once("://").ok_or("it has no scheme")?;
        if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return Err("the scheme is neither http nor https".to_owned());
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, host) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(user, host)| (Some(user), host));
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        let uri = format!("{scheme}://{host}{path}")
            .parse()
            .map_err(|e: http::uri::InvalidUri| e.to_string())?;
        Ok((Self { uri }, user.and_then(basic)))
    }

    /// The same with `path` appended.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        let before = self.uri.path().trim_end_matches('/');
        let query = self
            .uri
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = format!("{before}{path}{query}").parse().ok();
        Uri::from_parts(parts).map_or_else(|_| self.clone(), |uri| Self { uri })
    }

    /// What to connect to.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }
}

/// `user:password`, percent-encoded, as HTTP basic authentication.
fn basic(user: &str) -> Option<HeaderValue> {
    let plain: Vec<u8> = percent_decode_str(user).collect();
    let mut value = HeaderValue::from_str(&format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(plain)
    ))
    .ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host) = (
            self.uri.scheme_str().unwrap_or(""),
            self.uri.authority().map_or("", |a| a.as_str()),
        );
        write!(f, "{scheme}://{host}{}", self.uri.path())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
