//! A cause with what was found out about it, as the lines and events tell it: JSON for programs, words for people.
//!
//! Names of files, sockets and executables are chosen by the watched processes: credentials are taken out of the whole line or
//! event, and control characters where a sentence is written. Only what is shortened here must lose its credentials before.

mod child;
mod risk;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use child::{add_child, child, detail};
use serde_json::{Value, json};

use crate::pipeline::redact::without_credentials;
use crate::pipeline::{Cause, Frame, StallView, StarvedBy, StoppedBy};

pub(super) use child::why_wedged;
pub(super) use risk::{liveness, risk_text};

/// Frames in a sentence: a lock's or a child's wait is two calls deep in a library, called by the line that matters.
const FRAMES_SHOWN: usize = 4;

/// The object of the contract, its child with all that is known of it.
pub(super) fn json(view: &StallView) -> Value {
    let mut cause = json!(view.cause);
    let child = cause.get_mut("child").and_then(Value::as_object_mut);
    if let (Some(child), Some(detail)) = (child, detail(view)) {
        add_child(child, detail);
    }
    cause
}

/// Parts of a mixed stall, to three digits.
pub(super) fn shares(view: &StallView) -> Value {
    let rounded = |part: f64| (part * 1000.0).round() / 1000.0;
    let parts = view
        .shares
        .iter()
        .map(|(kind, part)| (kind.name().to_owned(), json!(rounded(*part))));
    Value::Object(parts.collect())
}

/// The cause in words.
pub(super) fn text(view: &StallView) -> String {
    let cause = &view.cause;
    let mut text = cause.kind.name().to_owned();
    if let Some(why) = held(cause) {
        let _ = write!(text, ": {why}");
    }
    if let Some(syscall) = &cause.syscall {
        let _ = write!(text, " in {syscall}");
    }
    if cause.dns {
        text.push_str(" for a name look-up");
    }
    if let Some(peer) = &cause.peer {
        let _ = write!(text, " on {peer}");
        if let Some(state) = &cause.socket_state {
            let _ = write!(text, " ({state})");
        }
    }
    if let Some(file) = &cause.file {
        let _ = write!(text, " on {file}");
    }
    if let Some(pid) = cause.holder_pid {
        let exe = cause.holder_exe.as_deref().unwrap_or("process");
        let _ = write!(text, ", held by {exe}[{pid}]");
    }
    text.push_str(&child(view));
    text.push_str(&code(view));
    if !view.shares.is_empty() {
        let parts: Vec<String> = view
            .shares
            .iter()
            .map(|(kind, part)| format!("{:.0} % {}", part * 100.0, kind.name()))
            .collect();
        let _ = write!(text, "; in all {}", parts.join(", "));
    }
    text
}

/// The innermost frames, as far as a person needs to know the line and who called it; the whole stack is in the JSON.
fn code(view: &StallView) -> String {
    let stack = view
        .evidence
        .as_ref()
        .and_then(|found| found.stack.as_ref());
    let Some(stack) = stack.filter(|stack| !stack.frames.is_empty()) else {
        return String::new();
    };
    let shown: Vec<String> = stack.frames.iter().take(FRAMES_SHOWN).map(place).collect();
    format!("; at {}", shown.join(" < "))
}

fn place(frame: &Frame) -> String {
    let function = &frame.function;
    let Some(file) = &frame.file else {
        return function.clone();
    };
    // Before it is shortened: without its scheme a credential is not recognised any more.
    let file = without_credentials(file);
    let file = end_of_path(&file);
    match frame.line {
        Some(line) => format!("{function} ({file}:{line})"),
        None => format!("{function} ({file})"),
    }
}

/// The last three parts: what is before them says where something is installed, not what it is.
fn end_of_path(path: &str) -> &str {
    let start = path.rmatch_indices('/').nth(2).map_or(0, |(at, _)| at + 1);
    &path[start..]
}

fn held(cause: &Cause) -> Option<&'static str> {
    let starved = cause.starved_by.map(|by| match by {
        StarvedBy::CgroupQuota => "throttled by its cgroup's quota",
        StarvedBy::Competition => "others have its CPU, though CPUs are idle",
        StarvedBy::BusyMachine => "no CPU of the machine is idle",
    });
    starved.or(cause.stopped_by.map(|by| match by {
        StoppedBy::Signal => "by a signal",
        StoppedBy::Tracer => "by a debugger",
        StoppedBy::Freezer => "frozen by its cgroup",
    }))
}
