//! The node itself: a pod runs, has a network of its own, reaches the API server, and is gone when deleted.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Context;
use crate::cmd;
use crate::kube::image;
use crate::kube::process;
use crate::litellm::criteria::Check;

const NAME: &str = "basics";
const LIMIT: Duration = Duration::from_mins(1);

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    let cluster = context.cluster;
    let start = cmd::now();
    let (kubectl, namespace) = (&cluster.kubectl, cluster.namespace.as_str());
    let created = context.create_pods(vec![NAME.to_owned()], &[pod()])?;
    let pod = kubectl.wait_ready(namespace, NAME, LIMIT)?;
    let took = start.elapsed().as_secs_f64();
    let pid =
        process::of_container(&pod, "main").context("the pod's process is not on this machine")?;
    let words = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    let events = kubectl.events(namespace)?;
    let started = events
        .iter()
        .any(|event| event["reason"] == "Started" && event["involvedObject"]["name"] == NAME);
    let log = cluster.kubelet_log()?;
    let logged = std::fs::read_to_string(log)
        .with_context(|| format!("cannot read {}", log.display()))?
        .contains(r#""Probe succeeded" probeType="Readiness""#);
    drop(created);
    Ok(vec![
        Check::new(
            true,
            format!("a pod that reaches the API server is ready after {took:.1} s"),
        ),
        Check::new(
            words.contains("httpd"),
            format!("its process on this machine is {pid}: {words}"),
        ),
        Check::new(started, "the kubelet's Event `Started` is on the pod"),
        Check::new(logged, "the kubelet's log tells of probes"),
        Check::new(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "its process is gone when the pod is deleted",
        ),
    ])
}

/// Ready as soon as it has reached the API server at its service's address.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME},
        "spec": {"terminationGracePeriodSeconds": 1, "dnsPolicy": "Default", "containers": [{
            "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", "until nc -w 2 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT < /dev/null; do sleep 0.1; done; exec httpd -f -p 8080"],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        }]},
    })
}
