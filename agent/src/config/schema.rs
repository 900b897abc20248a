//! Which keys there are, in one table: the reader accepts these and no others, and the documentation is tested against
//! them.

/// A mapping of the file and the keys it may have. `[]` stands for every item of a list.
#[derive(Debug)]
pub struct Section {
    /// From the top; empty for the document itself.
    pub path: &'static str,
    /// The keys, in the order in which they are printed.
    pub keys: &'static [&'static str],
}

/// Every mapping of a configuration file. Labels are the one mapping whose keys are the user's own.
pub const SECTIONS: &[Section] = &[
    Section {
        path: "",
        keys: &[
            "mode",
            "targets",
            "limits",
            "annotations",
            "kubernetes",
            "evidence",
            "export",
            "journal",
        ],
    },
    Section {
        path: "targets[]",
        keys: &[
            "preset",
            "name",
            "match",
            "stall_after",
            "engine",
            "liveness",
        ],
    },
    Section {
        path: "targets[].match",
        keys: &["exe", "cmdline", "kubernetes"],
    },
    Section {
        path: "targets[].match.kubernetes",
        keys: &["namespace", "labels"],
    },
    Section {
        path: "targets[].engine",
        keys: &[
            "match",
            "grace",
            "unknown_grace",
            "untold_grace",
            "through_wrapper",
            "max_kills",
        ],
    },
    Section {
        path: "targets[].engine.match[]",
        keys: &["exe", "cmdline"],
    },
    Section {
        path: "targets[].engine.max_kills",
        keys: &["count", "per"],
    },
    Section {
        path: "targets[].liveness",
        keys: &["period", "timeout", "failures", "imminent_margin"],
    },
    Section {
        path: "limits",
        keys: &["node_kills", "pause"],
    },
    Section {
        path: "limits.node_kills",
        keys: &["count", "per"],
    },
    Section {
        path: "annotations",
        keys: &["allow"],
    },
    Section {
        path: "kubernetes",
        keys: &["api", "kubeconfig", "node", "events", "engine_ready"],
    },
    Section {
        path: "evidence",
        keys: &["collect", "per_loop", "node_cpu_percent"],
    },
    Section {
        path: "export",
        keys: &["otlp", "metrics"],
    },
    Section {
        path: "export.otlp",
        keys: &["endpoint", "protocol"],
    },
    Section {
        path: "export.metrics",
        keys: &["listen"],
    },
    Section {
        path: "journal",
        keys: &["dir", "max_bytes"],
    },
];

/// The keys of the mapping at `path`.
pub(super) fn keys(path: &str) -> &'static [&'static str] {
    SECTIONS
        .iter()
        .find(|section| section.path == path)
        .map_or(&[], |section| section.keys)
}

/// What a person may have meant by a key that does not exist in the mapping at `path`.
pub(super) fn suggest(path: &str, key: &str) -> Option<String> {
    let elsewhere = SECTIONS
        .iter()
        .find(|section| section.path != path && section.keys.contains(&key));
    let close = keys(path)
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, key), *known))
        .min();
    match (close, elsewhere) {
        (Some((distance, known)), _) if distance <= 1 + known.len() / 4 => {
            Some(format!("did you mean {known}?"))
        }
        (_, Some(section)) if section.path.is_empty() => {
            Some(format!("{key} belongs at the top of the file"))
        }
        (_, Some(section)) => Some(format!("{key} belongs in {}", section.path)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_near_key_then_the_right_place() {
        for (path, key, hint) in [
            ("targets[]", "stall_afer", Some("did you mean stall_after?")),
            (
                "targets[]",
                "stall-after",
                Some("did you mean stall_after?"),
            ),
            ("targets[].engine", "gracE", Some("did you mean grace?")),
            (
                "targets[]",
                "grace",
                Some("grace belongs in targets[].engine"),
            ),
            (
                "targets[]",
                "mode",
                Some("mode belongs at the top of the file"),
            ),
            ("", "pause", Some("pause belongs in limits")),
            ("", "colour", None),
        ] {
            assert_eq!(suggest(path, key).as_deref(), hint, "{path} {key}");
        }
    }
}
