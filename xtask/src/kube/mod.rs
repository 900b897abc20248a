//! `cargo xtask kube`: the Kubernetes tests, on the cluster that KUBECONFIG names or on a real node of their own.
//!
//! A node of their own is etcd, the API server, controllers, scheduler and kubelet, built from their Go modules, and Debian's
//! containerd; see `node`. It changes the machine (a bridge, two rules of iptables, cgroups) and undoes that at the end.
//!
//! Pods run in a namespace of the run's own. Only processes that the run has started, and those of its own pods, are signalled.

mod account;
mod cluster;
mod etcd;
mod image;
mod kubectl;
mod kubelet_log;
mod leftovers;
mod machine;
mod node;
mod pki;
mod process;
mod rows;
mod settings;
mod tools;
mod wire;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::litellm::{stop, verdict};
use crate::setup;
use cluster::Cluster;
use node::Node;
use rows::Row;

/// Arguments
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    only: Option<Only>,
    /// The long forms: every probe several times, and the figures themselves as criteria
    #[arg(long)]
    full: bool,
    /// Leave the node running, and print how to reach it
    #[arg(long)]
    keep: bool,
    /// The agent to test, instead of this workspace's own, built for the purpose
    #[arg(long, value_name = "BIN")]
    guard: Option<PathBuf>,
    /// Which tests; all without any
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Only {
    /// Bring a node up, leave it running, and print how to reach it
    Up,
    /// End a node that was left running, and undo what it has changed on the machine
    Down,
    /// Write the images of the tests as archives, for a cluster of one's own: `ctr -n k8s.io images import`, `kind load image-archive`
    Images,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    stop::listen()?;
    match args.only {
        Some(Only::Up) => {
            leave(Node::up(true)?);
            Ok(())
        }
        Some(Only::Down) => node::down(),
        Some(Only::Images) => images(),
        None => tests(args),
    }
}

fn tests(args: &Args) -> Result<()> {
    if let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
        let cluster = Cluster::named(PathBuf::from(kubeconfig))?;
        return verdict(&rows::run(args, &cluster)?);
    }
    let node = Node::up(args.keep)?;
    let cluster = Cluster::of(&node)?;
    let checks = rows::run(args, &cluster);
    drop(cluster);
    if args.keep {
        leave(node);
    }
    verdict(&checks?)
}

fn images() -> Result<()> {
    setup::need(&["busybox-static"])?;
    let folder = node::cache()?.join("images");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    for file in image::write_all(&folder)? {
        println!("{}", file.display());
    }
    Ok(())
}

fn leave(node: Node) {
    let kubectl = node.kubectl_program();
    let kubeconfig = node.leave();
    println!("export KUBECONFIG={}", kubeconfig.display());
    println!("export PATH=\"{}:$PATH\"", kubectl.display());
    eprintln!("kube: the node runs until `cargo xtask kube down`");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
