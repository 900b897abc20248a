//! What a node changes on the machine, and how that is undone: a bridge, two rules of iptables, settings that a kubelet makes, folders.
//!
//! What was there before is written down in the node's folder before it is changed, so that a later run can undo it, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::node::{API_PORT, BRIDGE, NODE_IP, NODE_NET, SERVICE_IP, SUBNET};
use crate::cmd;

/// What kubelet and CNI plugins set.
const SETTINGS: [&str; 8] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Folders whose names are fixed in the programs.
const FOLDERS: [&str; 5] = [
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/lib/cni",
    "/opt/containerd",
    "/run/containerd",
];
const SAVED: &str = "before.json";

/// How the machine was.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    settings: BTreeMap<String, String>,
    /// Folders that were not there.
    absent: Vec<PathBuf>,
}

/// Prepares the machine for a node.
pub(crate) fn change(folder: &Path) -> Result<()> {
    refuse_neighbours()?;
    let before = Before {
        settings: SETTINGS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), fs::read_to_string(setting(name)).ok()?)))
            .collect(),
        absent: FOLDERS
            .iter()
            .map(PathBuf::from)
            .filter(|path| !path.exists())
            .collect(),
    };
    let saved = folder.join(SAVED);
    fs::write(&saved, serde_json::to_string(&before)?)
        .with_context(|| format!("cannot write {}", saved.display()))?;
    run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
    run("ip", &["addr", "add", NODE_NET, "dev", BRIDGE])?;
    run("ip", &["link", "set", BRIDGE, "up"])?;
    for chain in ["PREROUTING", "OUTPUT"] {
        // Pods reach the API server under its service address, as they would through kube-proxy.
        let service = format!("{SERVICE_IP}/32");
        let target = format!("{NODE_IP}:{API_PORT}");
        run(
            "iptables",
            &[
                "-w",
                "10",
                "-t",
                "nat",
                "-A",
                chain,
                "-d",
                &service,
                "-p",
                "tcp",
                "--dport",
                "443",
                "-j",
                "DNAT",
                "--to-destination",
                &target,
            ],
        )?;
    }
    Ok(())
}

/// Undoes it; what cannot be undone is told.
pub(crate) fn restore(folder: &Path) {
    for error in [remove_rules(), remove_bridge(), restore_saved(folder)]
        .into_iter()
        .filter_map(Result::err)
    {
        eprintln!("kube: {error:#}");
    }
}

fn restore_saved(folder: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(folder.join(SAVED)) else {
        return Ok(());
    };
    let before: Before = serde_json::from_str(&text).context("cannot read what was before")?;
    for (name, value) in before.settings {
        let path = setting(&name);
        if SETTINGS.contains(&name.as_str())
            && fs::read_to_string(&path).is_ok_and(|now| now != value)
        {
            fs::write(&path, &value)
                .with_context(|| format!("cannot restore {}", path.display()))?;
        }
    }
    for path in before.absent {
        if FOLDERS.iter().any(|known| Path::new(known) == path) && path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    fs::remove_file(folder.join(SAVED))?;
    Ok(())
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn remove_bridge() -> Result<()> {
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        run("ip", &["link", "del", BRIDGE])?;
    }
    Ok(())
}

/// Nothing else uses the service address.
fn remove_rules() -> Result<()> {
    if !cmd::on_path("iptables") {
        return Ok(());
    }
    let rules = cmd::output(Command::new("iptables").args(["-w", "10", "-t", "nat", "-S"]))?;
    for rule in rules.lines().filter(|rule| is_ours(rule)) {
        let words = rule.split_whitespace().skip(1);
        cmd::output(
            Command::new("iptables")
                .args(["-w", "10", "-t", "nat", "-D"])
                .args(words),
        )?;
    }
    Ok(())
}

fn is_ours(rule: &str) -> bool {
    rule.starts_with("-A ") && rule.contains(&format!(" -d {SERVICE_IP}/32 "))
}

/// Two kubelets on one machine remove each other's cgroups, and a route to the same addresses leads elsewhere.
fn refuse_neighbours() -> Result<()> {
    for pods in pod_cgroups() {
        if has_processes(&pods) {
            bail!(
                "{} holds processes: another kubelet runs on this machine; give its cluster by KUBECONFIG, or end it",
                pods.display()
            );
        }
    }
    let routes = cmd::output(Command::new("ip").args(["-4", "route"]))?;
    if let Some(route) = routes.lines().find(|route| route.starts_with(SUBNET)) {
        bail!("the machine has a route to {SUBNET} already, which the pods are to have: {route}");
    }
    Ok(())
}

/// Removes the cgroups that a kubelet leaves behind, if nobody is in them.
pub(crate) fn remove_cgroups() {
    for pods in pod_cgroups() {
        if !has_processes(&pods) {
            remove_tree(&pods);
        }
    }
}

/// `kubepods` in each hierarchy.
fn pod_cgroups() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten();
    hierarchies
        .map(|entry| entry.path())
        .chain([top.to_owned()])
        .flat_map(|hierarchy| ["kubepods", "kubepods.slice"].map(|name| hierarchy.join(name)))
        .filter(|path| path.is_dir())
        .collect()
}

fn has_processes(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty())
        || below(cgroup).iter().any(|child| has_processes(child))
}

fn remove_tree(cgroup: &Path) {
    for child in below(cgroup) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(cgroup);
}

fn below(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    cmd::output(Command::new(program).args(args)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_for_the_service_address_are_ours() {
        let rule = format!("-A OUTPUT -d {SERVICE_IP}/32 -p tcp -m tcp --dport 443 -j DNAT");
        assert!(is_ours(&rule));
        assert!(!is_ours(&rule.replace(SERVICE_IP, "10.96.0.1")));
        assert!(!is_ours("-P OUTPUT ACCEPT"));
    }
}
