//! OpenTelemetry names as Prometheus shows them.
//!
//! The rules are those of Prometheus's own OTLP receiver (strategy `UnderscoreEscapingWithSuffixes`), so that a scraped
//! and a pushed series have the same name; a test against a real Prometheus compares them.

/// The name of a metric: unit and, for counters, `_total` appended.
#[must_use]
pub fn metric(name: &str, unit: &str, counter: bool) -> String {
    let mut out = label(name);
    if let Some(suffix) = unit_suffix(unit) {
        out.push('_');
        out.push_str(suffix);
    }
    if counter {
        out.push_str("_total");
    }
    out
}

/// The unit as a word at the end of a name; annotations such as `{stall}` have none.
#[must_use]
pub fn unit_suffix(unit: &str) -> Option<&'static str> {
    match unit {
        "s" => Some("seconds"),
        "By" => Some("bytes"),
        _ => None,
    }
}

/// The name of an attribute.
#[must_use]
pub fn label(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}
