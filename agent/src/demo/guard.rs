//! The guard: the real `loopwarden watch --enforce` as a process of its own, exactly as anybody would run it.
//!
//! It gets nothing that a user could not give it. What it says on standard output goes to the show line by line.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use crate::config::duration;

use super::stage::{Actor, ENGINE, Stage};

/// Starts the guard of the process `pid`; `line` gets each of its lines, then none.
pub(super) fn start(
    stage: &Stage,
    pid: u32,
    grace: Duration,
    line: impl FnMut(Option<String>) + Send + 'static,
) -> Result<Actor> {
    let mut guard = stage.start("guard", &arguments(pid, grace))?;
    guard.listen(line)?;
    Ok(guard)
}

fn arguments(pid: u32, grace: Duration) -> Vec<String> {
    let grace = duration::format(grace);
    let pid = pid.to_string();
    let engine = format!("{ENGINE}*");
    [
        "watch",
        "--json",
        "--enforce",
        "--engine",
        &engine,
        "--grace",
        &grace,
        "--pid",
        &pid,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Asks it to end; its last lines follow.
pub(super) fn interrupt(guard: &Actor) -> Result<()> {
    guard.signal(Signal::INT)
}

/// Why a guard that did not come to watch did not: its own words, and what the doctor says.
pub(super) fn diagnose(stage: &Stage, guard: &mut Actor, what: &str) -> String {
    let mut text = format!("the guard (`loopwarden watch --enforce`) {what}");
    if let Ok(Some(status)) = guard.ended_within(Duration::from_secs(1)) {
        let _ = write!(text, " ({status})");
    }
    let words = guard.last_words();
    text.push_str(if words.is_empty() {
        "; it gave no reason"
    } else {
        "; it said:\n"
    });
    text.push_str(&words);
    if !rustix::process::geteuid().is_root() {
        text.push_str("\nThis is not root: the guard needs it to load BPF programs and to signal. Try: sudo loopwarden demo");
    }
    match doctor(stage) {
        Some(words) => {
            let _ = write!(text, "\n`loopwarden doctor` says:\n{words}");
        }
        None => text
            .push_str("\n`loopwarden doctor` tells what this kernel and these privileges allow."),
    }
    text
}

fn doctor(stage: &Stage) -> Option<String> {
    let mut doctor = stage.start("guard", &["doctor".to_owned()]).ok()?;
    let (lines, heard) = std::sync::mpsc::channel();
    doctor
        .listen(move |line| {
            // The demo may have stopped listening; nobody misses the rest.
            let _ = lines.send(line);
        })
        .ok()?;
    let status = doctor
        .ended_within(Duration::from_secs(10))
        .ok()
        .flatten()?;
    let text: Vec<String> = heard
        .try_iter()
        .flatten()
        .chain([doctor.last_words()])
        .collect();
    (status.code() != Some(2))
        .then(|| text.join("\n").trim().to_owned())
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_started_with_the_contract_s_words() {
        assert_eq!(
            arguments(42, Duration::from_millis(500)).join(" "),
            "watch --json --enforce --engine demo-query-engine* --grace 500ms --pid 42"
        );
        assert!(arguments(42, Duration::from_millis(1500)).contains(&"1500ms".to_owned()));
    }
}
