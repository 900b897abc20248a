//! The configuration as a file gives it: every key optional, every value of the right type and in its range, nothing
//! filled in. What contradicts what is for `resolve` to find.

use std::path::PathBuf;
use std::time::Duration;

use super::model::{Allowance, ApiUse, Budget, EngineMatcher, Matcher, OtlpProtocol};
use super::node::Node;
use super::problem::Location;
use super::raw_export::{self, Listen};
use super::raw_match::{engine_matcher, matcher};
use super::read::{At, Field, Fields, Reader};
use super::size;
use crate::pipeline::{Collect, Mode};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The words of `annotations.allow`.
pub(super) const ALLOWANCES: [(&str, Allowance); 4] = [
    ("enforce", Allowance::Enforce),
    ("engine", Allowance::Engine),
    ("shorter-grace", Allowance::ShorterGrace),
    ("stall-after", Allowance::StallAfter),
];

/// The words of `kubernetes.api`.
pub(super) const API_USES: [(&str, ApiUse); 2] = [("auto", ApiUse::Auto), ("off", ApiUse::Off)];

#[derive(Debug, Default)]
pub(super) struct RawConfig {
    pub(super) mode: Option<At<Mode>>,
    pub(super) targets: Option<Vec<RawTarget>>,
    pub(super) node_kills: Option<Budget>,
    pub(super) pause: Option<Duration>,
    pub(super) allow: Option<Vec<Allowance>>,
    pub(super) api: Option<ApiUse>,
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) node: Option<String>,
    pub(super) events: Option<bool>,
    pub(super) engine_ready: Option<bool>,
    pub(super) collect: Option<Collect>,
    pub(super) per_loop: Option<Duration>,
    pub(super) node_cpu_percent: Option<u8>,
    pub(super) otlp: Option<RawOtlp>,
    pub(super) listen: Option<Listen>,
    pub(super) journal_dir: Option<PathBuf>,
    pub(super) journal_max_bytes: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct RawTarget {
    pub(super) at: Location,
    /// `targets[3]`.
    pub(super) path: String,
    pub(super) preset: Option<At<String>>,
    pub(super) name: Option<At<String>>,
    pub(super) matcher: Option<Matcher>,
    pub(super) stall_after: Option<Duration>,
    pub(super) engine: Option<RawEngine>,
    pub(super) liveness: Option<RawLiveness>,
}

#[derive(Debug, Clone)]
pub(super) struct RawEngine {
    pub(super) at: Location,
    pub(super) matchers: Option<Vec<EngineMatcher>>,
    pub(super) grace: Option<At<Duration>>,
    pub(super) unknown_grace: Option<At<Duration>>,
    pub(super) untold_grace: Option<At<Option<Duration>>>,
    pub(super) through_wrapper: Option<bool>,
    pub(super) max_kills: Option<Budget>,
}

#[derive(Debug, Clone)]
pub(super) struct RawLiveness {
    pub(super) at: Location,
    pub(super) period: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) failures: Option<u32>,
    pub(super) imminent_margin: Option<Duration>,
}

#[derive(Debug, Clone)]
pub(super) struct RawOtlp {
    pub(super) endpoint: Option<String>,
    pub(super) protocol: Option<OtlpProtocol>,
}

