//! `loopwarden run` on the node, with the rights that `deploy/rbac` gives: it knows the probes from the pods' specs, and writes Events on the pods.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Context;
use crate::kube::account::{Access, Account};
use crate::litellm::criteria::Check;
use crate::litellm::process::{self, Process};
use crate::{cmd, layout};

const NAME: &str = "node-agent";
/// Written on a pod before the kubelet's own `Killing`.
const WARNINGS: [&str; 2] = ["LivenessAtRisk", "KillImminent"];
/// What the agent is allowed.
const RIGHTS: [&str; 2] = ["pods", "events"];

/// A running node agent; ended when dropped, its rights with it.
#[derive(Debug)]
pub(super) struct NodeAgent<'a> {
    context: &'a Context<'a>,
    process: Process,
    log: PathBuf,
    bindings: Vec<String>,
}

impl<'a> NodeAgent<'a> {
    /// Starts one that watches the loops of this run.
    pub(super) fn start(context: &'a Context) -> Result<Self> {
        let (kubectl, namespace) = (&context.cluster.kubectl, context.cluster.namespace.as_str());
        let account = Account {
            kubectl,
            namespace,
            name: NAME,
        };
        account.create(&[])?;
        let mut bindings = Vec::new();
        for right in RIGHTS {
            let file = layout::root().join(format!("deploy/rbac/{right}.yaml"));
            cmd::output(kubectl.command().args(["apply", "--filename"]).arg(&file))?;
            let binding = format!("{namespace}-{right}");
            account.bind(&binding, &format!("loopwarden-{right}"))?;
            bindings.push(binding);
        }
        let access = Access::of(kubectl)?;
        let kubeconfig = context.folder.join("node-agent.kubeconfig");
        access.write(&kubeconfig, access.server, &account.token()?)?;
        let config = context.folder.join("node-agent.yaml");
        // JSON is YAML, too.
        let text = json!({
            "mode": "observe",
            "targets": [{"name": "loop", "match": {"exe": "python3*", "cmdline": "/app/loop.py"}}],
            "kubernetes": {"kubeconfig": kubeconfig, "node": context.cluster.node_name()?},
            "export": {"metrics": {"listen": "none"}},
            "journal": {"dir": context.folder.join("journal")},
        });
        std::fs::write(&config, text.to_string())
            .with_context(|| format!("cannot write {}", config.display()))?;
        let log = context.folder.join("node-agent.log");
        let output = process::log_file(&log)?;
        let mut command = Command::new(context.agent);
        command
            .arg("run")
            .arg("--config")
            .arg(&config)
            .env("LOOPWARDEN_RUN_DIR", context.folder.join("node-agent"))
            .stdout(output.try_clone()?)
            .stderr(output);
        let process = Process::start("the node agent", &mut command)?
            .ends_by(Signal::TERM, Duration::from_secs(10));
        Ok(Self {
            context,
            process,
            log,
            bindings,
        })
    }

    /// Of each pod that the kubelet has killed, whether the warnings came before that.
    pub(super) fn check(&mut self) -> Result<Vec<Check>> {
        if let Some(status) = self.process.status()? {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!(
                "the node agent ended ({status}); it said:\n{}",
                cmd::tail(&said, 15)
            );
        }
        let events = self
            .context
            .cluster
            .kubectl
            .events(&self.context.cluster.namespace)?;
        Ok(WARNINGS
            .iter()
            .map(|warning| of(warning, &events))
            .collect())
    }
}

impl Drop for NodeAgent<'_> {
    fn drop(&mut self) {
        self.process.end();
        let objects = self
            .bindings
            .iter()
            .map(|name| format!("clusterrolebinding/{name}"));
        let kubectl = &self.context.cluster.kubectl;
        if let Err(error) = kubectl.delete("default", objects, Duration::from_secs(1)) {
            eprintln!("kube: {error:#}");
        }
    }
}

fn of(warning: &str, events: &[Value]) -> Check {
    let first = |pod: &Value, reason: &str| {
        let of_pod =
            |event: &&Value| event["reason"] == reason && event["involvedObject"]["uid"] == *pod;
        // RFC 3339 in UTC, to the second: in the order of time as text, too.
        let created = |event: &Value| {
            event["metadata"]["creationTimestamp"]
                .as_str()
                .map(str::to_owned)
        };
        events.iter().filter(of_pod).filter_map(created).min()
    };
    let killings = events.iter().filter(|event| {
        let message = event["message"].as_str().unwrap_or_default();
        event["reason"] == "Killing" && message.contains("failed liveness probe")
    });
    let pods: Vec<&Value> = killings
        .map(|event| &event["involvedObject"]["uid"])
        .collect();
    let in_time = pods.iter().filter(|pod| {
        let (told, killed) = (first(pod, warning), first(pod, "Killing"));
        told.is_some() && told < killed
    });
    let in_time = in_time.count();
    Check::new(
        !pods.is_empty() && in_time == pods.len(),
        format!(
            "node agent: the Event {warning} is on the pod before the kubelet's Killing, probes known from its spec: on {in_time} of {}",
            pods.len()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_counts_only_on_the_same_pod_and_before_the_kill() {
        let event = |uid: &str, reason: &str, second: u32| {
            json!({
                "reason": reason, "involvedObject": {"uid": uid}, "message": "Container main failed liveness probe, will be restarted",
                "metadata": {"creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            })
        };
        let killed = event("a", "Killing", 20);
        for (events, passed) in [
            (vec![event("a", "KillImminent", 10), killed.clone()], true),
            (vec![event("b", "KillImminent", 10), killed.clone()], false),
            (vec![event("a", "KillImminent", 20), killed.clone()], false),
            (vec![killed], false),
            (vec![], false),
        ] {
            assert_eq!(of("KillImminent", &events).passed, passed, "{events:?}");
        }
    }
}
