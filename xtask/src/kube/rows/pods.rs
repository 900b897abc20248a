//! The node agent beside pods of every kind: whose loops they are, what the pods ask for, and what is written on them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Context;
use super::agent::{NodeAgent, Rights, annotate, first_event};
use super::loops::{self, PORT};
use crate::cmd;
use crate::kube::account::Access;
use crate::litellm::criteria::Check;
use crate::litellm::stop;

const READY_WITHIN: Duration = Duration::from_mins(2);
/// A loop is recognised when it has come back to its poller, and a pod's container is named when the kubelet has told its id.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// What annotations ask for is to hold within this time.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// The machine is also busy with all the rest.
const PATIENCE: Duration = Duration::from_secs(25);

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    let rights = Rights::of(context, &["pods", "annotations", "events"])?;
    let access = Access::of(&context.cluster.kubectl)?;
    let kubeconfig = rights.kubeconfig(&access, access.server)?;
    let namespace = context.cluster.namespace.as_str();
    let config = format!(
        "targets:\n  - {{ name: loops, match: {{ exe: \"python3*\", kubernetes: {{ namespace: {namespace} }} }}, stall_after: 200ms }}"
    );
    let mut agent = NodeAgent::start(context, "pods", &kubeconfig, &config, "events: true")?;
    let kubectl = &context.cluster.kubectl;
    kubectl.apply(namespace, &pods())?;
    let names = ["plain", "off", "sidecar", "probed"];
    for name in names {
        kubectl.wait_ready(namespace, name, READY_WITHIN)?;
    }
    let mut checks = named(&mut agent)?;
    checks.extend(asking(context, &mut agent)?);
    checks.extend(of_the_same_name(context, &mut agent)?);
    checks.extend(killed(context, &mut agent)?);
    checks.extend(without_a_right(context, &rights, &mut agent)?);
    context.delete_pods(&names.map(str::to_owned))?;
    let gone = agent.wait(PATIENCE, |page| {
        names.iter().all(|name| page.loops_in(name) == 0)
    })?;
    checks.push(Check::new(
        gone.is_some(),
        "deleted pods have no loops any more",
    ));
    for check in &mut checks {
        check.text = format!("pods: {}", check.text);
    }
    Ok(checks)
}

fn pods() -> Vec<Value> {
    let main = || loops::container("main", PORT);
    let mut off = loops::pod_of("off", &[main()]);
    off["metadata"]["annotations"] = json!({"loopwarden.dev/mode": "off"});
    let mut sidecar = loops::pod_of("sidecar", &[main()]);
    let mut mesh = loops::container("mesh", PORT + 1);
    mesh["restartPolicy"] = json!("Always");
    // Ends, so that the others may begin.
    let mut setup = loops::container("setup", PORT + 2);
    setup["command"] = json!(["/usr/bin/python3", "-c", "print(1)"]);
    sidecar["spec"]["initContainers"] = json!([setup, mesh]);
    let mut probed = main();
    let get = json!({"path": "/health", "port": PORT});
    probed["livenessProbe"] =
        json!({"httpGet": get, "periodSeconds": 2, "timeoutSeconds": 1, "failureThreshold": 3});
    vec![
        loops::program(),
        loops::pod_of("plain", &[main()]),
        off,
        sidecar,
        loops::pod_of("probed", &[probed]),
    ]
}

fn named(agent: &mut NodeAgent) -> Result<Vec<Check>> {
    let known = agent.wait(KNOWN_WITHIN, |page| {
        let of = |pod, container| page.loops_of(pod, container) == 1;
        of("plain", "main")
            && of("sidecar", "main")
            && of("sidecar", "mesh")
            && of("probed", "main")
    })?;
    let page = agent.page()?;
    let nameless = page.values("loopwarden_loop_stalled_seconds", &[]).len()
        - ["plain", "off", "sidecar", "probed"]
            .map(|pod| page.loops_in(pod))
            .iter()
            .sum::<usize>();
    Ok(vec![
        Check::new(
            known.is_some(),
            "each loop has the name of its pod and container, a sidecar's too",
        ),
        Check::new(
            page.loops_in("off") == 0,
            "a pod with loopwarden.dev/mode: off is not watched",
        ),
        Check::new(
            nameless == 0,
            format!("loops without a pod's name: {nameless}"),
        ),
    ])
}

fn heard(found: Option<Duration>, what: &str) -> Check {
    let took = found.map_or_else(
        || "not".to_owned(),
        |took| format!("after {:.1} s", took.as_secs_f64()),
    );
    Check::new(
        found.is_some_and(|took| took < HEARD_WITHIN),
        format!("{what}: {took}"),
    )
}

