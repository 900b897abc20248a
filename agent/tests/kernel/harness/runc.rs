//! Real containers: runc starts them in cgroups named as the kubelet names them, with namespaces and a root of their own.
//!
//! All of a test's containers are in cgroups below one folder of its own, never below the real `kubepods`, where a kubelet of this
//! machine would tidy up. That folder and the one of runc's state carry the name of the run that made them: what a run that was
//! killed has left behind is known by it, and the next run ends it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::cgroup;
use super::victim::Victim;
use super::{LOOP, folder, program};
use crate::victim::FLAG;

/// How the names of folders begin that belong to these tests.
const MARK: &str = "loopwarden-runc-";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Whether such containers may be made here.
pub(crate) fn is_asked_for() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| value == "1");
    is_set("LOOPWARDEN_CI") || is_set("LOOPWARDEN_RUNC")
}

/// The two ways in which kubelets name cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Cgroupfs,
    Systemd,
}

impl Driver {
    /// The folder of a pod, below whatever the kubelet's are below.
    pub(crate) fn pod(self, uid: &str) -> String {
        match self {
            Self::Cgroupfs => format!("kubepods/burstable/pod{uid}"),
            Self::Systemd => format!(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
                uid.replace('-', "_")
            ),
        }
    }

    /// The folder of a container in its pod's.
    fn container(self, id: &str) -> String {
        match self {
            Self::Cgroupfs => id.to_owned(),
            Self::Systemd => format!("cri-containerd-{id}.scope"),
        }
    }
}

/// The PID namespace of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pids {
    Own,
    /// That of this process, as a container of the same pod with `shareProcessNamespace` has it.
    Of(u32),
    /// `hostPID`.
    Host,
}

/// A container that is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) driver: Driver,
    pub(crate) pod: &'a str,
    pub(crate) id: &'a str,
    pub(crate) pids: Pids,
}

/// What the containers of one test have in common; all of it goes with the test.
pub(crate) struct Ground {
    /// `loopwarden-runc-PID-START-NUMBER`, of the cgroups' folder and of that of runc's state and bundles.
    name: String,
    folder: PathBuf,
}

impl Ground {
    pub(crate) fn make() -> Result<Self> {
        static SWEPT: OnceLock<Result<(), String>> = OnceLock::new();
        let swept = SWEPT.get_or_init(|| sweep().map_err(|error| format!("{error:#}")));
        ensure!(
            swept.is_ok(),
            "cannot end what an earlier run has left behind: {swept:?}"
        );
        let own = std::process::id();
        let start = start_of(own).context("cannot read when this program was started")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{MARK}{own}-{start}-{number}");
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { name, folder })
    }

    /// Starts a container whose first process plays a part, and waits until it says that it is ready.
    pub(crate) fn start(&self, wanted: &Wanted<'_>, part: &[&str]) -> Result<Victim> {
        let bundle = self.bundle(wanted, part)?;
        let pid_file = bundle.join("pid");
        let mut create = self.runc("create");
        create
            .arg("--bundle")
            .arg(&bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(wanted.id);
        create.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = create
            .spawn()
            .with_context(|| missing("cannot start runc"))?;
        // The container has them when runc has ended.
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let status = child.wait().context("cannot wait for runc")?;
        ensure!(
            status.success(),
            "`runc create` ended with {status}; what it says is above"
        );
        let pid = std::fs::read_to_string(&pid_file)
            .with_context(|| format!("cannot read {}", pid_file.display()))?;
        let pid = pid.trim().parse().context("no process id of runc")?;
        let input = input.context("no stdin")?;
        let mut victim = Victim::of_another(pid, input, output.context("no stdout")?)?;
        self.ask("start", wanted.id)?;
        victim.answer("ready")?;
        Ok(victim)
    }

    /// Asks runc to do something with a container.
    pub(crate) fn ask(&self, what: &str, id: &str) -> Result<()> {
        let mut command = self.runc(what);
        command.arg(id).stdin(Stdio::null());
        let status = command
            .status()
            .with_context(|| missing("cannot start runc"))?;
        ensure!(status.success(), "`runc {what} {id}` ended with {status}");
        Ok(())
    }

    fn runc(&self, what: &str) -> Command {
        runc_of(&self.folder, what)
    }

    /// Where the cgroups of a pod are in a hierarchy, as processes have them in `/proc/PID/cgroup`.
    pub(crate) fn pod_path(&self, driver: Driver, uid: &str) -> String {
        format!("/{}/{}", self.name, driver.pod(uid))
    }

    /// Writes what runc needs to know.
    fn bundle(&self, wanted: &Wanted<'_>, part: &[&str]) -> Result<PathBuf> {
        let bundle = self.folder.join("bundles").join(wanted.id);
        let root = bundle.join("rootfs");
        std::fs::create_dir_all(&root)
            .with_context(|| format!("cannot make {}", root.display()))?;
        // The programs are linked dynamically: the machine's own libraries, which are links into /usr on most.
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
            bound(Path::new("/usr")),
            bound(folder()),
        ];
        for path in ["/bin", "/lib", "/lib64"].map(Path::new) {
            if let Ok(target) = std::fs::read_link(path) {
                let inside = root.join(path.strip_prefix("/")?);
                std::os::unix::fs::symlink(target, &inside)
                    .with_context(|| format!("cannot make {}", inside.display()))?;
            } else if path.exists() {
                mounts.push(bound(path));
            }
        }
        let words: Vec<String> = std::iter::once(program(LOOP).display().to_string())
            .chain([FLAG.to_owned()])
            .chain(part.iter().map(ToString::to_string))
            .collect();
        let path = self.pod_path(wanted.driver, wanted.pod);
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "hostname": "pod",
            "mounts": mounts,
            "process": {
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "args": words,
                // Claims to be another pod: nobody is to believe it.
                "env": ["PATH=/usr/bin", "HOSTNAME=other", "POD_NAME=other", "POD_UID=00000000-0000-0000-0000-000000000000"],
                "noNewPrivileges": true,
            },
            "linux": {
                "cgroupsPath": format!("{path}/{}", wanted.driver.container(wanted.id)),
                "namespaces": namespaces(wanted.pids),
            },
        });
        std::fs::write(bundle.join("config.json"), config.to_string())?;
        Ok(bundle)
    }
}

