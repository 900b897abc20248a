//! A client of a cluster: manifests in, objects and Events out.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cmd;
use crate::litellm::stop;

const PAUSE: Duration = Duration::from_millis(300);

/// Nothing gets a container out of these.
const HOPELESS: &[&str] = &["CrashLoopBackOff", NO_IMAGE];
const NO_IMAGE: &str = "ErrImageNeverPull";

/// A client with a configuration of its own.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// Where it keeps what it knows of the API; by default that is in the home folder.
    cache: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(program: PathBuf, kubeconfig: PathBuf, cache: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
            cache,
        }
    }

    /// The same with another configuration.
    pub(crate) fn with(&self, kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            ..self.clone()
        }
    }

    /// kubectl, with any arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .arg("--request-timeout=20s")
            .env_remove("KUBECONFIG");
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env_remove(proxy);
        }
        command
    }

    /// What a path of the API answers.
    pub(crate) fn get_raw(&self, path: &str) -> Result<String> {
        cmd::output(self.command().args(["get", "--raw", path]))
    }

    /// An object, such as `pod/x`.
    pub(crate) fn get(&self, namespace: &str, what: &str) -> Result<Value> {
        let args = ["--namespace", namespace, "get", what, "--output", "json"];
        parse(&cmd::output(self.command().args(args))?)
    }

    pub(crate) fn exists(&self, namespace: &str, what: &str) -> bool {
        let args = ["--namespace", namespace, "get", what, "--output", "name"];
        cmd::output(self.command().args(args)).is_ok()
    }

    pub(crate) fn node_is_ready(&self, name: &str) -> bool {
        self.get("default", &format!("node/{name}"))
            .is_ok_and(|node| has_condition(&node, "Ready"))
    }

    /// Creates or changes objects; those that name no namespace are put into this one.
    pub(crate) fn apply(&self, namespace: &str, objects: &[Value]) -> Result<()> {
        let list =
            serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let mut child = self
            .command()
            .args(["--namespace", namespace, "apply", "--filename", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        child
            .stdin
            .take()
            .context("kubectl has no input")?
            .write_all(list.as_bytes())
            .context("kubectl does not read its input")?;
        let out = child
            .wait_with_output()
            .context("cannot wait for kubectl")?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            bail!(
                "kubectl apply failed: {}\n{}",
                out.status,
                cmd::tail(&said, 20)
            );
        }
        Ok(())
    }

    /// Deletes objects and waits until they are gone.
    pub(crate) fn delete(
        &self,
        namespace: &str,
        objects: impl IntoIterator<Item = String>,
        grace: Duration,
    ) -> Result<()> {
        let grace = grace.as_secs().to_string();
        let mut command = self.command();
        command.args([
            "--namespace",
            namespace,
            "delete",
            "--ignore-not-found",
            "--wait",
        ]);
        command.args(["--timeout=60s", "--grace-period", &grace]);
        cmd::output(command.args(objects)).map(drop)
    }

    /// Waits until an object is as `wanted` says; a failure tells how it was last.
    pub(crate) fn wait_for(
        &self,
        namespace: &str,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let found = stop::wait_for(limit, PAUSE, || {
            last = self.get(namespace, what).unwrap_or(Value::Null);
            Ok(wanted(&last).then_some(()))
        })?;
        if found.is_none() {
            let events = self.events(namespace).unwrap_or_default();
            let name = what.rsplit('/').next().unwrap_or(what);
            let events: Vec<String> = events
                .iter()
                .filter(|event| event["involvedObject"]["name"] == name)
                .map(|event| format!("{}: {}", event["reason"], event["message"]))
                .collect();
            bail!(
                "{what} in {namespace} is not as wanted within {limit:?}; its phase is {}, of its containers {}\n{}",
                last["status"]["phase"],
                states(&last),
                events.join("\n")
            );
        }
        Ok(last)
    }

    /// Waits until a pod is ready; one whose container has ended again and again will not be.
    pub(crate) fn wait_ready(&self, namespace: &str, pod: &str, limit: Duration) -> Result<Value> {
        let found = self.wait_for(namespace, &format!("pod/{pod}"), limit, |pod| {
            has_condition(pod, "Ready") || waits_for(pod, HOPELESS)
        })?;
        if waits_for(&found, &[NO_IMAGE]) {
            bail!(
                "the node has not the image of pod {pod}: `cargo xtask kube images` writes them all as archives, to be imported there"
            );
        }
        if waits_for(&found, HOPELESS) {
            let args = [
                "--namespace",
                namespace,
                "logs",
                pod,
                "--all-containers",
                "--tail=20",
            ];
            let said = cmd::output(self.command().args(args)).unwrap_or_default();
            bail!("the container of pod {pod} ends again and again; it said:\n{said}");
        }
        Ok(found)
    }

    /// All Events of a namespace.
    pub(crate) fn events(&self, namespace: &str) -> Result<Vec<Value>> {
        match self.get(namespace, "events")?["items"].take() {
            Value::Array(events) => Ok(events),
            other => bail!("a list of Events was expected, not {other}"),
        }
    }
}

/// Whether a condition of an object's status is true.
pub(crate) fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn states(pod: &Value) -> String {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let states = statuses.into_iter().flatten().map(|status| {
        format!(
            "{} (restarts: {}) {}",
            status["name"], status["restartCount"], status["state"]
        )
    });
    states.collect::<Vec<_>>().join("; ")
}

/// Whether a container of a pod waits for one of these reasons.
fn waits_for(pod: &Value, reasons: &[&str]) -> bool {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.into_iter().flatten().any(|status| {
        let reason = status["state"]["waiting"]["reason"].as_str();
        reason.is_some_and(|reason| reasons.contains(&reason))
    })
}

fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json).context("kubectl did not answer with JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_counts_only_when_it_is_true() {
        let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        assert!(has_condition(&pod, "Ready"));
        assert!(!has_condition(&pod, "Other"));
        assert!(!has_condition(&Value::Null, "Ready"));
    }
}