fn asking(context: &Context, agent: &mut NodeAgent) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    annotate(context, "pod/plain", "mode=off")?;
    let off = agent.wait(PATIENCE, |page| page.loops_in("plain") == 0)?;
    checks.push(heard(off, "a pod opts out"));
    annotate(context, "pod/plain", "mode-")?;
    let on = agent.wait(PATIENCE, |page| page.loops_in("plain") == 1)?;
    // It has to be found among all processes, and to come back to its poller.
    checks.push(Check::new(on.is_some(), "and in again"));
    let namespace = format!("namespace/{}", context.cluster.namespace);
    annotate(context, &namespace, "mode=off")?;
    let off = agent.wait(PATIENCE, |page| {
        page.loops_in("plain") + page.loops_in("sidecar") == 0
    })?;
    checks.push(heard(off, "a namespace opts out"));
    annotate(context, &namespace, "mode-")?;
    let on = agent.wait(PATIENCE, |page| page.loops_in("sidecar") == 2)?;
    checks.push(Check::new(on.is_some(), "and in again"));
    annotate(context, "pod/plain", "mode=enforce")?;
    let told = stop::wait_for(PATIENCE, Duration::from_millis(300), || {
        let events = context.cluster.kubectl.events(&context.cluster.namespace)?;
        Ok(first_event(&events, "plain", "AnnotationNotGranted"))
    })?;
    checks.push(Check::new(
        told.is_some(),
        "a pod that asks for more than it may have is told so by an Event",
    ));
    Ok(checks)
}

/// Deleted, and made anew under its name: another uid, another process.
fn of_the_same_name(context: &Context, agent: &mut NodeAgent) -> Result<Vec<Check>> {
    let (kubectl, namespace) = (&context.cluster.kubectl, context.cluster.namespace.as_str());
    let pid = |page: &super::agent::Page| {
        page.label(
            "loopwarden_loop_stalled_seconds",
            &[("k8s_pod_name", "plain")],
            "process_pid",
        )
    };
    let before = pid(&agent.page()?);
    context.delete_pods(&["plain".to_owned()])?;
    kubectl.apply(
        namespace,
        &[loops::pod_of("plain", &[loops::container("main", PORT)])],
    )?;
    kubectl.wait_ready(namespace, "plain", READY_WITHIN)?;
    let another = agent.wait(KNOWN_WITHIN, |page| {
        page.loops_of("plain", "main") == 1 && pid(page) != before
    })?;
    Ok(vec![Check::new(
        before.is_some() && another.is_some(),
        "a new pod of an old name has its own loop, and the old one's is gone",
    )])
}

/// Its probe is in its spec alone: the kill is forecast, told on the pod before it happens, and the next container is the same pod's.
fn killed(context: &Context, agent: &mut NodeAgent) -> Result<Vec<Check>> {
    let (kubectl, namespace) = (&context.cluster.kubectl, context.cluster.namespace.as_str());
    let pod = kubectl.get(namespace, "pod/probed")?;
    let address = loops::address(&pod, PORT)?;
    loops::stall(address, &[60.0])?;
    let start = cmd::now();
    let restarted = kubectl.wait_for(namespace, "pod/probed", Duration::from_mins(1), |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1
    });
    restarted.context("the kubelet has not restarted the pod")?;
    let took = start.elapsed().as_secs_f64();
    let again = agent.wait(KNOWN_WITHIN, |page| page.loops_of("probed", "main") == 1)?;
    let events = kubectl.events(namespace)?;
    let time = |reason| first_event(&events, "probed", reason);
    let (at_risk, imminent, killing) = (
        time("LivenessAtRisk"),
        time("KillImminent"),
        time("Killing"),
    );
    let shown = |time: &Option<String>| time.clone().unwrap_or_else(|| "never".to_owned());
    Ok(vec![
        Check::new(
            at_risk.is_some() && at_risk <= imminent && imminent < killing,
            format!(
                "the kill ({took:.0} s into the stall) is told on the pod before it: at risk {}, imminent {}, killing {}",
                shown(&at_risk),
                shown(&imminent),
                shown(&killing)
            ),
        ),
        Check::new(
            again.is_some(),
            "the next container's loop is the same pod's",
        ),
    ])
}

fn without_a_right(
    context: &Context,
    rights: &Rights,
    agent: &mut NodeAgent,
) -> Result<Vec<Check>> {
    let before = agent.page()?.verdict("kubernetes.events");
    rights.withdraw("events")?;
    // Something to be written.
    annotate(context, "pod/sidecar", "mode=enforce")?;
    let told = agent.wait(PATIENCE, |page| {
        page.verdict("kubernetes.events") == Some("unsupported")
    })?;
    let log = agent.log();
    Ok(vec![Check::new(
        before == Some("ok") && told.is_some() && log.contains("create and patch of events"),
        "a right that is taken away is missed by name, and costs only what needs it",
    )])
}
