//! The node agent, `loopwarden run`, with no more rights than `deploy/rbac/` gives, and what its page shows.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::Context;
use crate::kube::account::{Access, Account};
use crate::litellm::process::{self, Process};
use crate::litellm::{http, stop};
use crate::{cmd, layout};

const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const BEGINS_WITHIN: Duration = Duration::from_secs(30);
const ENDS_WITHIN: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

const NAME: &str = "agent";

/// An account with roles of `deploy/rbac/`, bound while this lives.
#[derive(Debug)]
pub(super) struct Rights<'a> {
    account: Account<'a>,
    folder: &'a Path,
    roles: Vec<String>,
}

impl<'a> Rights<'a> {
    /// Applies the roles that are named, and binds them.
    pub(super) fn of(context: &'a Context<'a>, roles: &[&str]) -> Result<Self> {
        let kubectl = &context.cluster.kubectl;
        let account = Account {
            kubectl,
            namespace: &context.cluster.namespace,
            name: NAME,
        };
        account.create(&[])?;
        let rights = Self {
            account,
            folder: context.folder,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        };
        for role in roles {
            let file = layout::root().join(format!("deploy/rbac/{role}.yaml"));
            cmd::output(kubectl.command().args(["apply", "--filename"]).arg(&file))?;
            account.bind(&rights.binding(role), &format!("loopwarden-{role}"))?;
        }
        Ok(rights)
    }

    fn binding(&self, role: &str) -> String {
        format!("{}-{role}", self.account.namespace)
    }

    /// Takes one of them away.
    pub(super) fn withdraw(&self, role: &str) -> Result<()> {
        self.delete([role])
    }

    fn delete<'r>(&self, roles: impl IntoIterator<Item = &'r str>) -> Result<()> {
        let bindings = roles.into_iter().map(|role| self.binding(role));
        let bindings = bindings.map(|name| format!("clusterrolebinding/{name}"));
        let grace = Duration::from_secs(1);
        self.account.kubectl.delete("default", bindings, grace)
    }

    /// A configuration for a client with these rights, which reaches the API at that address.
    pub(super) fn kubeconfig(&self, access: &Access, address: SocketAddr) -> Result<PathBuf> {
        let file = self.folder.join("agent.kubeconfig");
        access.write(&file, address, &self.account.token()?)?;
        Ok(file)
    }
}

impl Drop for Rights<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.delete(self.roles.iter().map(String::as_str)) {
            eprintln!("kube: {error:#}");
        }
    }
}

/// A running agent; ended when dropped.
#[derive(Debug)]
pub(super) struct NodeAgent {
    process: Process,
    page: SocketAddr,
    log: PathBuf,
}

impl NodeAgent {
    /// Starts one. `config` is its configuration without `kubernetes`, `journal` and `export`.
    pub(super) fn start(
        context: &Context,
        name: &str,
        kubeconfig: &Path,
        config: &str,
        writes: &str,
    ) -> Result<Self> {
        // Free a moment ago, and nobody else on this machine is asked for it.
        let page = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let node = context.cluster.node_name()?;
        let folder = context.folder.display();
        let text = format!(
            "{config}\nkubernetes: {{ kubeconfig: {}, node: {node}, {writes} }}\njournal: {{ dir: {folder}/{name}.journal }}\nexport: {{ metrics: {{ listen: \"{page}\" }} }}\n",
            kubeconfig.display()
        );
        let file = context.folder.join(format!("{name}.yaml"));
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let log = context.folder.join(format!("{name}.log"));
        let mut command = Command::new(context.agent);
        command
            .args(["run", "--config"])
            .arg(&file)
            .env("RUST_LOG", "info")
            .env("LOOPWARDEN_RUN_DIR", context.folder.join("guard"))
            .stderr(process::log_file(&log)?);
        let process =
            Process::start("the node agent", &mut command)?.ends_by(Signal::TERM, ENDS_WITHIN);
        let mut agent = Self { process, page, log };
        let answers = stop::wait_for(BEGINS_WITHIN, PAUSE, || {
            agent.check()?;
            Ok(agent.page().ok().map(drop))
        })?;
        if answers.is_none() {
            bail!(
                "the agent's page does not answer within {BEGINS_WITHIN:?}; it said:\n{}",
                agent.said()
            );
        }
        Ok(agent)
    }

