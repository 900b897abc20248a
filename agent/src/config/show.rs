//! The effective configuration as a file of the same format, and what differs between two of them.
//!
//! Both are made from one tree, so that whatever is printed is also compared. Shows no secret: an endpoint with
//! credentials is not accepted in the first place.

use super::model::{Budget, Config, EnginePolicy, Kubernetes, Matcher, Otlp, Target};
use super::raw::{ALLOWANCES, API_USES};
use super::raw_export::PROTOCOLS;
use super::yaml::{Tree, block, inline};
use super::{duration, size};

impl Config {
    /// The effective configuration as YAML, presets expanded and defaults filled in; reads back to the same value.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        block(&tree(self), 0, &mut text);
        text
    }

    /// What changes from this configuration to `other`, a line each, for people.
    #[must_use]
    pub fn diff(&self, other: &Self) -> Vec<String> {
        let (before, after) = (leaves(self), leaves(other));
        let mut lines = Vec::new();
        for (key, old) in &before {
            match after.iter().find(|(other, _)| other == key) {
                None => lines.push(format!("{key}: {old} -> (removed)")),
                Some((_, new)) if new != old => lines.push(format!("{key}: {old} -> {new}")),
                Some(_) => {}
            }
        }
        for (key, new) in after
            .iter()
            .filter(|(key, _)| !before.iter().any(|(other, _)| other == key))
        {
            lines.push(format!("{key}: (new) {new}"));
        }
        if lines.is_empty() && self != other {
            lines.push("targets: in another order".to_owned());
        }
        lines
    }
}

fn tree(config: &Config) -> Tree {
    let otlp = config.export.otlp.as_ref().map(otlp);
    let listen = config
        .export
        .metrics
        .as_ref()
        .map_or_else(|| bare("none"), |m| text(&m.listen.to_string()));
    let allow = config.annotations.allow.iter().filter_map(|word| {
        ALLOWANCES
            .iter()
            .find(|(_, known)| known == word)
            .map(|(name, _)| bare(*name))
    });
    let top = vec![
        ("mode", Some(bare(config.mode.name()))),
        (
            "targets",
            Some(Tree::List(config.targets.iter().map(target).collect())),
        ),
        (
            "limits",
            Some(map([
                ("node_kills", Some(budget(config.limits.node_kills))),
                ("pause", Some(span(config.limits.pause))),
            ])),
        ),
        (
            "annotations",
            Some(map([("allow", Some(Tree::List(allow.collect())))])),
        ),
        ("kubernetes", Some(kubernetes(&config.kubernetes))),
        (
            "evidence",
            Some(map([
                ("collect", Some(bare(config.evidence.collect.name()))),
                ("per_loop", Some(span(config.evidence.per_loop))),
                (
                    "node_cpu_percent",
                    Some(bare(config.evidence.node_cpu_percent.to_string())),
                ),
            ])),
        ),
        (
            "export",
            Some(map([
                ("otlp", otlp),
                ("metrics", Some(map([("listen", Some(listen))]))),
            ])),
        ),
        (
            "journal",
            Some(map([
                ("dir", Some(text(&config.journal.dir.to_string_lossy()))),
                (
                    "max_bytes",
                    Some(bare(size::format(config.journal.max_bytes))),
                ),
            ])),
        ),
    ];
    map(top)
}

fn kubernetes(kubernetes: &Kubernetes) -> Tree {
    let api = API_USES.iter().find(|(_, known)| *known == kubernetes.api);
    let file = kubernetes.kubeconfig.as_ref();
    map([
        ("api", api.map(|(name, _)| bare(*name))),
        ("kubeconfig", file.map(|file| text(&file.to_string_lossy()))),
        ("node", kubernetes.node.as_deref().map(text)),
        ("events", Some(bare(kubernetes.events.to_string()))),
        (
            "engine_ready",
            Some(bare(kubernetes.engine_ready.to_string())),
        ),
    ])
}

