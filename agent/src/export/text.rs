//! The text page: Prometheus's text format 0.0.4, or `OpenMetrics` 1.0 when the reader asks for it.
//!
//! The two differ in the name under which a counter is described, in `# UNIT`, and in the end mark. Pure: families in,
//! text out.

use std::fmt::Write as _;

use super::metric::{Kind, Metric};
use super::names;
use super::registry::{AttributeValue, Attributes, Family, Point, Reading};

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// The format a reader that sent this `Accept` header takes.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    /// Value of the `Content-Type` header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes the page.
#[must_use]
pub fn encode(families: &[Family], format: Format) -> String {
    let mut out = String::with_capacity(
        families
            .iter()
            .map(|family| family.points.len() * 200)
            .sum(),
    );
    for family in families {
        let name = family.metric.prometheus_name();
        describe(&mut out, family.metric, &name, format);
        for point in &family.points {
            sample(&mut out, &name, point);
        }
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn describe(out: &mut String, metric: Metric, name: &str, format: Format) {
    let row = metric.instrument();
    let described = match format {
        Format::Prometheus => name,
        Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
    };
    let kind = match row.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    let _ = writeln!(out, "# HELP {described} {}", row.help);
    let _ = writeln!(out, "# TYPE {described} {kind}");
    if let (Format::OpenMetrics, Some(unit)) = (format, names::unit_suffix(row.unit)) {
        let _ = writeln!(out, "# UNIT {described} {unit}");
    }
}

fn sample(out: &mut String, name: &str, point: &Point) {
    let labels = labels(&point.base, &point.own);
    match &point.reading {
        Reading::Number(value) => {
            let braces = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{labels}}}")
            };
            let _ = writeln!(out, "{name}{braces} {value}");
        }
        Reading::Histogram {
            bounds,
            counts,
            sum,
        } => {
            let comma = if labels.is_empty() { "" } else { "," };
            let mut total = 0;
            let edges = bounds
                .iter()
                .map(|bound| edge(*bound))
                .chain(["+Inf".to_owned()]);
            for (edge, count) in edges.zip(counts) {
                total += count;
                let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{edge}\"}} {total}");
            }
            let braces = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{labels}}}")
            };
            let _ = writeln!(out, "{name}_sum{braces} {sum}");
            let _ = writeln!(out, "{name}_count{braces} {total}");
        }
        Reading::Gone => {}
    }
}

/// A bound as `OpenMetrics` wants it: `1.0`, not `1`.
fn edge(bound: f64) -> String {
    if bound.fract() == 0.0 {
        format!("{bound:.1}")
    } else {
        bound.to_string()
    }
}

fn labels(base: &Attributes, own: &Attributes) -> String {
    let mut out = String::new();
    for (key, value) in base.iter().chain(own) {
        if !out.is_empty() {
            out.push(',');
        }
        let _ = write!(out, "{}=\"", names::label(key));
        match value {
            AttributeValue::Int(number) => {
                let _ = write!(out, "{number}");
            }
            AttributeValue::Text(text) => escape(&mut out, text),
        }
        out.push('"');
    }
    out
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::export::registry::{text, word};

    fn point(own: Attributes, reading: Reading) -> Point {
        let base = vec![
            text("process.executable.name", "a\"b\\c\nd"),
            ("process.pid", AttributeValue::Int(7)),
        ];
        Point {
            base: Arc::new(base),
            own,
            start_ns: 1,
            time_ns: 2,
            reading,
        }
    }

    fn families() -> Vec<Family> {
        let histogram = Reading::Histogram {
            bounds: &[0.5, 1.0],
            counts: vec![1, 2, 3],
            sum: 12.25,
        };
        vec![
            Family {
                metric: Metric::LoopTime,
                points: vec![point(vec![word("state", "idle")], Reading::Number(1.5))],
            },
            Family {
                metric: Metric::RescueDuration,
                points: vec![point(vec![], histogram)],
            },
            Family {
                metric: Metric::AgentLoops,
                points: vec![Point {
                    base: Arc::default(),
                    ..point(vec![], Reading::Number(3.0))
                }],
            },
        ]
    }

    #[test]
    fn both_formats_to_the_letter() {
        let common = r#"process_executable_name="a\"b\\c\nd",process_pid="7""#;
        let rescue = format!(
            "loopwarden_rescue_duration_seconds_bucket{{{common},le=\"0.5\"}} 1\n\
             loopwarden_rescue_duration_seconds_bucket{{{common},le=\"1.0\"}} 3\n\
             loopwarden_rescue_duration_seconds_bucket{{{common},le=\"+Inf\"}} 6\n\
             loopwarden_rescue_duration_seconds_sum{{{common}}} 12.25\n\
             loopwarden_rescue_duration_seconds_count{{{common}}} 6\n"
        );
        let help = |metric: Metric| metric.instrument().help;
        let prometheus = format!(
            "# HELP loopwarden_loop_time_seconds_total {}\n# TYPE loopwarden_loop_time_seconds_total counter\n\
             loopwarden_loop_time_seconds_total{{{common},state=\"idle\"}} 1.5\n\
             # HELP loopwarden_rescue_duration_seconds {}\n# TYPE loopwarden_rescue_duration_seconds histogram\n{rescue}\
             # HELP loopwarden_agent_loops {}\n# TYPE loopwarden_agent_loops gauge\nloopwarden_agent_loops 3\n",
            help(Metric::LoopTime),
            help(Metric::RescueDuration),
            help(Metric::AgentLoops)
        );
        assert_eq!(encode(&families(), Format::Prometheus), prometheus);
        let open = encode(&families(), Format::OpenMetrics);
        assert!(open.contains("# TYPE loopwarden_loop_time_seconds counter\n# UNIT loopwarden_loop_time_seconds seconds\n"));
        assert!(open.contains("loopwarden_loop_time_seconds_total{"));
        assert!(open.ends_with("loopwarden_agent_loops 3\n# EOF\n"));
        assert!(!open.contains("# UNIT loopwarden_agent_loops"));
    }

    #[test]
    fn the_reader_chooses_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("*/*")), Format::Prometheus);
        assert_eq!(Format::accepted(None), Format::Prometheus);
    }
}