/// Reads a whole file.
pub(super) fn config(reader: &mut Reader<'_>, root: &Node) -> RawConfig {
    let mut raw = RawConfig::default();
    let Some(top) = reader.mapping(&Field {
        node: root,
        path: String::new(),
    }) else {
        return raw;
    };
    raw.mode = top.field("mode").and_then(|f| {
        reader.word(
            &f,
            &[("observe", Mode::Observe), ("enforce", Mode::Enforce)],
        )
    });
    raw.targets = top.field("targets").and_then(|f| {
        let items = reader.list(&f, "targets")?;
        Some(
            items
                .iter()
                .filter_map(|item| target(reader, item))
                .collect(),
        )
    });
    if let Some(limits) = section(reader, &top, "limits") {
        raw.node_kills = limits.field("node_kills").and_then(|f| budget(reader, &f));
        raw.pause = span(reader, &limits, "pause", Duration::ZERO, HOUR).map(|pause| pause.value);
    }
    if let Some(annotations) = section(reader, &top, "annotations") {
        raw.allow = annotations.field("allow").and_then(|f| {
            let items = reader.optional_list(&f, "words")?;
            Some(
                items
                    .iter()
                    .filter_map(|item| reader.word(item, &ALLOWANCES))
                    .map(|word| word.value)
                    .collect(),
            )
        });
    }
    if let Some(kubernetes) = section(reader, &top, "kubernetes") {
        raw.api = kubernetes
            .field("api")
            .and_then(|f| reader.word(&f, &API_USES))
            .map(|word| word.value);
        raw.kubeconfig = kubernetes
            .field("kubeconfig")
            .and_then(|f| absolute_path(reader, &f));
        raw.node = kubernetes.field("node").and_then(|f| node_name(reader, &f));
        raw.events = truth(reader, &kubernetes, "events");
        raw.engine_ready = truth(reader, &kubernetes, "engine_ready");
    }
    if let Some(evidence) = section(reader, &top, "evidence") {
        raw.collect = evidence
            .field("collect")
            .and_then(|f| reader.word(&f, &Collect::WORDS))
            .map(|word| word.value);
        raw.per_loop =
            span(reader, &evidence, "per_loop", MILLISECOND * 100, HOUR).map(|span| span.value);
        raw.node_cpu_percent = evidence
            .field("node_cpu_percent")
            .and_then(|f| reader.number(&f, 1..=100))
            .and_then(|number| u8::try_from(number.value).ok());
    }
    if let Some(export) = section(reader, &top, "export") {
        raw.otlp = section(reader, &export, "otlp").map(|otlp| raw_export::otlp(reader, &otlp));
        raw.listen = section(reader, &export, "metrics")
            .and_then(|metrics| raw_export::listen(reader, &metrics));
    }
    if let Some(journal) = section(reader, &top, "journal") {
        raw.journal_dir = journal.field("dir").and_then(|f| absolute_path(reader, &f));
        raw.journal_max_bytes = journal.field("max_bytes").and_then(|f| bytes(reader, &f));
    }
    raw
}

/// Reads one item of `targets`, or a preset, which has the same form.
pub(super) fn target(reader: &mut Reader<'_>, item: &Field<'_>) -> Option<RawTarget> {
    let fields = reader.mapping(item)?;
    let preset = fields.field("preset").and_then(|f| {
        let text = reader.text(&f, "the name of a preset")?;
        Some(At {
            at: f.at(),
            value: text.to_owned(),
        })
    });
    Some(RawTarget {
        at: fields.at,
        path: item.path.clone(),
        preset,
        name: fields.field("name").and_then(|f| name(reader, &f)),
        matcher: fields.field("match").and_then(|f| matcher(reader, &f)),
        stall_after: span(reader, &fields, "stall_after", MILLISECOND, HOUR).map(|span| span.value),
        engine: section(reader, &fields, "engine").map(|engine| self::engine(reader, &engine)),
        liveness: section(reader, &fields, "liveness")
            .map(|liveness| self::liveness(reader, &liveness)),
    })
}

pub(super) fn section<'n>(
    reader: &mut Reader<'_>,
    of: &Fields<'n>,
    key: &str,
) -> Option<Fields<'n>> {
    let field = of.field(key)?;
    reader.mapping(&field)
}

fn span(
    reader: &mut Reader<'_>,
    of: &Fields<'_>,
    key: &str,
    least: Duration,
    most: Duration,
) -> Option<At<Duration>> {
    let field = of.field(key)?;
    reader.span(&field, least..=most)
}

