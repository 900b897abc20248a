//! Whether a storm of processes and signals in a watched family loses events, and whether what is lost is counted.
//!
//! The agent's own trace of the events it took is held against what the victim did. The second storm hits an agent that is
//! stopped, so that its ring must overflow: what it took and what it says it lost have to add up to the last event.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::json;

use super::agent::{Agent, Lab, Line, lost};
use super::row::{Limit, Row};
use super::sys::{figure, ms_between};
use super::victim::{Role, Stormed};
use super::victims::Victim;
use super::{Outcome, Size};

/// Kernel events as the agent traces them.
const TRACE: &str = "warn,loopwarden::events=trace";
const KINDS: [&str; 4] = [
    "what: Forked ",
    "what: Execed ",
    "what: Exited ",
    "what: Signalled ",
];
/// Losses on the way from the kernel; others are of questions that are asked again.
const RING: &str = "ring_full";

pub(super) fn measure(lab: &Lab, size: Size) -> Result<Outcome> {
    let processes = match size {
        Size::Short => 4_000,
        Size::Full => 40_000,
    };
    let mut rows = Vec::new();
    rows.extend(with(lab, processes, false)?);
    // More events than the ring holds, whatever their size.
    rows.extend(with(lab, 5_000, true)?);
    Ok(Outcome {
        rows,
        raw: json!({"processes": processes}),
    })
}

fn with(lab: &Lab, processes: u64, stopped: bool) -> Result<[Row; 3]> {
    let (per_second, exec_every) = (2_000, if stopped { 0 } else { 20 });
    let mut victim = Victim::start(&Role::Storm {
        processes,
        per_second,
        exec_every,
    })?;
    let agent = Agent::start(lab, &[victim.pid()], &[], TRACE)?;
    if stopped {
        agent.signal(Signal::STOP)?;
    }
    victim.go()?;
    let done: Stormed = victim.read()?;
    if stopped {
        agent.signal(Signal::CONT)?;
    }
    let log = agent.log().to_owned();
    victim.end()?;
    let lines = agent.finish()?;
    // The victim's own end is an event too.
    let made = done.events() + 1;
    let taken = taken(&log)?;
    let ring = of_ring(&lines);
    let (all, words) = lost(&lines);
    let rate = figure(done.forks) / (ms_between(0, done.lasted_ns) / 1000.0);
    let name = if stopped {
        "the same with the agent stopped"
    } else {
        "storm of processes and signals"
    };
    let mut on_the_way = Row::new("… events lost on the way from the kernel", figure(ring), "")
        .note(if all > 0 {
            format!("lost lines: {words}")
        } else {
            "no lost line".into()
        });
    if !stopped {
        on_the_way = on_the_way.limit(Limit::always(0.0));
    }
    Ok([
        Row::new(format!("{name}: reached"), rate, "processes/s").note(format!(
            "{} forks, {} execs, {} exits, {} signals",
            done.forks, done.execs, done.exits, done.signals
        )),
        on_the_way,
        Row::new(
            "… made, but neither taken nor counted as lost",
            figure(made.abs_diff(taken + ring)),
            "",
        )
        .limit(Limit::always(0.0))
        .note(format!("{made} made, {taken} taken, {ring} lost")),
    ])
}

fn of_ring(lines: &[Line]) -> u64 {
    let lines = lines
        .iter()
        .filter(|line| line.is("lost") && line.value["what"] == RING);
    lines.map(|line| line.number("count")).sum()
}

/// How many events of the four kinds the agent traced.
fn taken(log: &Path) -> Result<u64> {
    let file =
        std::fs::File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut count = 0;
    for line in BufReader::new(file).lines() {
        let line = line.with_context(|| format!("cannot read {}", log.display()))?;
        count += u64::from(KINDS.iter().any(|kind| line.contains(kind)));
    }
    Ok(count)
}
