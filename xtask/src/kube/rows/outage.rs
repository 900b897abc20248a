//! The API server is gone, or its answers do not come, and then it is back with everything changed.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Context;
use super::agent::{NodeAgent, Rights, annotate};
use super::loops::{self, PORT};
use crate::cmd;
use crate::kube::account::Access;
use crate::kube::etcd;
use crate::kube::wire::{Mode, Wire};
use crate::litellm::criteria::Check;
use crate::litellm::stop;

const READY_WITHIN: Duration = Duration::from_mins(2);
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// After the API is back.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(10);
/// A busy machine is given more time before it counts as never.
const PATIENCE: Duration = Duration::from_mins(1);
/// A watch lasts half a minute, so that one that hangs is missed after at most 35 s.
const SHORT: Duration = Duration::from_secs(45);
const LONG: Duration = Duration::from_mins(5);
const DELAY: Duration = Duration::from_millis(300);

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    let rights = Rights::of(context, &["pods", "annotations", "events"])?;
    let access = Access::of(&context.cluster.kubectl)?;
    let wire = Wire::to(access.server)?;
    let kubeconfig = rights.kubeconfig(&access, wire.address())?;
    let namespace = context.cluster.namespace.as_str();
    let config = format!(
        "targets:\n  - {{ name: loops, match: {{ exe: \"python3*\", kubernetes: {{ namespace: {namespace} }} }} }}"
    );
    let mut agent = NodeAgent::start(context, "outage", &kubeconfig, &config, "events: true")?;
    let kubectl = &context.cluster.kubectl;
    let mut objects = vec![loops::program()];
    objects.extend(["stays", "goes", "changes"].map(pod));
    kubectl.apply(namespace, &objects)?;
    for name in ["stays", "goes", "changes"] {
        kubectl.wait_ready(namespace, name, READY_WITHIN)?;
    }
    let known = agent.wait(KNOWN_WITHIN, |page| {
        ["stays", "goes", "changes"]
            .iter()
            .all(|pod| page.loops_of(pod, "main") == 1)
    })?;
    let mut checks = vec![Check::new(known.is_some(), "all loops are known before")];
    let silent = if context.full { LONG } else { SHORT };
    checks.extend(gone(context, &mut agent, &wire, Mode::Hold, silent)?);
    checks.extend(gone(context, &mut agent, &wire, Mode::Cut, SHORT / 3)?);
    checks.extend(slow(context, &mut agent, &wire)?);
    context.delete_pods(&["stays", "changes", "new"].map(str::to_owned))?;
    for check in &mut checks {
        check.text = format!("outage: {}", check.text);
    }
    Ok(checks)
}

fn pod(name: &str) -> Value {
    loops::pod_of(name, &[loops::container("main", PORT)])
}

/// While the agent hears nothing one pod goes, one comes, one opts out, and etcd forgets what was before.
fn gone(
    context: &Context,
    agent: &mut NodeAgent,
    wire: &Wire,
    mode: Mode,
    lasts: Duration,
) -> Result<Vec<Check>> {
    let (kubectl, namespace) = (&context.cluster.kubectl, context.cluster.namespace.as_str());
    let relists = |agent: &NodeAgent| -> Result<Option<f64>> {
        Ok(agent
            .page()?
            .value("loopwarden_agent_kubernetes_relists_total", &[]))
    };
    let relists_before = relists(agent)?;
    wire.set(mode);
    let end = cmd::now() + lasts;
    context.delete_pods(&["goes".to_owned()])?;
    kubectl.apply(namespace, &[pod("new")])?;
    kubectl.wait_ready(namespace, "new", READY_WITHIN)?;
    annotate(context, "pod/changes", "mode=off")?;
    etcd::compact()?;
    stop::sleep_until(end)?;
    agent.check()?;
    let page = agent.page()?;
    let age = page.age();
    let mut checks = vec![
        Check::new(
            age.is_some_and(|age| age + 40.0 > lasts.as_secs_f64()),
            format!(
                "{mode:?} for {} s: the age of what is known is shown: {:.0} s",
                lasts.as_secs(),
                age.unwrap_or(-1.0)
            ),
        ),
        Check::new(
            page.loops_of("stays", "main") == 1
                && page.loops_in("goes") == 0
                && page.loops_in("new") == 0,
            "meanwhile a pod that stays keeps its name, one that is gone has no series, and one that nobody told of has no name",
        ),
    ];
    wire.set(Mode::Pass);
    let back = agent.wait(PATIENCE, |page| {
        page.loops_of("new", "main") == 1
            && page.loops_in("changes") == 0
            && page.loops_of("stays", "main") == 1
    })?;
    let shown = back.map_or_else(
        || "never".to_owned(),
        |took| format!("{:.1} s", took.as_secs_f64()),
    );
    let limit = if context.full {
        CAUGHT_UP_WITHIN
    } else {
        CAUGHT_UP_WITHIN * 2
    };
    checks.push(Check::new(
        back.is_some_and(|took| took < limit),
        format!("caught up after the API is back: {shown}"),
    ));
    // A watch that hangs ends by its own time-out, and the next has to go on from what etcd has forgotten.
    let after = relists(agent)?;
    checks.push(Check::new(
        after > relists_before,
        format!(
            "the watch had expired, and all was listed anew: {relists_before:?}, {after:?} lists"
        ),
    ));
    // As it was.
    kubectl.apply(namespace, &[pod("goes")])?;
    annotate(context, "pod/changes", "mode-")?;
    context.delete_pods(&["new".to_owned()])?;
    kubectl.wait_ready(namespace, "goes", READY_WITHIN)?;
    let known = agent.wait(PATIENCE, |page| {
        page.loops_of("goes", "main") == 1
            && page.loops_of("changes", "main") == 1
            && page.loops_in("new") == 0
    })?;
    checks.push(Check::new(
        known.is_some(),
        "and what happens then is heard as before",
    ));
    Ok(checks)
}

fn slow(context: &Context, agent: &mut NodeAgent, wire: &Wire) -> Result<Vec<Check>> {
    wire.set(Mode::Delay(DELAY));
    annotate(context, "pod/stays", "mode=off")?;
    let heard = agent.wait(PATIENCE, |page| page.loops_in("stays") == 0)?;
    wire.set(Mode::Pass);
    annotate(context, "pod/stays", "mode-")?;
    Ok(vec![Check::new(
        heard.is_some(),
        format!("a wire that takes {DELAY:?} for each piece is slow, and works"),
    )])
}
