//! A node of our own: etcd, API server, controllers, scheduler, containerd and a kubelet, on this machine.
//!
//! It has a bridge with addresses of its own, and everything listens on that bridge or on loopback. There is at most one on a
//! machine. Its state is below one folder of the cache, which is emptied before it starts and after it has ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::kubectl::Kubectl;
use super::pki::Pki;
use super::tools::Tools;
use super::{image, leftovers, machine, settings};
use crate::litellm::process::{self, Process};
use crate::litellm::stop;
use crate::{cmd, setup};

/// The node's name.
pub(crate) const NODE: &str = "loopwarden";
/// The pods' network, and the node's own address in it.
pub(crate) const BRIDGE: &str = "loopwarden0";
pub(crate) const SUBNET: &str = "10.213.88.0/24";
pub(crate) const NODE_NET: &str = "10.213.88.1/24";
pub(crate) const NODE_IP: &str = "10.213.88.1";
pub(crate) const SERVICE_NET: &str = "10.213.89.0/24";
pub(crate) const SERVICE_IP: &str = "10.213.89.1";
/// Ports that no other cluster's programs listen on by default.
pub(crate) const API_PORT: u16 = 26_443;
pub(crate) const API: &str = "10.213.88.1:26443";
pub(crate) const ETCD: &str = "127.0.0.1:22379";

/// Of the control plane.
const NICE: &str = "10";
const START_LIMIT: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(200);

/// A running node; ended when dropped, unless it was left.
#[derive(Debug)]
pub(crate) struct Node {
    folder: PathBuf,
    components: Vec<Process>,
    tools: Tools,
    lasting: bool,
    _lock: File,
}

impl Node {
    /// Brings one up and waits until pods can run. A lasting one stays when this process ends.
    pub(crate) fn up(lasting: bool) -> Result<Self> {
        let start = cmd::now();
        if !setup::is_root()? {
            bail!("a node changes the machine's network and cgroups: run this as root");
        }
        let cache = cache()?;
        let lock = lock(&cache)?;
        let folder = folder(&cache);
        if leftovers::is_running(&folder, "kubelet") {
            bail!(
                "a node is up already: take it with KUBECONFIG={}, or end it by `cargo xtask kube down`",
                kubeconfig(&folder).display()
            );
        }
        let tools = Tools::prepare(&cache)?;
        leftovers::sweep(&folder)?;
        let _ = fs::remove_dir_all(folder.join("log"));
        for below in ["log", "images"] {
            fs::create_dir_all(folder.join(below))
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let mut node = Self {
            folder,
            components: Vec::new(),
            tools,
            lasting,
            _lock: lock,
        };
        if let Err(error) = node.start() {
            let logs = node.folder.join("log");
            return Err(error.context(format!(
                "no node came up; the logs are in {}",
                logs.display()
            )));
        }
        eprintln!(
            "kube: the node is ready after {:.1} s",
            start.elapsed().as_secs_f64()
        );
        Ok(node)
    }

    /// A client with all rights.
    pub(crate) fn kubectl(&self) -> Kubectl {
        let program = self.tools.component("kubectl");
        let discovery = self.folder.join("discovery");
        Kubectl::new(program, kubeconfig(&self.folder), discovery)
    }

    /// Where kubectl is.
    pub(crate) fn kubectl_program(&self) -> PathBuf {
        self.tools.folder().to_owned()
    }

    /// What the kubelet logs, at verbosity 4 and in UTC.
    pub(crate) fn kubelet_log(&self) -> PathBuf {
        self.folder.join("log/kubelet.log")
    }

    /// Leaves a lasting node running.
    pub(crate) fn leave(mut self) -> PathBuf {
        for component in self.components.drain(..) {
            component.leave();
        }
        kubeconfig(&self.folder)
    }

    fn start(&mut self) -> Result<()> {
        machine::change(&self.folder)?;
        let pki = Pki::create(self.folder.join("pki"))?;
        image::write_all(&self.folder.join("images"))?;
        self.remote("etcd", Path::new("etcd"), &settings::etcd(&self.folder))?;
        let api = settings::api_server(&pki);
        self.remote("apiserver", &self.tools.component("kube-apiserver"), &api)?;
        self.containerd()?;
        let kubectl = self.kubectl();
        self.wait("the API server", |_| Ok(kubectl.get_raw("/readyz").is_ok()))?;
        self.remote(
            "controllers",
            &self.tools.component("kube-controller-manager"),
            &settings::controllers(&self.folder, &pki),
        )?;
        self.remote(
            "scheduler",
            &self.tools.component("kube-scheduler"),
            &settings::scheduler(&pki),
        )?;
        fs::write(
            self.folder.join("kubelet.yaml"),
            settings::kubelet(&self.folder, &pki),
        )?;
        self.component(
            "kubelet",
            &self.tools.component("kubelet"),
            &settings::kubelet_arguments(&self.folder, &pki),
        )?;
        self.wait("the node", |_| Ok(kubectl.node_is_ready(NODE)))?;
        // Pods are refused before.
        self.wait("the default service account", |_| {
            Ok(kubectl.exists("default", "serviceaccount/default"))
        })
    }

    fn containerd(&mut self) -> Result<()> {
        let cni = self.folder.join("cni");
        fs::create_dir_all(&cni)?;
        fs::write(
            cni.join("10-loopwarden.conflist"),
            settings::cni(&self.folder),
        )?;
        let file = self.folder.join("containerd.toml");
        fs::write(&file, settings::containerd(&self.folder))?;
        let arguments = ["--config".to_owned(), file.display().to_string()];
        self.component("containerd", Path::new("containerd"), &arguments)?;
        self.wait("containerd", |node| {
            Ok(cmd::output(node.ctr().arg("version")).is_ok())
        })?;
        for entry in fs::read_dir(self.folder.join("images"))?.flatten() {
            cmd::output(
                self.ctr()
                    .args(["--namespace", "k8s.io", "images", "import"])
                    .arg(entry.path()),
            )?;
        }
        Ok(())
    }

    /// containerd's own client.
    pub(crate) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(settings::socket(&self.folder));
        command
    }

