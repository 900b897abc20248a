//! A pod of the API as the rest of the agent knows it. Pure; every field of the API may be missing.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{self as api, ContainerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::follow::ours;
use crate::pipeline::Mono;
use crate::pipeline::liveness::{self, ContainerProbes, ContainerState, Handler, Probe, ProbeSpec};
use crate::pipeline::pod::{Pod, PodContainer};
use crate::pipeline::stamp::{Stamp, Tied};

/// Set on pods that stand for static ones; the API server lets nobody but the node's kubelet set it.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What stands for a static pod in cgroup paths.
const HASH: &str = "kubernetes.io/config.hash";

/// The pod; nothing if it has no uid or name.
pub(super) fn pod(pod: &api::Pod, clock: Tied) -> Option<Pod> {
    let meta = &pod.metadata;
    let uid = meta.uid.clone()?;
    let annotations = meta.annotations.as_ref();
    let annotation = |key: &str| annotations.and_then(|all| all.get(key));
    let hash = annotation(MIRROR).and(annotation(HASH)).cloned();
    let spec = pod.spec.as_ref()?;
    let grace = spec.termination_grace_period_seconds.and_then(seconds);
    let grace = grace.unwrap_or(ProbeSpec::TERMINATION_GRACE);
    let killed_at = meta.deletion_timestamp.as_ref().map(|at| mono(at, clock));
    let statuses = statuses(pod);
    let containers = containers(spec).map(|(container, kind)| {
        let status = statuses.get(container.name.as_str());
        PodContainer {
            name: container.name.clone(),
            id: status.and_then(|status| id(status)),
            life: liveness::Container {
                probes: probes(container, kind, grace),
                state: state(status.copied(), killed_at, clock),
            },
        }
    });
    Some(Pod {
        cgroup_uid: hash.unwrap_or_else(|| uid.clone()).to_ascii_lowercase(),
        uid,
        namespace: meta.namespace.clone()?,
        name: meta.name.clone()?,
        labels: meta.labels.clone().unwrap_or_default(),
        annotations: ours(annotations),
        containers: containers.collect(),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Runs while the pod does, a sidecar among the init containers too.
    Lasting,
    /// An init container that has to end, or one that was added for debugging: the kubelet probes neither.
    Passing,
}

/// All containers of a pod.
fn containers(spec: &api::PodSpec) -> impl Iterator<Item = (&api::Container, Kind)> {
    let init = spec.init_containers.iter().flatten().map(|container| {
        let lasts = container.restart_policy.as_deref() == Some("Always");
        (container, if lasts { Kind::Lasting } else { Kind::Passing })
    });
    let main = spec.containers.iter();
    main.map(|container| (container, Kind::Lasting)).chain(init)
}

fn statuses(pod: &api::Pod) -> BTreeMap<&str, &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let all = main.into_iter().chain(init).flatten();
    all.map(|status| (status.name.as_str(), status)).collect()
}

/// `containerd://ID`.
fn id(status: &ContainerStatus) -> Option<String> {
    let (_, id) = status.container_id.as_ref()?.split_once("://")?;
    Some(id.to_ascii_lowercase())
}

fn state(status: Option<&ContainerStatus>, killed_at: Option<Mono>, clock: Tied) -> ContainerState {
    let running = status.and_then(|status| status.state.as_ref()?.running.as_ref());
    let since = running.and_then(|running| running.started_at.as_ref());
    ContainerState {
        started: status.and_then(|status| status.started),
        running_since: since.map(|since| mono(since, clock)),
        killed_at,
    }
}

fn probes(container: &api::Container, kind: Kind, grace: Duration) -> ContainerProbes {
    let read = |probe: &Option<api::Probe>| {
        let probe = probe.as_ref().filter(|_| kind == Kind::Lasting)?;
        self::probe(probe, container.ports.as_deref().unwrap_or_default())
    };
    let lifecycle = container.lifecycle.as_ref();
    ContainerProbes {
        liveness: read(&container.liveness_probe),
        readiness: read(&container.readiness_probe),
        startup: read(&container.startup_probe),
        termination_grace: grace,
        pre_stop: lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some()),
    }
}

fn probe(probe: &api::Probe, ports: &[api::ContainerPort]) -> Option<Probe> {
    let port = |port: &IntOrString| match port {
        IntOrString::Int(port) => u16::try_from(*port).ok(),
        IntOrString::String(name) => {
            let named = ports.iter().find(|port| port.name.as_ref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok())
        }
    };
    // A probe of another host says nothing about the loop.
    let own = |host: &Option<String>| host.as_ref().is_none_or(String::is_empty);
    let handler = if let Some(get) = &probe.http_get {
        if own(&get.host) {
            Handler::HttpGet {
                port: port(&get.port)?,
            }
        } else {
            Handler::Exec
        }
    } else if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).ok()?;
        Handler::Grpc { port }
    } else if let Some(tcp) = &probe.tcp_socket {
        if own(&tcp.host) {
            Handler::TcpSocket {
                port: port(&tcp.port)?,
            }
        } else {
            Handler::Exec
        }
    } else {
        Handler::Exec
    };
    let default = Probe::new(handler);
    let span = |given: Option<i32>, default: Duration| {
        let given = given.filter(|given| *given > 0);
        given.map_or(default, |given| {
            Duration::from_secs(u64::from(given.unsigned_abs()))
        })
    };
    let count = |given: Option<i32>, default: u32| {
        let given = given.filter(|given| *given > 0);
        given.map_or(default, i32::unsigned_abs)
    };
    Some(Probe {
        handler,
        initial_delay: span(probe.initial_delay_seconds, default.initial_delay),
        period: span(probe.period_seconds, default.period),
        timeout: span(probe.timeout_seconds, default.timeout),
        success_threshold: count(probe.success_threshold, default.success_threshold),
        failure_threshold: count(probe.failure_threshold, default.failure_threshold),
        termination_grace: probe.termination_grace_period_seconds.and_then(seconds),
    })
}

fn seconds(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

fn mono(time: &Time, clock: Tied) -> Mono {
    let micros = u64::try_from(time.0.as_microsecond()).unwrap_or(0);
    clock.mono(Stamp(micros))
}
