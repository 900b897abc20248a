//! A pod of the API as the rest of the agent knows it. Pure; every field of the API may be missing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{self as api, ContainerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::follow::ours;
use crate::pipeline::Mono;
use crate::pipeline::gate::{CONDITION, Gate};
use crate::pipeline::liveness::{self, ContainerProbes, ContainerState, Handler, Probe, ProbeSpec};
use crate::pipeline::pod::{Pod, PodContainer};
use crate::pipeline::stamp::{Stamp, Tied};

/// Set on pods that stand for static ones, when they are made: by the node's kubelet, or by somebody who may make pods and pretends.
/// Who names another's hash so takes nothing from it: an id that two pods claim is neither one's, and the containers' are still known.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What stands for a static pod in cgroup paths.
const HASH: &str = "kubernetes.io/config.hash";

/// The pod; nothing if it has no uid or name.
pub(super) fn pod(pod: &api::Pod, clock: Tied) -> Option<Pod> {
    let meta = &pod.metadata;
    let uid = meta.uid.clone()?;
    let annotations = meta.annotations.as_ref();
    let annotation = |key: &str| annotations.and_then(|all| all.get(key));
    let is_hash = |hash: &&String| hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let hash = annotation(MIRROR).and(annotation(HASH)).filter(is_hash);
    let spec = pod.spec.as_ref()?;
    let grace = spec.termination_grace_period_seconds.and_then(seconds);
    let grace = grace.unwrap_or(ProbeSpec::TERMINATION_GRACE);
    let killed_at = meta.deletion_timestamp.as_ref().map(|at| mono(at, clock));
    let statuses = statuses(pod);
    let place = Place::of(pod, spec);
    let as_told = |name: &str, probes: ContainerProbes| {
        let status = statuses.get(name);
        PodContainer {
            name: name.to_owned(),
            id: status.and_then(|status| id(status)),
            life: liveness::Container {
                probes,
                state: state(status.copied(), killed_at, clock),
            },
        }
    };
    let containers = containers(spec)
        .map(|(container, kind)| as_told(&container.name, probes(container, kind, grace, &place)));
    // Added for debugging, and never probed.
    let added = spec.ephemeral_containers.iter().flatten().map(|added| {
        let probes = ContainerProbes {
            termination_grace: grace,
            ..ContainerProbes::default()
        };
        as_told(&added.name, probes)
    });
    Some(Pod {
        cgroup_uid: hash.unwrap_or(&uid).to_ascii_lowercase(),
        uid,
        namespace: meta.namespace.clone()?,
        name: meta.name.clone()?,
        labels: meta.labels.clone().unwrap_or_default(),
        annotations: ours(annotations),
        gate: gate(pod),
        containers: containers.chain(added).collect(),
    })
}

/// Where the pod is reached.
struct Place {
    addresses: Vec<IpAddr>,
    of_node: bool,
}

impl Place {
    fn of(pod: &api::Pod, spec: &api::PodSpec) -> Self {
        let status = pod.status.as_ref();
        let one = status.and_then(|status| status.pod_ip.as_ref());
        let all = status.and_then(|status| status.pod_ips.as_ref());
        let all = all.into_iter().flatten().map(|address| &address.ip);
        Self {
            addresses: one
                .into_iter()
                .chain(all)
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            of_node: spec.host_network == Some(true),
        }
    }

    /// Whether the host that a probe names is the pod itself. The kubelet connects from the node: its loopback is that of a pod on the
    /// node's own network, and of no other.
    fn is(&self, host: Option<&String>) -> bool {
        let Some(host) = host.filter(|host| !host.is_empty()) else {
            return true;
        };
        match host.parse::<IpAddr>() {
            Ok(ip) => self.addresses.contains(&ip) || (self.of_node && ip.is_loopback()),
            Err(_) => self.of_node && host == "localhost",
        }
    }
}

