//! What a node is made of: Debian's packages, and Kubernetes, built once from its Go modules into the cache.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::hex;
use crate::golang::Go;
use crate::{cmd, layout, setup};

/// 1.35 and later refuse cgroup v1 unless told otherwise, and CI machines may have it.
const VERSION: &str = "v1.34.4";
const PACKAGES: [&str; 7] = [
    "containerd",
    "runc",
    "etcd-server",
    "containernetworking-plugins",
    "busybox-static",
    "iptables",
    "iproute2",
];
/// The components that the one binary is called as.
const COMPONENTS: [&str; 5] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
];

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    kube: PathBuf,
}

impl Tools {
    /// Installs and builds what is missing, for a node of our own.
    pub(crate) fn prepare(cache: &Path) -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the node is only made for x86_64 so far: give a cluster by KUBECONFIG");
        }
        setup::need(&PACKAGES)?;
        Self::build(cache)
    }

    /// Builds Kubernetes if it is not there: some five minutes on two cores.
    pub(crate) fn build(cache: &Path) -> Result<Self> {
        let source = layout::root().join("xtask/kube");
        let kube = setup::part(cache, "kubernetes", &recipe(&source)?, |folder| {
            eprintln!(
                "building Kubernetes {VERSION} from its Go modules (some five minutes, once)"
            );
            build(&source, folder)
        })?;
        Ok(Self { kube })
    }

    /// A component of Kubernetes.
    pub(crate) fn component(&self, name: &str) -> PathBuf {
        self.kube.join(name)
    }

    /// Where all components are.
    pub(crate) fn folder(&self) -> &Path {
        &self.kube
    }
}

/// A change of the sources is another recipe.
fn recipe(source: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for name in ["go.mod", "go.sum", "main.go"] {
        let file = source.join(name);
        hash.update(
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?,
        );
    }
    Ok(format!("{VERSION} {}", hex(&hash.finalize())))
}

fn build(source: &Path, folder: &Path) -> Result<()> {
    let go = Go::find()?;
    std::fs::create_dir_all(folder)?;
    let mut flags = "-s -w".to_owned();
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in [
            ("gitVersion", VERSION),
            ("gitMajor", "1"),
            ("gitMinor", "34"),
            ("gitTreeState", "clean"),
            ("gitCommit", "unknown"),
            ("buildDate", "1970-01-01T00:00:00Z"),
        ] {
            flags.extend([" -X ", package, ".", name, "=", value]);
        }
    }
    let binary = folder.join("kube");
    cmd::output(
        go.command()
            .args(["build", "-buildvcs=false", "-trimpath", "-mod=readonly"])
            .args(["-ldflags", &flags, "-o"])
            .arg(&binary)
            .arg(".")
            .env("CGO_ENABLED", "0")
            .current_dir(source),
    )?;
    for name in COMPONENTS {
        std::os::unix::fs::symlink("kube", folder.join(name))?;
    }
    Ok(())
}