    /// Fails when it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.process.status()? {
            bail!("the agent ended ({status}); it said:\n{}", self.said());
        }
        Ok(())
    }

    fn said(&self) -> String {
        cmd::tail(&self.log(), 15)
    }

    /// What it has said on stderr.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its page of metrics.
    pub(super) fn page(&self) -> Result<Page> {
        let answer = http::get(self.page, "/metrics", ANSWERS_WITHIN)?;
        if !answer.is_success() {
            bail!("the agent's page answers with {}", answer.status);
        }
        Ok(Page(answer.body))
    }

    /// Waits until its page is as wanted; how long that took, or nothing if it did not.
    pub(super) fn wait(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Page) -> bool,
    ) -> Result<Option<Duration>> {
        let start = cmd::now();
        stop::wait_for(limit, PAUSE, || {
            self.check()?;
            Ok(wanted(&self.page()?).then(|| start.elapsed()))
        })
    }
}

/// A page of metrics.
#[derive(Debug)]
pub(super) struct Page(String);

impl Page {
    /// The values of the series of that name that have these labels.
    pub(super) fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        let lines = self.0.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        lines
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect()
    }

    /// The one value, if there is just one.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        match self.values(name, labels)[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// What a label of the one series with these labels says.
    pub(super) fn label(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        wanted: &str,
    ) -> Option<String> {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        let line = self.0.lines().find(|line| {
            line.starts_with(&format!("{name}{{"))
                && labels.iter().all(|label| line.contains(label))
        })?;
        let (_, rest) = line.split_once(&format!("{wanted}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    }

    /// How many processes with loops are shown as running in that container of a pod.
    pub(super) fn loops_of(&self, pod: &str, container: &str) -> usize {
        let labels = [("k8s_pod_name", pod), ("k8s_container_name", container)];
        self.values("loopwarden_loop_stalled_seconds", &labels)
            .len()
    }

    /// How many are in any container of it.
    pub(super) fn loops_in(&self, pod: &str) -> usize {
        let labels = [("k8s_pod_name", pod)];
        self.values("loopwarden_loop_stalled_seconds", &labels)
            .len()
    }

    /// How old what is known of the pods is.
    pub(super) fn age(&self) -> Option<f64> {
        self.value("loopwarden_agent_kubernetes_age_seconds", &[])
    }

    /// The verdict on a use of the API.
    pub(super) fn verdict(&self, hook: &str) -> Option<&'static str> {
        ["ok", "unsupported", "broken"].into_iter().find(|verdict| {
            let labels = [("hook", hook), ("verdict", verdict)];
            self.value("loopwarden_agent_hook_verdict", &labels) == Some(1.0)
        })
    }
}

/// An annotation of a pod, a namespace or a node, set or removed.
pub(super) fn annotate(context: &Context, object: &str, annotation: &str) -> Result<()> {
    let mut command = context.cluster.kubectl.command();
    let namespace = context.cluster.namespace.as_str();
    command.args(["--namespace", namespace, "annotate", "--overwrite"]);
    cmd::output(
        command
            .arg(object)
            .arg(format!("loopwarden.dev/{annotation}")),
    )
    .map(drop)
}

/// When an Event of that reason was first written on a pod, to the second: `2026-01-31T23:59:59`.
pub(super) fn first_event(events: &[Value], pod: &str, reason: &str) -> Option<String> {
    let of_pod = events
        .iter()
        .filter(|event| event["involvedObject"]["name"] == pod && event["reason"] == reason);
    // Those of the older kind have no `eventTime`.
    let time = |event: &Value| {
        let time = event["eventTime"]
            .as_str()
            .or(event["firstTimestamp"].as_str())?;
        time.get(..19).map(str::to_owned)
    };
    of_pod.filter_map(time).min()
}
