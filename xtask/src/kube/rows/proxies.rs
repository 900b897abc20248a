//! The real LiteLLM proxy as a pod, with the machine's `/usr` and the cached virtual environment mounted into it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::plan::Probe;
use super::{Context, Pods, loops};
use crate::kube::{image, process};
use crate::litellm::cluster::{self, Cluster};
use crate::litellm::guard::Guard;
use crate::litellm::lab::{BEFORE_FIX, Lab};
use crate::litellm::{proxy, python};

const PORT: u16 = 4000;
/// The condition that the node agent keeps.
pub(super) const GATE: &str = "loopwarden.dev/engine-ready";
/// Importing takes a proxy some ten seconds of two cores.
const READY_LIMIT: Duration = Duration::from_mins(4);
/// A stuck engine takes that long to close: longer than any freeze.
const CLOSE_MAX_S: &str = "60";
/// What a proxy in production asks for. A pod that asks for nothing gets what everybody else on the machine leaves (`cpu.weight` 1), and
/// what the control plane and the observers of a test use would count as the proxy's own delay.
const CPU: &str = "500m";

/// How a pod differs from others.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) name: &'a str,
    pub(super) probe: Probe,
    pub(super) arguments: &'a [&'a str],
    /// Later ones win.
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) grace_s: u32,
    /// It asks the node agent to end wedged engines, and is not ready before its engine accepts.
    pub(super) is_guarded: bool,
}

/// A pod that is up.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pid: u32,
    probe: Probe,
}

/// A database of the run's own, where pods reach it.
pub(super) fn database(context: &Context, lab: &Lab, name: &str) -> Result<(Cluster, String)> {
    let data = lab.run.path(&format!("{name}-postgres"));
    cluster::copy(&lab.path("schema"), &data)?;
    let address = context.cluster.node_address()?;
    Ok((Cluster::start_on(&data, &address)?, address))
}

/// Brings pods up.
pub(super) fn start<'a>(
    context: &'a Context,
    lab: &Lab,
    database_url: &str,
    pods: &[Settings],
) -> Result<(Pods<'a>, Vec<Proxy>)> {
    let (kubectl, namespace) = (&context.cluster.kubectl, context.cluster.namespace.as_str());
    // Not always below /usr: there are other Pythons than Debian's.
    let interpreter = python::base(lab, BEFORE_FIX)?;
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "proxy"}, "data": {"config.yaml": proxy::CONFIG},
    })];
    objects.extend(
        pods.iter()
            .map(|settings| pod(lab, &interpreter, database_url, settings)),
    );
    let names = pods.iter().map(|settings| settings.name.to_owned());
    let created = context.create_pods(names.collect(), &objects)?;
    let mut proxies = Vec::new();
    for settings in pods {
        let name = settings.name;
        let pod = kubectl.wait_ready(namespace, name, READY_LIMIT)?;
        proxies.push(Proxy {
            name: name.to_owned(),
            address: loops::address(&pod, PORT)?,
            pid: process::of_container(&pod, "main")
                .with_context(|| format!("the process of pod {name} is not on this machine"))?,
            probe: settings.probe,
        });
    }
    Ok((created, proxies))
}

impl Proxy {
    /// Has everything in memory that its processes have mapped. Some machines take away what nobody used for half a minute, and a proxy's
    /// way back from a stall is such code.
    pub(super) fn warm(&self) {
        process::warm(self.pid);
    }

    /// How often it has waited for the disk because code of its own was not in memory; none when it is gone.
    pub(super) fn major_faults(&self) -> Option<u64> {
        process::major_faults(self.pid)
    }

    /// Starts an agent that tells of it and does nothing, and waits until it watches. The agent knows the probe.
    pub(super) fn observer(&self, context: &Context) -> Result<Guard> {
        let liveness = format!("{}@{PORT}", self.probe.spec());
        let arguments = ["--engine", "query-engine-*", "--liveness", &liveness];
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let mut guard = Guard::start_in(
            context.folder,
            context.agent,
            &self.name,
            self.pid,
            &arguments,
        )?;
        guard.wait_until_it_watches()?;
        Ok(guard)
    }
}

fn pod(lab: &Lab, interpreter: &Path, database_url: &str, settings: &Settings) -> Value {
    let venv = python::venv(lab, BEFORE_FIX);
    let program = venv.join("bin/litellm");
    let mut command = vec![shown(&program)];
    command.extend(
        [
            "--host",
            "0.0.0.0",
            "--port",
            "4000",
            "--config",
            "/config/config.yaml",
        ]
        .map(str::to_owned),
    );
    command.extend(
        settings
            .arguments
            .iter()
            .map(|argument| (*argument).to_owned()),
    );
    let mut environment: Vec<(&str, String)> = vec![
        (
            "PATH",
            format!("{}:/usr/bin:/bin", shown(&venv.join("bin"))),
        ),
        ("HOME", "/tmp".into()),
    ];
    environment.extend(proxy::environment(lab, database_url));
    environment.push(("STANDIN_CLOSE_MAX_S", CLOSE_MAX_S.into()));
    environment.extend(settings.environment.iter().cloned());
    // Each name once: the last wins.
    let mut variables = serde_json::Map::new();
    for (name, value) in environment {
        variables.insert(name.to_owned(), json!({"name": name, "value": value}));
    }
    let variables: Vec<Value> = variables
        .into_iter()
        .map(|(_, variable)| variable)
        .collect();
    let (cache, run) = (shown(&lab.path("")), shown(&lab.run.path("")));
    let mut container = json!({
        "name": "main", "image": image::HOST, "imagePullPolicy": "Never", "command": command, "env": variables,
        "resources": {"requests": {"cpu": CPU}},
        "volumeMounts": [
            {"name": "usr", "mountPath": "/usr", "readOnly": true},
            {"name": "etc", "mountPath": "/etc", "readOnly": true},
            {"name": "cache", "mountPath": cache, "readOnly": true},
            {"name": "run", "mountPath": run},
            {"name": "python", "mountPath": shown(interpreter), "readOnly": true},
            {"name": "config", "mountPath": "/config"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    });
    let http_get = json!({"path": "/health/liveliness", "port": PORT});
    settings.probe.give_to(&mut container, &http_get);
    container["startupProbe"] = json!({"httpGet": http_get, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 240});
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": settings.name},
        "spec": {"terminationGracePeriodSeconds": settings.grace_s, "dnsPolicy": "Default", "containers": [container], "volumes": [
            {"name": "usr", "hostPath": {"path": "/usr"}},
            {"name": "etc", "hostPath": {"path": "/etc"}},
            {"name": "cache", "hostPath": {"path": cache}},
            {"name": "run", "hostPath": {"path": run}},
            {"name": "python", "hostPath": {"path": shown(interpreter)}},
            {"name": "config", "configMap": {"name": "proxy"}},
            {"name": "tmp", "emptyDir": {}},
        ]},
    });
    if settings.is_guarded {
        pod["metadata"]["annotations"] = json!({"loopwarden.dev/mode": "enforce"});
        pod["spec"]["readinessGates"] = json!([{"conditionType": GATE}]);
    }
    pod
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
