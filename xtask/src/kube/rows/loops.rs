//! Pods with an event loop that stalls when it is told to, each with its agent and its probes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::plan::{Plan, Probe};
use super::stall::Stall;
use super::{Context, Pods};
use crate::kube::{image, kubelet_log, process};
use crate::litellm::guard::Guard;
use crate::litellm::kubelet::monotonic_ns;
use crate::litellm::{http, stop};
use crate::{cmd, setup};

const PROGRAM: &str = include_str!("../../../kube/loop.py");
/// Debian's own, below the `/usr` that is mounted.
const PYTHON: &str = "/usr/bin/python3";
pub(super) const PORT: u16 = 8080;
const READY_LIMIT: Duration = Duration::from_mins(2);
const TOLD_LIMIT: Duration = Duration::from_secs(5);

/// A pod with its agent.
struct Subject {
    plan: Plan,
    name: String,
    address: SocketAddr,
    agent: Guard,
    /// Where in its period a stall begins, more or less.
    phase: f64,
}

/// Stalls pods, all at the same time, and tells what was seen of each stall.
pub(super) fn round(context: &Context, name: &str, plans: Vec<Plan>) -> Result<Vec<Stall>> {
    // Dropped last: the agents end first.
    let (_pods, subjects) = start(context, name, plans)?;
    let log = context.cluster.kubelet_log()?;
    let seen: Vec<Record> = std::thread::scope(|scope| {
        let runs: Vec<_> = subjects
            .into_iter()
            .map(|subject| scope.spawn(move || subject.run()))
            .collect();
        runs.into_iter()
            .map(|run| {
                run.join()
                    .ok()
                    .context("the thread of a pod has panicked")?
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let mut stalls = Vec::new();
    for record in &seen {
        context.keep(&record.name, &record.lines)?;
        let events = kubelet_log::of_pod(log, &context.cluster.namespace, &record.name)?;
        for (time, planned) in record.times.iter().zip(&record.plan.stalls) {
            let probe = record.plan.probe;
            stalls.push(Stall::new(
                probe,
                *time,
                planned.decides,
                &record.lines,
                &events,
            ));
        }
    }
    Ok(stalls)
}

fn start<'a>(
    context: &'a Context,
    round: &str,
    plans: Vec<Plan>,
) -> Result<(Pods<'a>, Vec<Subject>)> {
    if !Path::new(PYTHON).is_file() {
        setup::need(&["python3"])?;
    }
    let (kubectl, namespace) = (&context.cluster.kubectl, context.cluster.namespace.as_str());
    let name = |place| format!("{round}-{place}");
    let names: Vec<String> = (0..plans.len()).map(name).collect();
    let mut objects = vec![program()];
    for (name, plan) in names.iter().zip(&plans) {
        objects.push(pod(name, &plan.probe));
    }
    let pods = context.create_pods(names, &objects)?;
    let mut subjects = Vec::new();
    let count = u32::try_from(plans.len())?;
    for (place, plan) in plans.into_iter().enumerate() {
        let probe = plan.probe;
        let name = name(place);
        let pod = kubectl.wait_ready(namespace, &name, READY_LIMIT)?;
        let pid = process::of_container(&pod, "main")
            .with_context(|| format!("the process of pod {name} is not on this machine"))?;
        let arguments = ["--liveness".to_owned(), format!("{}@{PORT}", probe.spec())];
        subjects.push(Subject {
            agent: Guard::start_in(context.folder, context.agent, &name, pid, &arguments)?,
            address: address(&pod, PORT)?,
            phase: f64::from(probe.period) * f64::from(u32::try_from(place)?) / f64::from(count),
            plan,
            name,
        });
    }
    for subject in &mut subjects {
        subject.agent.wait_until_it_watches()?;
    }
    Ok((pods, subjects))
}

/// What was seen of a pod.
struct Record {
    plan: Plan,
    name: String,
    lines: Vec<Value>,
    /// When the stalls began, and until when each is judged.
    times: Vec<(f64, f64)>,
}

impl Subject {
    /// Stalls it, as often as was planned.
    fn run(mut self) -> Result<Record> {
        let probe = self.plan.probe;
        // A probe is known as one when it has come again.
        pause(2.0 * f64::from(probe.period) + 1.0 + self.phase)?;
        let mut times = Vec::new();
        for place in 0..self.plan.stalls.len() {
            let start = self.stall(place)?;
            let is_last = place + 1 == self.plan.stalls.len();
            if !is_last {
                // Until it has been answered again, and then some.
                pause(2.0 * f64::from(probe.period + probe.timeout) + self.phase)?;
            }
            times.push((start, seconds()?));
        }
        Ok(Record {
            plan: self.plan,
            name: self.name,
            lines: self.agent.finish(),
            times,
        })
    }

    /// Begins a stall; returns when it began, and waits until it is over, whether the kubelet has ended it or not.
    fn stall(&mut self, place: usize) -> Result<f64> {
        let lengths = &self.plan.stalls[place].lengths;
        stall(self.address, lengths).with_context(|| format!("pod {}", self.name))?;
        let start = seconds()?;
        pause(lengths.iter().sum())?;
        Ok(start)
    }
}

fn pause(seconds: f64) -> Result<()> {
    stop::sleep_until(cmd::now() + Duration::from_secs_f64(seconds))
}

/// `CLOCK_MONOTONIC`, as in the agent's lines.
pub(super) fn seconds() -> Result<f64> {
    Ok(Duration::from_nanos(monotonic_ns()?).as_secs_f64())
}

/// Where a pod listens.
pub(super) fn address(pod: &Value, port: u16) -> Result<SocketAddr> {
    let ip = pod["status"]["podIP"]
        .as_str()
        .context("the pod has no address")?;
    let ip = ip.parse().with_context(|| format!("no address: {ip}"))?;
    Ok(SocketAddr::new(ip, port))
}

pub(super) fn program() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "loop"}, "data": {"loop.py": PROGRAM}})
}

fn pod(name: &str, probe: &Probe) -> Value {
    let mut container = container("main", PORT);
    probe.give_to(&mut container, &json!({"path": "/health", "port": PORT}));
    pod_of(name, &[container])
}

/// A container that runs the loop, and serves on that port.
pub(super) fn container(name: &str, port: u16) -> Value {
    json!({
        "name": name, "image": image::HOST, "imagePullPolicy": "Never",
        "command": [PYTHON, "/app/loop.py", port.to_string()],
        "volumeMounts": [
            {"name": "usr", "mountPath": "/usr", "readOnly": true},
            {"name": "app", "mountPath": "/app"},
        ],
    })
}

/// A pod of such containers.
pub(super) fn pod_of(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "dnsPolicy": "Default", "containers": containers, "volumes": [
            {"name": "usr", "hostPath": {"path": "/usr"}},
            {"name": "app", "configMap": {"name": "loop"}},
        ]},
    })
}

/// Tells a loop to stall, for so long, once or several times.
pub(super) fn stall(address: SocketAddr, lengths: &[f64]) -> Result<()> {
    let words: Vec<String> = lengths.iter().map(f64::to_string).collect();
    let path = format!("/stall/{}", words.join(","));
    let answer = http::get(address, &path, TOLD_LIMIT)
        .with_context(|| format!("the loop at {address} cannot be told to stall"))?;
    if !answer.is_success() {
        bail!("the loop at {address} refuses to stall: {}", answer.status);
    }
    Ok(())
}
