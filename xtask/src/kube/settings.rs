//! How each component of a node is set.

use std::path::{Path, PathBuf};

use super::image;
use super::node::{API_PORT, BRIDGE, ETCD, NODE, NODE_IP, SERVICE_NET, SUBNET};
use super::pki::Pki;

const ETCD_PEERS: &str = "http://127.0.0.1:22380";

/// Where containerd listens.
pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join("containerd.sock")
}

pub(crate) fn etcd(folder: &Path) -> Vec<String> {
    let url = format!("http://{ETCD}");
    flags(&[
        ("--data-dir", path(&folder.join("etcd"))),
        ("--listen-client-urls", url.clone()),
        ("--advertise-client-urls", url),
        ("--listen-peer-urls", ETCD_PEERS.into()),
        ("--initial-advertise-peer-urls", ETCD_PEERS.into()),
        ("--initial-cluster", format!("default={ETCD_PEERS}")),
        ("--unsafe-no-fsync", "true".into()),
    ])
}

pub(crate) fn api_server(pki: &Pki) -> Vec<String> {
    flags(&[
        ("--etcd-servers", format!("http://{ETCD}")),
        ("--bind-address", NODE_IP.into()),
        ("--advertise-address", NODE_IP.into()),
        ("--secure-port", API_PORT.to_string()),
        ("--tls-cert-file", path(&pki.path("server.crt"))),
        ("--tls-private-key-file", path(&pki.path("server.key"))),
        (
            "--kubelet-client-certificate",
            path(&pki.path("client.crt")),
        ),
        ("--kubelet-client-key", path(&pki.path("client.key"))),
        ("--token-auth-file", path(&pki.path("tokens.csv"))),
        ("--authorization-mode", "Node,RBAC".into()),
        ("--service-cluster-ip-range", SERVICE_NET.into()),
        ("--allow-privileged", "true".into()),
        // Straight from etcd: a past that it has forgotten is forgotten here, too.
        ("--watch-cache-sizes", "pods#0".into()),
        ("--kubelet-preferred-address-types", "InternalIP".into()),
        (
            "--service-account-issuer",
            "https://kubernetes.default.svc".into(),
        ),
        (
            "--service-account-signing-key-file",
            path(&pki.path("sa.key")),
        ),
        ("--service-account-key-file", path(&pki.path("sa.pub"))),
    ])
}

pub(crate) fn controllers(folder: &Path, pki: &Pki) -> Vec<String> {
    flags(&[
        ("--flex-volume-plugin-dir", path(&folder.join("plugins"))),
        ("--kubeconfig", path(&pki.path("admin.kubeconfig"))),
        ("--leader-elect", "false".into()),
        ("--bind-address", "127.0.0.1".into()),
        ("--secure-port", "20257".into()),
        ("--cert-dir", path(&pki.path("controllers"))),
        (
            "--service-account-private-key-file",
            path(&pki.path("sa.key")),
        ),
        ("--root-ca-file", path(&pki.path("ca.crt"))),
        // A slow machine is no lost node.
        ("--node-monitor-grace-period", "200s".into()),
    ])
}

pub(crate) fn scheduler(pki: &Pki) -> Vec<String> {
    flags(&[
        ("--kubeconfig", path(&pki.path("admin.kubeconfig"))),
        ("--leader-elect", "false".into()),
        ("--bind-address", "127.0.0.1".into()),
        ("--secure-port", "20259".into()),
        ("--cert-dir", path(&pki.path("scheduler"))),
    ])
}

pub(crate) fn kubelet_arguments(folder: &Path, pki: &Pki) -> Vec<String> {
    flags(&[
        ("--config", path(&folder.join("kubelet.yaml"))),
        ("--kubeconfig", path(&pki.path("node.kubeconfig"))),
        ("--hostname-override", NODE.into()),
        ("--node-ip", NODE_IP.into()),
        ("--root-dir", path(&folder.join("kubelet"))),
        ("--cert-dir", path(&pki.path("kubelet"))),
    ])
}

pub(crate) fn kubelet(folder: &Path, pki: &Pki) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {NODE_IP}
port: 20250
healthzPort: 20248
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {ca}}}}}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://{socket}
podLogsDir: {folder}/pods
volumePluginDir: {folder}/plugins
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
evictionHard: {{memory.available: 100Mi}}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
resolvConf: \"\"
clusterDomain: cluster.local
logging: {{verbosity: 4}}
",
        ca = path(&pki.path("ca.crt")),
        socket = path(&socket(folder)),
        folder = folder.display(),
    )
}

pub(crate) fn containerd(folder: &Path) -> String {
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "{folder}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # For machines without CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"#,
        folder = folder.display(),
        socket = path(&socket(folder)),
        pause = image::PAUSE,
    )
}

pub(crate) fn cni(folder: &Path) -> String {
    serde_json::json!({
        "cniVersion": "0.4.0", "name": "loopwarden",
        "plugins": [
            {"type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipam": {
                "type": "host-local", "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": folder.join("addresses"),
            }},
            {"type": "loopback"},
        ],
    })
    .to_string()
}

fn flags(flags: &[(&str, String)]) -> Vec<String> {
    flags
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
