//! One line of `watch --json`, and what every line must be.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A line.
#[derive(Debug, Clone)]
pub(crate) struct Line(Value);

/// Fields of every line.
const HEAD: [&str; 5] = ["type", "time", "mono_ns", "pid", "tid"];
/// Fields that a line of a type has, and those it may have, after those of every line.
const FIELDS: [(&str, &[&str], &[&str]); 13] = [
    ("loop", &["exe", "poller", "plan"], &[]),
    (
        "stall_opened",
        &["incident", "busy_ms", "cause"],
        &["busy_is_lower_bound", "stack", "missing"],
    ),
    (
        "stall_updated",
        &["incident", "busy_ms", "cause"],
        &["busy_is_lower_bound", "stack", "missing"],
    ),
    (
        "stall_closed",
        &["incident", "busy_ms", "cause", "rescued", "ended_by"],
        &[
            "busy_is_lower_bound",
            "stack",
            "missing",
            "shares",
            "liveness",
        ],
    ),
    (
        "action",
        &[
            "incident", "child", "signal", "mode", "busy_ms", "outcome", "grace_ms",
        ],
        &["exe", "refused_by", "grace_reason", "detail"],
    ),
    (
        "risk",
        &["level", "failed_probes", "probes_seen"],
        &[
            "seconds_to_decision",
            "seconds_to_sigterm",
            "seconds_to_sigkill",
            "uncertainty_s",
            "sigterm_uncertainty_s",
            "sigkill_uncertainty_s",
        ],
    ),
    (
        "engine",
        &["event"],
        &[
            "engine",
            "exe",
            "generation",
            "port",
            "after_ms",
            "refused",
            "reason",
            "status",
            "zombies",
            "parent",
        ],
    ),
    ("engine_ready", &["ready"], &["refused"]),
    ("recovery", &["after_ms"], &[]),
    (
        "startup_race",
        &[
            "incident",
            "engine",
            "exe",
            "generation",
            "refused",
            "lasted_ms",
        ],
        &["port", "startup_ms"],
    ),
    ("lost", &["what", "count"], &[]),
    (
        "summary",
        &["iterations", "busy_ms", "stalls", "stalled_ms", "actions"],
        &[],
    ),
    ("ended", &["reason"], &["status"]),
];
const CAUSE: [&str; 13] = [
    "kind",
    "syscall",
    "child",
    "peer",
    "file",
    "holder_pid",
    "holder_exe",
    "protocol",
    "socket_state",
    "dns",
    "starved_by",
    "stopped_by",
    "kernel_function",
];
const CHILD: [&str; 9] = [
    "pid",
    "ns_pid",
    "exe",
    "state",
    "told_to_end_ms_ago",
    "signalled",
    "age_ms",
    "kernel_function",
    "sockets",
];
const REFUSALS: [&str; 17] = [
    "not_engine",
    "not_child",
    "waits_on_wrapper",
    "ambiguous_child",
    "not_told_to_end",
    "target_ending",
    "other_container",
    "identity_changed",
    "wait_over",
    "traced",
    "frozen",
    "not_loop_thread",
    "budget",
    "paused",
    "another_enforcer",
    "no_permission",
    "no_pid_namespace",
];

impl Line {
    /// Parses a line; anything but one JSON object is no line.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .with_context(|| format!("stdout has a line that is no JSON: {text}"))?;
        ensure!(value.is_object(), "a line is no JSON object: {text}");
        Ok(Self(value))
    }

    /// A text at a JSON pointer; empty if there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A whole number at a JSON pointer.
    pub(crate) fn number(&self, pointer: &str) -> Option<u64> {
        self.0.pointer(pointer).and_then(Value::as_u64)
    }

    /// A number at a JSON pointer.
    pub(crate) fn float(&self, pointer: &str) -> Option<f64> {
        self.0.pointer(pointer).and_then(Value::as_f64)
    }

    /// Whether a truth value at a JSON pointer is true.
    pub(crate) fn is_true(&self, pointer: &str) -> bool {
        self.0.pointer(pointer) == Some(&Value::Bool(true))
    }

    /// Its type.
    pub(crate) fn kind(&self) -> &str {
        self.text("/type")
    }

    /// Its moment.
    pub(crate) fn mono_ns(&self) -> u64 {
        self.number("/mono_ns").unwrap_or(0)
    }

    /// Whether it is of a type, and of one loop's process.
    pub(crate) fn is(&self, kind: &str, pid: u32) -> bool {
        self.kind() == kind && self.number("/pid") == Some(pid.into())
    }

    /// Whether it tells of a signal that was sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.kind() == "action" && self.text("/outcome") == "sent"
    }

    /// Fails unless the line is as documented.
    pub(crate) fn check(&self) -> Result<()> {
        self.checked()
            .with_context(|| format!("the line {self} is not as documented"))
    }

    fn checked(&self) -> Result<()> {
        let object = self.0.as_object().context("no object")?;
        let known = FIELDS.iter().find(|(kind, ..)| *kind == self.kind());
        let (_, needed, allowed) = known.with_context(|| format!("type `{}`", self.kind()))?;
        for field in HEAD.iter().chain(*needed) {
            ensure!(object.contains_key(*field), "no `{field}`");
        }
        let documented = |field: &&str| {
            HEAD.contains(field) || needed.contains(field) || allowed.contains(field)
        };
        if let Some(field) = object.keys().find(|field| !documented(&field.as_str())) {
            bail!("`{field}` is not documented");
        }
        ensure!(self.mono_ns() > 0, "no moment");
        ensure!(is_rfc3339(self.text("/time")), "no time");
        ensure!(
            self.kind() == "lost" || self.number("/pid") > Some(0) && self.number("/tid") > Some(0),
            "no process"
        );
        for (part, fields) in [("/cause", &CAUSE[..]), ("/cause/child", &CHILD[..])] {
            let keys = self
                .0
                .pointer(part)
                .and_then(Value::as_object)
                .map(|part| part.keys());
            if let Some(field) = keys
                .into_iter()
                .flatten()
                .find(|key| !fields.contains(&key.as_str()))
            {
                bail!("`{part}/{field}` is not documented");
            }
        }
        if needed.contains(&"incident") {
            ensure!(self.text("/incident").len() == 26, "no incident");
        }
        let refused = self.text("/outcome") == "refused";
        ensure!(
            refused == REFUSALS.contains(&self.text("/refused_by")),
            "refused by whom?"
        );
        Ok(())
    }
}

/// Enough of a check to tell a time from anything else.
fn is_rfc3339(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|character| {
            if character.is_ascii_digit() {
                '0'
            } else {
                character
            }
        })
        .collect();
    shape == "0000-00-00T00:00:00.000000Z"
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
