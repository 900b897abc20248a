//! What the agent costs while nothing happens: wake-ups, processor time and memory with a hundred healthy loops.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::agent::{Agent, Lab};
use super::row::{Limit, Row};
use super::sys::{Usage, figure, mono_ns, ms_between};
use super::victim::Role;
use super::victims::{Victim, pids};
use super::{LOOPS, Outcome, Size, pause};

/// A healthy LiteLLM without traffic polls about so often.
const LITELLM_POLLS: u64 = 26;

pub(super) fn measure(lab: &Lab, size: Size) -> Result<Outcome> {
    let span = match size {
        Size::Short => Duration::from_secs(6),
        Size::Full => Duration::from_mins(1),
    };
    let mut rows = Vec::new();
    for (name, polls_per_second) in [
        ("no time-out", 0),
        ("26 polls a second each", LITELLM_POLLS),
    ] {
        rows.extend(with(lab, name, polls_per_second, span)?);
    }
    let raw = json!({"seconds": span.as_secs()});
    Ok(Outcome { rows, raw })
}

fn with(lab: &Lab, name: &str, polls_per_second: u64, span: Duration) -> Result<[Row; 3]> {
    let victims = Victim::start_many(LOOPS, |_| Role::Idle { polls_per_second })?;
    let agent = Agent::start(lab, &pids(&victims), &[], "warn")?;
    // Recognising loops is work of its own, and happens once.
    pause(Duration::from_secs(1));
    let before = Usage::of(agent.pid())?;
    let start = mono_ns();
    pause(span);
    let after = Usage::of(agent.pid())?;
    let seconds = ms_between(start, mono_ns()) / 1000.0;
    let lines = agent.interrupt()?;
    drop(victims);
    let stalls = lines.iter().filter(|line| line.is("stall_opened")).count();
    let waits = after.waits.saturating_sub(before.waits);
    let run_ms = ms_between(before.run_ns, after.run_ns);
    Ok([
        Row::new(
            format!("wake-ups, {LOOPS} idle loops, {name}"),
            figure(waits) / seconds,
            "/s",
        )
        .limit(Limit::noisy(20.0, 2.0))
        .note(format!(
            "{waits} in {seconds:.1} s, all threads; {stalls} stalls seen"
        )),
        Row::new("… processor time", run_ms / seconds / 10.0, "% of a core")
            .note(format!("{:.2} ms a wake-up", run_ms / figure(waits.max(1)))),
        Row::new(
            "… resident memory",
            figure(after.resident_kib) / 1024.0,
            "MiB",
        ),
    ])
}
