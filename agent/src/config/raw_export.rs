//! Reading of `export`: addresses, with care for what may be secret in them.

use std::net::SocketAddr;

use super::model::OtlpProtocol;
use super::raw::RawOtlp;
use super::read::{Field, Fields, Reader};

/// The words of `export.otlp.protocol`.
pub(super) const PROTOCOLS: [(&str, OtlpProtocol); 2] = [
    ("grpc", OtlpProtocol::Grpc),
    ("http/protobuf", OtlpProtocol::HttpProtobuf),
];

/// The value of `export.metrics.listen`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Listen {
    /// There is to be no page.
    Nowhere,
    On(SocketAddr),
}

pub(super) fn otlp(reader: &mut Reader<'_>, fields: &Fields<'_>) -> RawOtlp {
    RawOtlp {
        endpoint: fields.field("endpoint").and_then(|f| endpoint(reader, &f)),
        protocol: fields
            .field("protocol")
            .and_then(|f| reader.word(&f, &PROTOCOLS))
            .map(|word| word.value),
    }
}

/// Never repeats what it found: a URL may hold a password or a token.
fn endpoint(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<String> {
    const ALLOWED: &str = "an http or https URL such as http://localhost:4317";
    let text = reader.text(field, ALLOWED)?;
    if text.contains(['@', '?', '#']) {
        let found = "the URL holds credentials, a query or a fragment (not shown)";
        reader.refuse(
            field,
            found,
            &format!("{ALLOWED}; give credentials in OTEL_EXPORTER_OTLP_HEADERS"),
        );
        return None;
    }
    let uri: Option<http::Uri> = text.parse().ok();
    let fits = |uri: &http::Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    };
    if !uri.as_ref().is_some_and(fits) {
        reader.refuse(field, "no such URL (not shown)", ALLOWED);
        return None;
    }
    Some(text.to_owned())
}

pub(super) fn listen(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Listen> {
    let field = fields.field("listen")?;
    let listen = reader.parsed(
        &field,
        "IP:PORT such as 127.0.0.1:9469 or [::]:9469, or none",
        |text| match text {
            "none" => Ok(Listen::Nowhere),
            text => text
                .parse()
                .map(Listen::On)
                .map_err(|_| "is no address and port".to_owned()),
        },
    )?;
    Some(listen.value)
}
