//! What the agent's hooks cost a system call, in a watched process and in one that is not.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::agent::{Agent, Lab};
use super::row::Row;
use super::victim::{Costs, Role};
use super::victims::Victim;
use super::{Outcome, Size};

pub(super) fn measure(lab: &Lab, size: Size) -> Result<Outcome> {
    let (rounds, count) = match size {
        Size::Short => (3, 300_000),
        Size::Full => (9, 1_000_000),
    };
    let mut watched = Victim::start(&Role::Calls { count })?;
    let mut other = Victim::start(&Role::Calls { count })?;
    let (mut without, mut with_watched, mut with_other) = (Vec::new(), Vec::new(), Vec::new());
    // With and without the agent in turn, so that whatever else the machine does falls on both.
    for _ in 0..rounds {
        without.push(run(&mut other)?);
        without.push(run(&mut watched)?);
        let agent = Agent::start(lab, &[watched.pid()], &[], "warn")?;
        with_other.push(run(&mut other)?);
        with_watched.push(run(&mut watched)?);
        agent.interrupt()?;
    }
    watched.end()?;
    other.end()?;
    let mut rows = Vec::new();
    for (name, of) in [
        (
            "epoll_wait with time-out 0",
            (|costs: &Costs| costs.epoll_wait) as fn(&Costs) -> f64,
        ),
        ("getppid, for every other system call", |costs| {
            costs.getppid
        }),
    ] {
        let base = best(&without, of)?;
        rows.push(Row::new(format!("cost of {name}, no agent"), base, "ns"));
        for (whose, costs) in [
            ("agent, process not watched", &with_other),
            ("agent, process watched", &with_watched),
        ] {
            let cost = best(costs, of)?;
            rows.push(Row::new(format!("… {whose}"), cost, "ns").note(format!(
                "{:+.0} ns, {:.2} times",
                cost - base,
                cost / base
            )));
        }
    }
    let raw = json!({"without": without, "with_watched": with_watched, "with_other": with_other});
    Ok(Outcome { rows, raw })
}

fn run(victim: &mut Victim) -> Result<Costs> {
    victim.go()?;
    victim.read()
}

fn best(costs: &[Costs], of: fn(&Costs) -> f64) -> Result<f64> {
    costs
        .iter()
        .map(of)
        .min_by(f64::total_cmp)
        .context("nothing was timed")
}
