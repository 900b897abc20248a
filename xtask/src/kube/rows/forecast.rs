//! The forecast of the kill, held against the kubelet's own log: pods under different probes, several at the same time.
//!
//! In each of them an event loop stalls twice: for less than the kubelet needs to decide, and for more. In between it answers. Beside the
//! agents that are told of the probe runs one that reads it from the API.

use anyhow::Result;

use super::node_agent::NodeAgent;
use super::{Context, judge, loops, plan};
use crate::litellm::criteria::Check;

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    let mut node_agent = NodeAgent::start(context)?;
    let mut stalls = Vec::new();
    for (number, plans) in plan::rounds(context.full).into_iter().enumerate() {
        stalls.extend(loops::round(context, &format!("loop-{number}"), plans)?);
    }
    print!("{}", judge::table(&stalls));
    let least = if context.full { 30 } else { 6 };
    let mut checks = judge::of("forecast", &stalls, least);
    checks.extend(node_agent.check()?);
    Ok(checks)
}