fn bound(path: &Path) -> Value {
    json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]})
}

fn namespaces(pids: Pids) -> Vec<Value> {
    let mut list: Vec<Value> = ["mount", "network", "ipc", "uts"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    match pids {
        Pids::Own => list.push(json!({"type": "pid"})),
        Pids::Of(pid) => list.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")})),
        Pids::Host => {}
    }
    // So do runtimes: with version 2 alone a container sees its own cgroup as the root.
    if !cgroup::has_version_1("cpu") {
        list.push(json!({"type": "cgroup"}));
    }
    list
}

fn runc_of(folder: &Path, what: &str) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(folder.join("state")).arg(what);
    command
}

fn missing(what: &str) -> String {
    format!("{what}: these tests need it (Debian: apt-get install --no-install-recommends runc)")
}

/// When a process was started, in clock ticks; an id alone can be reused.
fn start_of(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a folder was left behind by a run that is over.
fn is_left_behind(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(MARK) else {
        return false;
    };
    let mut numbers = rest.split('-').map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    u32::try_from(pid).is_ok_and(|pid| start_of(pid) != Some(start))
}

/// Ends what runs that were killed have left behind.
fn sweep() -> Result<()> {
    let places = cgroup::mounts()?.into_iter().chain([std::env::temp_dir()]);
    let mut left: Vec<String> = Vec::new();
    for place in places {
        let names = std::fs::read_dir(&place)
            .with_context(|| format!("cannot list {}", place.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        left.extend(names.filter(|name| is_left_behind(name)));
    }
    left.sort();
    left.dedup();
    for name in left {
        eprintln!("ending what an earlier run has left behind: {name}");
        end(&name, &std::env::temp_dir().join(&name))?;
    }
    Ok(())
}

/// Ends the containers of a test, and removes what was made for them.
fn end(name: &str, folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder.join("bundles"))
        .into_iter()
        .flatten()
    {
        let id = entry?.file_name();
        // A paused one cannot die; one that was never made, or is gone, cannot be deleted: both are fine, and what remains of
        // any is seen below.
        for words in [&["resume"][..], &["delete", "--force"]] {
            let mut command = runc_of(folder, words[0]);
            command.args(&words[1..]).arg(&id);
            command.stdin(Stdio::null()).stderr(Stdio::null());
            let _ = command.status();
        }
    }
    for mount in cgroup::mounts()? {
        cgroup::remove_all(&mount.join(name))?;
    }
    // Their roots have the machine's own folders mounted, in the containers' mount namespaces only.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let shown = folder.display().to_string();
    ensure!(
        !mounts.contains(&shown),
        "something is mounted below {shown}"
    );
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = end(&self.name, &self.folder) {
            eprintln!(
                "{} is left behind, for the next run to end: {error:#}",
                self.name
            );
        }
    }
}

/// The id out here of a child that its parent knows under another: the number of its innermost PID namespace.
pub(crate) fn host_pid(parent: u32, number: u32) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let is_it = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let innermost = numbers.and_then(|numbers| numbers.split_whitespace().last());
        innermost == Some(number.to_string().as_str())
    };
    children
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .find(is_it)
        .with_context(|| format!("{parent} has no child {number}, of its children {children}"))
}