/// How our condition stands, if the pod names it among its gates.
fn gate(pod: &api::Pod) -> Option<Gate> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_ref()?;
    gates.iter().find(|gate| gate.condition_type == CONDITION)?;
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let own = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == CONDITION);
    Some(own.map_or_else(Gate::default, |condition| Gate {
        status: match condition.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        },
        reason: condition.reason.clone().unwrap_or_default(),
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Runs while the pod does, a sidecar among the init containers too.
    Lasting,
    /// An init container that has to end: the kubelet does not probe it.
    Passing,
}

/// All containers of a pod but those that were added later.
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
    let added = status.and_then(|status| status.ephemeral_container_statuses.as_ref());
    let all = main.into_iter().chain(init).chain(added).flatten();
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

fn probes(
    container: &api::Container,
    kind: Kind,
    grace: Duration,
    place: &Place,
) -> ContainerProbes {
    let read = |probe: &Option<api::Probe>| {
        let probe = probe.as_ref().filter(|_| kind == Kind::Lasting)?;
        let ports = container.ports.as_deref().unwrap_or_default();
        self::probe(probe, ports, place)
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

fn probe(probe: &api::Probe, ports: &[api::ContainerPort], place: &Place) -> Option<Probe> {
    let port = |port: &IntOrString| match port {
        IntOrString::Int(port) => u16::try_from(*port).ok(),
        IntOrString::String(name) => {
            let named = ports.iter().find(|port| port.name.as_ref() == Some(name));
            match named {
                Some(port) => u16::try_from(port.container_port).ok(),
                // The kubelet's last resort, too.
                None => name.parse().ok(),
            }
        }
    };
    // A probe of another host says nothing about the loop.
    let own = |host: &Option<String>| place.is(host.as_ref());
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CLOCK: Tied = Tied {
        mono: Mono(1_000_000_000_000),
        wall: Stamp(1_700_000_000_000_000),
    };

    fn read(json: Value) -> Option<Pod> {
        pod(&serde_json::from_value(json).unwrap(), CLOCK)
    }

    fn example() -> Value {
        json!({
            "metadata": { "uid": "5F0C", "namespace": "shop", "name": "a", "labels": { "app": "x" },
                "annotations": { "loopwarden.dev/mode": "observe", "other/x": "y" } },
            "spec": {
                "terminationGracePeriodSeconds": 60,
                "initContainers": [
                    { "name": "setup", "livenessProbe": { "exec": { "command": ["true"] } } },
                    { "name": "mesh", "restartPolicy": "Always", "readinessProbe": { "tcpSocket": { "port": 15021 } } }
                ],
                "containers": [ {
                    "name": "proxy",
                    "ports": [ { "name": "web", "containerPort": 4000 } ],
                    "livenessProbe": { "httpGet": { "path": "/", "port": "web" }, "periodSeconds": 15, "timeoutSeconds": 10,
                        "failureThreshold": 6, "terminationGracePeriodSeconds": 5 },
                    "startupProbe": { "grpc": { "port": 4001 }, "initialDelaySeconds": 3 },
                    "lifecycle": { "preStop": { "exec": { "command": ["sleep", "5"] } } }
                } ]
            },
            "status": {
                "containerStatuses": [ {
                    "name": "proxy", "containerID": "containerd://ABC", "image": "", "imageID": "", "ready": true, "restartCount": 2,
                    "started": true, "state": { "running": { "startedAt": "2023-11-14T22:13:10Z" } }
                } ],
                "initContainerStatuses": [ {
                    "name": "mesh", "containerID": "containerd://def", "image": "", "imageID": "", "ready": true, "restartCount": 0
                } ]
            }
        })
    }

    #[test]
    fn a_pod_is_read_with_its_probes() {
        let pod = read(example()).unwrap();
        assert_eq!(
            (pod.uid.as_str(), pod.cgroup_uid.as_str()),
            ("5F0C", "5f0c")
        );
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "a"));
        let asked = BTreeMap::from([("mode".to_owned(), "observe".to_owned())]);
        assert_eq!(pod.annotations, asked);
        let [proxy, setup, mesh] = &pod.containers[..] else {
            panic!("{:?}", pod.containers)
        };
        assert_eq!(
            (proxy.name.as_str(), proxy.id.as_deref()),
            ("proxy", Some("abc"))
        );
        let probes = &proxy.life.probes;
        let expected = Probe {
            period: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            failure_threshold: 6,
            termination_grace: Some(Duration::from_secs(5)),
            ..Probe::new(Handler::HttpGet { port: 4000 })
        };
        assert_eq!(probes.liveness, Some(expected));
        assert_eq!(
            probes.startup.unwrap().initial_delay,
            Duration::from_secs(3)
        );
        assert_eq!(
            (probes.termination_grace, probes.pre_stop),
            (Duration::from_mins(1), true)
        );
        let state = &proxy.life.state;
        assert_eq!(state.started, Some(true));
        // Ten seconds before the moment at which the clocks were tied.
        assert_eq!(state.running_since, Some(Mono(990_000_000_000)));
        // The kubelet does not probe what has to end.
        assert_eq!(setup.life.probes.liveness, None);
        assert_eq!(
            mesh.life.probes.readiness,
            Some(Probe::new(Handler::TcpSocket { port: 15021 }))
        );
    }

    #[test]
    fn a_static_pod_is_found_by_its_hash_and_nobody_else_by_his_word() {
        let hash = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
        let mut pod = example();
        pod["metadata"]["annotations"] = json!({ "kubernetes.io/config.hash": hash });
        assert_eq!(read(pod.clone()).unwrap().cgroup_uid, "5f0c");
        pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!(hash);
        assert_eq!(read(pod.clone()).unwrap().cgroup_uid, hash);
        // Another pod's uid is no hash.
        pod["metadata"]["annotations"]["kubernetes.io/config.hash"] =
            json!("5f0c5a2e-8a4e-4a57-9c8e-2f3a4b5c6d7e");
        assert_eq!(read(pod).unwrap().cgroup_uid, "5f0c");
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_killed_then() {
        let mut pod = example();
        pod["metadata"]["deletionTimestamp"] = json!("2023-11-14T22:13:50Z");
        let read = read(pod).unwrap();
        let killed_at = read.containers[0].life.state.killed_at;
        assert_eq!(killed_at, Some(Mono(1_030_000_000_000)));
    }

    #[test]
    fn probes_of_another_host_do_not_ask_the_loop() {
        let mut pod = example();
        pod["spec"]["containers"][0]["livenessProbe"] =
            json!({ "httpGet": { "host": "10.0.0.1", "port": 80 } });
        let probe = read(pod).unwrap().containers[0]
            .life
            .probes
            .liveness
            .unwrap();
        assert_eq!(probe.handler, Handler::Exec);
    }

    #[test]
    fn a_host_that_is_the_pod_itself_is_no_other_host() {
        let handler = |network: bool, host: &str| {
            let mut pod = example();
            pod["spec"]["hostNetwork"] = json!(network);
            pod["status"]["podIP"] = json!("10.1.2.3");
            pod["status"]["podIPs"] = json!([{ "ip": "10.1.2.3" }, { "ip": "fd00::3" }]);
            for probe in ["httpGet", "tcpSocket"] {
                let named = json!({ probe: { "host": host, "port": 80 } });
                let name = if probe == "httpGet" {
                    "livenessProbe"
                } else {
                    "readinessProbe"
                };
                pod["spec"]["containers"][0][name] = named;
            }
            let probes = read(pod).unwrap().containers[0].life.probes.clone();
            let handlers = [probes.liveness, probes.readiness];
            handlers.map(|probe| probe.unwrap().handler)
        };
        let own = [
            Handler::HttpGet { port: 80 },
            Handler::TcpSocket { port: 80 },
        ];
        let other = [Handler::Exec; 2];
        // The kubelet connects from the node's network: its loopback is that of a pod on it, as those of the control plane are.
        for (network, host, expected) in [
            (true, "127.0.0.1", own),
            (true, "localhost", own),
            (true, "::1", own),
            (false, "127.0.0.1", other),
            (false, "10.1.2.3", own),
            (false, "fd00::3", own),
            (true, "10.1.2.4", other),
            (false, "example.org", other),
        ] {
            assert_eq!(handler(network, host), expected, "{host} {network}");
        }
    }

    #[test]
    fn a_container_that_was_added_for_debugging_has_its_name_and_no_probe() {
        let mut pod = example();
        pod["spec"]["ephemeralContainers"] =
            json!([{ "name": "debug", "livenessProbe": { "httpGet": { "port": 1 } } }]);
        pod["status"]["ephemeralContainerStatuses"] = json!([{ "name": "debug", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "containerID": "containerd://DEB" }]);
        let read = read(pod).unwrap();
        let debug = read.containers.last().unwrap();
        let known = (debug.name.as_str(), debug.id.as_deref());
        assert_eq!(known, ("debug", Some("deb")));
        assert_eq!(debug.life.probes.liveness, None);
    }

    #[test]
    fn other_annotations_under_our_prefix_hide_none_of_ours() {
        let mut pod = example();
        for number in 0..20 {
            let key = format!("loopwarden.dev/a{number}");
            pod["metadata"]["annotations"][key] = json!("x");
        }
        pod["metadata"]["annotations"]["loopwarden.dev/stall-after"] = json!("1s");
        let read = read(pod).unwrap();
        assert_eq!(read.annotations["mode"], "observe");
        assert_eq!(read.annotations["stall-after"], "1s");
        assert!(read.annotations.len() <= 8, "{:?}", read.annotations);
    }

    #[test]
    fn nonsense_is_no_probe_and_no_panic() {
        for port in [json!("nobody"), json!(-1), json!(70_000)] {
            let mut pod = example();
            pod["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"] = port;
            pod["spec"]["containers"][0]["startupProbe"]["periodSeconds"] = json!(-5);
            let read = read(pod).unwrap();
            assert_eq!(read.containers[0].life.probes.liveness, None);
            let startup = read.containers[0].life.probes.startup.unwrap();
            assert_eq!(startup.period, Duration::from_secs(10));
        }
        assert_eq!(read(json!({ "metadata": {} })), None);
    }

    #[test]
    fn a_gate_is_read_with_its_condition() {
        let mut pod = example();
        assert_eq!(read(pod.clone()).unwrap().gate, None);
        pod["spec"]["readinessGates"] = json!([{ "conditionType": "loopwarden.dev/engine-ready" }]);
        assert_eq!(read(pod.clone()).unwrap().gate, Some(Gate::default()));
        pod["status"]["conditions"] = json!([{ "type": "loopwarden.dev/engine-ready", "status": "True", "reason": "EngineAccepts" }]);
        let expected = Gate {
            status: Some(true),
            reason: "EngineAccepts".into(),
        };
        assert_eq!(read(pod).unwrap().gate, Some(expected));
    }

    #[test]
    fn long_annotations_are_cut() {
        let mut pod = example();
        pod["metadata"]["annotations"] = json!({ "loopwarden.dev/engine": "x".repeat(100_000) });
        assert_eq!(read(pod).unwrap().annotations["engine"].len(), 512);
    }
}
