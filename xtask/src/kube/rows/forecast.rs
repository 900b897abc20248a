//! The forecast of the kill, held against the kubelet's own log: pods under different probes, several at the same time.
//!
//! In each of them an event loop stalls twice: for less than the kubelet needs to decide, and for more. In between it answers. Beside the
//! agents that are told of the probe runs one that reads it from the API.

use anyhow::Result;

use super::agent::{NodeAgent, Rights};
use super::warnings;
use super::{Context, judge, loops, plan};
use crate::kube::account::Access;
use crate::litellm::criteria::Check;

const CONFIG: &str =
    "targets: [ { name: loop, match: { exe: \"python3*\", cmdline: /app/loop.py } } ]";

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    // No more than it needs: annotations of namespaces and the node are not heard of.
    let rights = Rights::of(context, &["pods", "events"])?;
    let access = Access::of(&context.cluster.kubectl)?;
    let kubeconfig = rights.kubeconfig(&access, access.server)?;
    let mut node_agent =
        NodeAgent::start(context, "forecast", &kubeconfig, CONFIG, "events: true")?;
    let mut stalls = Vec::new();
    for (number, plans) in plan::rounds(context.full).into_iter().enumerate() {
        stalls.extend(loops::round(context, &format!("loop-{number}"), plans)?);
    }
    print!("{}", judge::table(&stalls));
    let least = if context.full { 30 } else { 6 };
    let mut checks = judge::of("forecast", &stalls, least);
    node_agent.check()?;
    checks.extend(warnings::before_kills(context)?);
    Ok(checks)
}
