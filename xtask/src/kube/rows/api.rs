//! The ways to disturb the API that tests of the agent use, each shown to disturb: little rights, a wire that holds and cuts, a past that is forgotten.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Context;
use crate::cmd;
use crate::kube::account::{Access, Account};
use crate::kube::kubectl::Kubectl;
use crate::kube::wire::{Mode, Wire};
use crate::kube::{etcd, node};
use crate::litellm::criteria::Check;

const NAME: &str = "little";
const DELAY: Duration = Duration::from_millis(150);

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    let (kubectl, namespace) = (&context.cluster.kubectl, context.cluster.namespace.as_str());
    let account = Account {
        kubectl,
        namespace,
        name: NAME,
    };
    account
        .create(&[json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]})])?;
    let access = Access::of(kubectl)?;
    let wire = Wire::to(access.server)?;
    let file = context.folder.join("little.kubeconfig");
    access.write(&file, wire.address(), &account.token()?)?;
    let little = kubectl.with(file);
    let mut checks = of_rights(&little, namespace);
    checks.extend(of_wire(&little, namespace, &wire));
    if access.server.to_string() == node::API {
        checks.extend(of_the_past(context, &little)?);
    } else {
        eprintln!(
            "kube: the etcd of {} is not ours to compact: watches do not expire here",
            access.server
        );
    }
    for check in &mut checks {
        check.text = format!("api: {}", check.text);
    }
    Ok(checks)
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

fn of_rights(little: &Kubectl, namespace: &str) -> Vec<Check> {
    let secrets = little.get_raw(&format!("/api/v1/namespaces/{namespace}/secrets"));
    let refused = secrets.is_err_and(|error| format!("{error:#}").contains("forbidden"));
    vec![
        Check::new(
            little.get_raw(&pods(namespace)).is_ok(),
            "an account that may list pods can, through the wire",
        ),
        Check::new(refused, "and nothing else"),
    ]
}

fn of_wire(little: &Kubectl, namespace: &str, wire: &Wire) -> Vec<Check> {
    let path = pods(namespace);
    let quick = |path: &str| {
        let args = ["--request-timeout=2s", "get", "--raw", path];
        cmd::output(little.command().args(args)).is_ok()
    };
    let before = wire.accepted();
    wire.set(Mode::Hold);
    let held = !quick(&path) && wire.accepted() > before;
    wire.set(Mode::Cut);
    let cut = !quick(&path);
    wire.set(Mode::Delay(DELAY));
    let start = cmd::now();
    let delayed = little.get_raw(&path).is_ok() && start.elapsed() > DELAY * 4;
    wire.set(Mode::Pass);
    let back = quick(&path);
    vec![
        Check::new(held, "a wire that holds accepts, and nothing comes back"),
        Check::new(cut, "one that is cut fails"),
        Check::new(delayed, "one that delays is slow, and works"),
        Check::new(back, "one that passes works again"),
    ]
}

/// A watch that wants to go on from before is told that it cannot.
fn of_the_past(context: &Context, little: &Kubectl) -> Result<Vec<Check>> {
    let namespace = context.cluster.namespace.as_str();
    let list: Value = serde_json::from_str(&little.get_raw(&pods(namespace))?)?;
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .context("a list without a version")?;
    let from = format!(
        "{}?watch=1&timeoutSeconds=2&resourceVersion={version}",
        pods(namespace)
    );
    let before = little.get_raw(&from)?;
    // Something has to have happened since, or nothing is forgotten.
    let change = |number: u32| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("past-{number}")}});
    let changes: Vec<Value> = (0..3).map(change).collect();
    context.cluster.kubectl.apply(namespace, &changes)?;
    let forgotten = etcd::compact()?;
    let after = match little.get_raw(&from) {
        Ok(events) => events,
        Err(error) => format!("{error:#}"),
    };
    let expired =
        |said: &str| said.contains("Expired") || said.contains("too old resource version");
    Ok(vec![Check::new(
        !expired(&before) && expired(&after),
        format!(
            "a watch from version {version} expires when etcd has forgotten all before {forgotten}"
        ),
    )])
}
