//! Whether every iteration is counted when there are very many.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::agent::{Agent, Lab, Line, lost};
use super::row::{Limit, Row};
use super::sys::{Usage, figure, ms_between};
use super::victim::{Role, Spun};
use super::victims::{Victim, pids};
use super::{Outcome, Size, pause};

/// As many loops as the development machine has cores.
const SPINNERS: u64 = 2;

pub(super) fn measure(lab: &Lab, size: Size) -> Result<Outcome> {
    let span = match size {
        Size::Short => Duration::from_secs(2),
        Size::Full => Duration::from_secs(10),
    };
    let mut rows = Vec::new();
    // A tenth more than asked for, because the victims take a moment to reach their rate.
    for (name, per_second) in [
        ("100,000 iterations a second", 55_000),
        ("as many iterations as two cores can", 0),
    ] {
        rows.extend(with(lab, name, per_second, span)?);
    }
    Ok(Outcome {
        rows,
        raw: json!({"seconds": span.as_secs(), "victims": SPINNERS}),
    })
}

fn with(lab: &Lab, name: &str, per_second: u64, span: Duration) -> Result<[Row; 3]> {
    let mut victims = Victim::start_many(SPINNERS, |_| Role::Spin { per_second })?;
    let agent = Agent::start(lab, &pids(&victims), &[], "warn")?;
    let before = Usage::of(agent.pid())?;
    for victim in &mut victims {
        victim.go()?;
    }
    pause(span);
    let after = Usage::of(agent.pid())?;
    let pids = pids(&victims);
    let mut ended = Vec::new();
    for victim in victims {
        ended.push(victim.finish::<Spun>()?);
    }
    // Its last target has ended, so it ends by itself.
    let lines = agent.finish()?;
    let counted: Vec<u64> = ended.iter().map(|spun| spun.iterations).collect();
    let told: Vec<u64> = pids.iter().map(|pid| iterations(&lines, *pid)).collect();
    let wrong: u64 = counted
        .iter()
        .zip(&told)
        .map(|(counted, told)| counted.abs_diff(*told))
        .sum();
    let (lost, words) = lost(&lines);
    let rate: f64 = ended
        .iter()
        .map(|spun| figure(spun.iterations) / (ms_between(0, spun.lasted_ns) / 1000.0))
        .sum();
    let run_ms = ms_between(before.run_ns, after.run_ns);
    Ok([
        Row::new(format!("{name}: reached"), rate, "/s").note(format!(
            "{SPINNERS} loops; the agent took {:.2} % of a core",
            run_ms / span.as_secs_f64() / 10.0
        )),
        Row::new(
            "… iterations that the summaries miss or invent",
            figure(wrong),
            "",
        )
        .limit(Limit::always(0.0))
        .note(format!(
            "{} made, {} told",
            counted.iter().sum::<u64>(),
            told.iter().sum::<u64>()
        )),
        Row::new("… events lost", figure(lost), "")
            .limit(Limit::always(0.0))
            .note(words),
    ])
}

fn iterations(lines: &[Line], pid: u32) -> u64 {
    let summaries = lines
        .iter()
        .filter(|line| line.is("summary") && line.pid() == pid);
    summaries.map(|line| line.number("iterations")).sum()
}