/// A name becomes a metric label and a column of output: short, and without anything that needs quoting.
fn name(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<At<String>> {
    reader.parsed(field, "1 to 63 letters, digits, '-', '_' or '.'", |text| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if text.is_empty() || text.len() > 63 || !text.chars().all(fits) {
            return Err("is no name for a target".to_owned());
        }
        Ok(text.to_owned())
    })
}

fn engine(reader: &mut Reader<'_>, fields: &Fields<'_>) -> RawEngine {
    let matchers = fields.field("match").and_then(|f| {
        let items = reader.list(&f, "mappings with exe, cmdline or both")?;
        // An item that is wrong spoils the list: an engine policy with fewer engines is not what was written.
        let matchers: Vec<_> = items
            .iter()
            .map(|item| engine_matcher(reader, item))
            .collect();
        matchers.into_iter().collect()
    });
    RawEngine {
        at: fields.at,
        matchers,
        grace: span(reader, fields, "grace", Duration::ZERO, HOUR),
        unknown_grace: span(reader, fields, "unknown_grace", Duration::ZERO, DAY),
        untold_grace: fields
            .field("untold_grace")
            .and_then(|f| reader.span_or_never(&f, MILLISECOND..=DAY)),
        through_wrapper: truth(reader, fields, "through_wrapper"),
        max_kills: fields.field("max_kills").and_then(|f| budget(reader, &f)),
    }
}

/// Both parts are needed: half a budget, with the other half from somewhere else, is easily misread.
fn budget(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<Budget> {
    let fields = reader.mapping(field)?;
    let (Some(count), Some(per)) = (fields.field("count"), fields.field("per")) else {
        reader.refuse(
            field,
            "half a budget",
            "both count and per, such as { count: 20, per: 10m }",
        );
        return None;
    };
    let (count, per) = (
        reader.number(&count, 1..=100_000),
        reader.span(&per, SECOND..=DAY),
    );
    Some(Budget {
        count: u32::try_from(count?.value).unwrap_or(u32::MAX),
        per: per?.value,
    })
}

fn liveness(reader: &mut Reader<'_>, fields: &Fields<'_>) -> RawLiveness {
    let failures = fields
        .field("failures")
        .and_then(|f| reader.number(&f, 1..=1000));
    RawLiveness {
        at: fields.at,
        period: span(reader, fields, "period", MILLISECOND, DAY).map(|span| span.value),
        timeout: span(reader, fields, "timeout", MILLISECOND, DAY).map(|span| span.value),
        failures: failures.and_then(|number| u32::try_from(number.value).ok()),
        imminent_margin: span(reader, fields, "imminent_margin", Duration::ZERO, DAY)
            .map(|span| span.value),
    }
}

fn truth(reader: &mut Reader<'_>, of: &Fields<'_>, key: &str) -> Option<bool> {
    let field = of.field(key)?;
    let word = reader.word(&field, &[("true", true), ("false", false)])?;
    Some(word.value)
}

/// A name as Kubernetes gives nodes: it goes into a query as it stands.
fn node_name(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<String> {
    let allowed = "the name of a node: lower-case letters, digits, '-' and '.', at most 253";
    let name = reader.parsed(field, allowed, |text| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        if text.is_empty() || text.len() > 253 || !text.chars().all(fits) {
            return Err("is no name of a node".to_owned());
        }
        Ok(text.to_owned())
    })?;
    Some(name.value)
}

fn absolute_path(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<PathBuf> {
    let path = reader.parsed(field, "an absolute path", |text| {
        let path = PathBuf::from(text);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err("is not absolute".to_owned())
        }
    })?;
    Some(path.value)
}

fn bytes(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<u64> {
    let range = (1 << 20)..=(1 << 40);
    let size = reader.parsed(field, "1MiB to 1024GiB, written like 64MiB", |text| {
        size::parse(text)
            .filter(|size| range.contains(size))
            .ok_or_else(|| "is no size of that range".to_owned())
    })?;
    Some(size.value)
}
