//! Accounts with few rights, and configurations for clients that use them: what an agent in a cluster has.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::kubectl::Kubectl;
use crate::cmd;

/// An account of a namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) kubectl: &'a Kubectl,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Account<'_> {
    /// Creates it, with these rules of RBAC in its namespace alone.
    pub(crate) fn create(&self, rules: &[Value]) -> Result<()> {
        let (namespace, name) = (self.namespace, self.name);
        let metadata = json!({"name": name, "namespace": namespace});
        let rbac = "rbac.authorization.k8s.io";
        let version = format!("{rbac}/v1");
        self.kubectl.apply(
            namespace,
            &[
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
                json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules}),
                json!({
                    "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
                    "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
                }),
            ],
        )
    }

    /// Gives it the rights of a role of the whole cluster; the binding stays until it is deleted.
    pub(crate) fn bind(&self, binding: &str, role: &str) -> Result<()> {
        let rbac = "rbac.authorization.k8s.io";
        self.kubectl.apply(
            self.namespace,
            &[json!({
                "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": binding},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": self.name, "namespace": self.namespace}],
            })],
        )
    }

    /// A token of it, for an hour.
    pub(crate) fn token(&self) -> Result<String> {
        let args = [
            "--namespace",
            self.namespace,
            "create",
            "token",
            self.name,
            "--duration=1h",
        ];
        Ok(cmd::output(self.kubectl.command().args(args))?
            .trim()
            .to_owned())
    }
}

/// How a cluster is reached.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) server: SocketAddr,
    /// In base64, as configurations hold it.
    authority: String,
}

impl Access {
    /// As the configuration of a client has it.
    pub(crate) fn of(kubectl: &Kubectl) -> Result<Self> {
        let args = [
            "config",
            "view",
            "--raw",
            "--minify",
            "--flatten",
            "--output",
            "json",
        ];
        let config: Value = serde_json::from_str(&cmd::output(kubectl.command().args(args))?)
            .context("kubectl did not answer with JSON")?;
        let cluster = &config["clusters"][0]["cluster"];
        let url = cluster["server"]
            .as_str()
            .context("the configuration names no server")?;
        let host = url
            .strip_prefix("https://")
            .with_context(|| format!("not an https address: {url}"))?
            .trim_end_matches('/');
        let server = host
            .to_socket_addrs()
            .with_context(|| format!("cannot look up {host}"))?
            .next()
            .with_context(|| format!("no address for {host}"))?;
        Ok(Self {
            server,
            authority: cluster["certificate-authority-data"]
                .as_str()
                .context("the configuration has no certificate authority")?
                .to_owned(),
        })
    }

    /// Writes a configuration that reaches the cluster at an address, which may be a wire's.
    pub(crate) fn write(&self, file: &Path, address: SocketAddr, token: &str) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{address}"), "certificate-authority-data": self.authority,
                // Whatever address it is reached at.
                "tls-server-name": "kubernetes",
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(file, config.to_string())
            .with_context(|| format!("cannot write {}", file.display()))
    }
}