    /// A component that runs on another machine in most clusters: the node's processes come first here.
    fn remote(&mut self, name: &str, program: &Path, arguments: &[String]) -> Result<()> {
        let mut all = vec!["-n".into(), NICE.into(), program.display().to_string()];
        all.extend_from_slice(arguments);
        self.component(name, Path::new("nice"), &all)
    }

    fn component(&mut self, name: &str, program: &Path, arguments: &[String]) -> Result<()> {
        let log = process::log_file(&self.folder.join(format!("log/{name}.log")))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.folder)
            // No proxy of the machine's, and the log's times in UTC.
            .env_clear()
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .env("HOME", &self.folder)
            .env("TZ", "UTC")
            .stdout(log.try_clone()?)
            .stderr(log);
        let component = if self.lasting {
            Process::start_lasting(name, &mut command)?
        } else {
            Process::start(name, &mut command)?
        };
        let pid = component.pid();
        // Nothing of it is kept, so nothing needs an orderly end.
        self.components
            .push(component.ends_by(Signal::KILL, Duration::from_secs(5)));
        leftovers::note(&self.folder, name, pid)
    }

    /// Waits until something is there, and fails when a component ends meanwhile.
    fn wait(&mut self, what: &str, is_there: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let there = stop::wait_for(START_LIMIT, PAUSE, || {
            self.check()?;
            Ok(is_there(self)?.then_some(()))
        })?;
        there.with_context(|| format!("{what} is not there within {START_LIMIT:?}"))
    }

    /// Fails when a component has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        for component in &mut self.components {
            if let Some(status) = component.status()? {
                let name = component.name();
                let log = self.folder.join(format!("log/{name}.log"));
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!(
                    "{name} ended ({status}); it said:\n{}",
                    cmd::tail(&said, 15)
                );
            }
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.lasting && self.components.is_empty() {
            return;
        }
        // The kubelet is the last that was started.
        while let Some(component) = self.components.pop() {
            drop(component);
        }
        if let Err(error) = leftovers::sweep(&self.folder) {
            eprintln!("kube: {error:#}");
        }
    }
}

/// Ends a node that was left running, or what is left of one that was killed.
pub(crate) fn down() -> Result<()> {
    let cache = cache()?;
    let _lock = lock(&cache)?;
    leftovers::sweep(&folder(&cache))
}

/// Where the parts of a node are kept.
pub(crate) fn cache() -> Result<PathBuf> {
    let cache = setup::cache_dir()?.join("kube");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    cache
        .canonicalize()
        .with_context(|| format!("cannot find {}", cache.display()))
}

fn folder(cache: &Path) -> PathBuf {
    cache.join("node")
}

fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("pki/admin.kubeconfig")
}

/// Held while a node comes up, runs or goes down; a lasting one that was left holds none.
fn lock(cache: &Path) -> Result<File> {
    let file = cache.join("lock");
    let lock = File::create(&file).with_context(|| format!("cannot create {}", file.display()))?;
    if lock.try_lock().is_err() {
        bail!("another run of `cargo xtask kube` has a node on this machine: wait for its end");
    }
    Ok(lock)
}