fn target(target: &Target) -> Tree {
    let liveness = target.liveness.map(|liveness| {
        map([
            ("period", Some(span(liveness.period))),
            ("timeout", Some(span(liveness.timeout))),
            ("failures", Some(bare(liveness.failures.to_string()))),
            ("imminent_margin", Some(span(liveness.imminent_margin))),
        ])
    });
    map([
        ("name", Some(text(&target.name))),
        ("match", Some(matcher(&target.matcher))),
        ("stall_after", Some(span(target.stall_after))),
        ("engine", target.engine.as_ref().map(engine)),
        ("liveness", liveness),
    ])
}

fn matcher(matcher: &Matcher) -> Tree {
    let kubernetes = matcher.kubernetes.as_ref().map(|pods| {
        let labels = pods
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect();
        let labels = (!pods.labels.is_empty()).then_some(Tree::Map(labels));
        map([
            ("namespace", pods.namespace.as_deref().map(text)),
            ("labels", labels),
        ])
    });
    map([
        ("exe", matcher.exe.as_ref().map(|glob| text(glob.as_str()))),
        (
            "cmdline",
            matcher.cmdline.as_ref().map(|glob| text(glob.as_str())),
        ),
        ("kubernetes", kubernetes),
    ])
}

fn engine(engine: &EnginePolicy) -> Tree {
    let matchers = engine.matchers.iter().map(|matcher| {
        map([
            ("exe", matcher.exe.as_ref().map(|glob| text(glob.as_str()))),
            (
                "cmdline",
                matcher.cmdline.as_ref().map(|glob| text(glob.as_str())),
            ),
        ])
    });
    map([
        ("match", Some(Tree::List(matchers.collect()))),
        ("grace", Some(span(engine.grace))),
        ("unknown_grace", Some(span(engine.unknown_grace))),
        (
            "untold_grace",
            Some(engine.untold_grace.map_or_else(|| bare("never"), span)),
        ),
        (
            "through_wrapper",
            Some(bare(engine.through_wrapper.to_string())),
        ),
        ("max_kills", Some(budget(engine.max_kills))),
    ])
}

fn otlp(otlp: &Otlp) -> Tree {
    let protocol = PROTOCOLS
        .iter()
        .find(|(_, known)| *known == otlp.protocol)
        .map(|(name, _)| bare(*name));
    map([
        ("endpoint", Some(text(&otlp.endpoint))),
        ("protocol", protocol),
    ])
}

fn budget(budget: Budget) -> Tree {
    map([
        ("count", Some(bare(budget.count.to_string()))),
        ("per", Some(span(budget.per))),
    ])
}

fn span(span: std::time::Duration) -> Tree {
    Tree::Bare(duration::format(span))
}

fn bare(word: impl Into<String>) -> Tree {
    Tree::Bare(word.into())
}

fn text(text: &str) -> Tree {
    Tree::Text(text.to_owned())
}

fn map<'k>(entries: impl IntoIterator<Item = (&'k str, Option<Tree>)>) -> Tree {
    let present = entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Tree::Map(present.collect())
}

/// Every value with its full key. Targets go by name, so that one more target changes no other line.
fn leaves(config: &Config) -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    collect("", &tree(config), &mut leaves);
    leaves
}

fn collect(path: &str, tree: &Tree, leaves: &mut Vec<(String, String)>) {
    match tree {
        Tree::Map(entries)
            if !entries.is_empty()
                && !path.ends_with("max_kills")
                && !path.ends_with("node_kills") =>
        {
            for (key, value) in entries {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                collect(&path, value, leaves);
            }
        }
        Tree::List(items) if path == "targets" => {
            for item in items {
                let Tree::Map(entries) = item else { continue };
                let name = entries
                    .iter()
                    .find(|(key, _)| key == "name")
                    .map(|(_, name)| inline(name));
                let name = name.unwrap_or_default();
                collect(
                    &format!("targets[{}]", name.trim_matches('"')),
                    item,
                    leaves,
                );
            }
        }
        _ => leaves.push((path.to_owned(), inline(tree))),
    }
}
