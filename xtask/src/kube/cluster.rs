//! The cluster that tests run on, and a namespace of the run's own in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::kubectl::Kubectl;
use super::node::{self, Node};
use super::tools::Tools;
use crate::cmd;

const NAMESPACE_LIMIT: Duration = Duration::from_secs(30);

/// A cluster and a namespace; the namespace is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) kubectl: Kubectl,
    pub(crate) namespace: String,
    /// Known where the node is ours, or its log lies beside the named configuration.
    kubelet_log: Option<PathBuf>,
}

impl Cluster {
    /// The node of this run.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        Self::new(node.kubectl(), Some(node.kubelet_log()))
    }

    /// The one that a configuration names.
    pub(crate) fn named(kubeconfig: PathBuf) -> Result<Self> {
        let log = std::env::var_os("LOOPWARDEN_KUBELET_LOG")
            .map(PathBuf::from)
            .or_else(|| Some(kubeconfig.parent()?.parent()?.join("log/kubelet.log")))
            .filter(|log| log.is_file());
        let program = if cmd::on_path("kubectl") {
            PathBuf::from("kubectl")
        } else {
            Tools::build(&node::cache()?)?.component("kubectl")
        };
        let discovery = node::cache()?.join("discovery");
        Self::new(Kubectl::new(program, kubeconfig, discovery), log)
    }

    fn new(kubectl: Kubectl, kubelet_log: Option<PathBuf>) -> Result<Self> {
        // Two runs on one cluster do not meet.
        let namespace = format!("loopwarden-test-{}", std::process::id());
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        kubectl.apply("default", &[object])?;
        let cluster = Self {
            kubectl,
            namespace,
            kubelet_log,
        };
        // Pods are refused before.
        cluster.kubectl.wait_for(
            &cluster.namespace,
            "serviceaccount/default",
            NAMESPACE_LIMIT,
            |account| account["metadata"]["uid"].is_string(),
        )?;
        Ok(cluster)
    }

    /// The node's name; there is only one.
    pub(crate) fn node_name(&self) -> Result<String> {
        let nodes = self.kubectl.get("default", "nodes")?;
        let name = nodes["items"][0]["metadata"]["name"].as_str();
        name.map(str::to_owned).context("the cluster has no node")
    }

    /// The node's own address, where pods reach what listens on it.
    pub(crate) fn node_address(&self) -> Result<String> {
        let nodes = self.kubectl.get("default", "nodes")?;
        let addresses = nodes["items"][0]["status"]["addresses"].as_array();
        let internal = addresses
            .into_iter()
            .flatten()
            .find(|address| address["type"] == "InternalIP");
        let address = internal.and_then(|address| address["address"].as_str());
        address
            .map(str::to_owned)
            .context("the node has no internal address")
    }

    /// What the kubelet logs.
    pub(crate) fn kubelet_log(&self) -> Result<&Path> {
        self.kubelet_log.as_deref().context(
            "the kubelet's log is not known: name it by LOOPWARDEN_KUBELET_LOG (verbosity 4, on this machine, in UTC)",
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The namespace goes with all that is in it, at once, and nobody waits for it: a node of our own ends anyway.
        let args = [
            "delete",
            "pods",
            "--all",
            "--grace-period=1",
            "--wait=false",
            "--namespace",
        ];
        let _ = cmd::output(self.kubectl.command().args(args).arg(&self.namespace));
        let args = ["delete", "namespace", "--wait=false", &self.namespace];
        if let Err(error) = cmd::output(self.kubectl.command().args(args)) {
            eprintln!("kube: the namespace {} is left: {error:#}", self.namespace);
        }
    }
}
