//! A liveness probe as options name it: PERIOD/TIMEOUT/FAILURES, for `watch` with the port that is probed.
//!
//! Pure text to value. Kubernetes writes whole seconds, so a bare number is one; spans with a unit are taken too.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration;

/// The three numbers of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `failureThreshold`.
    pub failures: u32,
    /// The port, where one is named.
    pub port: Option<u16>,
}

/// Reads `PERIOD/TIMEOUT/FAILURES[@PORT]`, with spans and failures in these ranges.
pub fn parse(
    text: &str,
    spans: &RangeInclusive<Duration>,
    failures: &RangeInclusive<u32>,
) -> Result<Probe, String> {
    let (numbers, port) = match text.split_once('@') {
        Some((numbers, port)) => (numbers, Some(port)),
        None => (text, None),
    };
    let parts: Vec<&str> = numbers.split('/').collect();
    let [period, timeout, count] = parts[..] else {
        return Err("expected PERIOD/TIMEOUT/FAILURES, such as 10s/1s/3".into());
    };
    let port = port
        .map(|port| match port.parse() {
            Ok(port @ 1..) => Ok(port),
            _ => Err(format!("port {port:?}: allowed are 1 to 65535")),
        })
        .transpose()?;
    match count.parse() {
        Ok(count) if failures.contains(&count) => Ok(Probe {
            period: span("period", period, spans)?,
            timeout: span("timeout", timeout, spans)?,
            failures: count,
            port,
        }),
        _ => Err(format!(
            "failures {count:?}: allowed are {} to {}",
            failures.start(),
            failures.end()
        )),
    }
}

fn span(name: &str, text: &str, allowed: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let span = match text.parse().map(Duration::from_secs) {
        Ok(seconds) => seconds,
        Err(_) => duration::parse(text).map_err(|why| format!("{name} {text:?}: {why}"))?,
    };
    if allowed.contains(&span) {
        Ok(span)
    } else {
        let (least, most) = (allowed.start(), allowed.end());
        Err(format!(
            "{name} {text:?}: allowed are {} to {}",
            duration::format(*least),
            duration::format(*most)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Probe, String> {
        let spans = Duration::from_millis(1)..=Duration::from_hours(24);
        parse(text, &spans, &(1..=1000))
    }

    #[test]
    fn seconds_need_no_unit_and_the_port_may_be_missing() {
        let probe = Probe {
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failures: 3,
            port: None,
        };
        assert_eq!(read("10/1/3"), Ok(probe));
        assert_eq!(read("10s/1000ms/3"), Ok(probe));
        let port = Some(8000);
        assert_eq!(read("10/1/3@8000"), Ok(Probe { port, ..probe }));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed() {
        for (text, why) in [
            ("10/1", "expected PERIOD/TIMEOUT/FAILURES"),
            ("10/1/0", "failures \"0\": allowed are 1 to 1000"),
            ("0/1/3", "period \"0\": allowed are 1ms to 24h"),
            ("10/x/3", "timeout \"x\": "),
            ("10/1/3@0", "port \"0\": allowed are 1 to 65535"),
            ("10/1/3@http", "port \"http\""),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }
}
