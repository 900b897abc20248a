//! Cgroups of a test's own, below the one that the test runs in; and those that a container runtime makes for a test.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::alive;

/// A cgroup; it thaws and goes with the test.
pub(crate) struct Cgroup {
    path: PathBuf,
    is_version_2: bool,
}

/// Whether a controller of version 1 is mounted.
pub(crate) fn has_version_1(controller: &str) -> bool {
    mount(Some(controller)).is_ok_and(|mount| mount.is_some())
}

/// Where version 2 is mounted, or a controller of version 1.
fn mount(controller: Option<&str>) -> Result<Option<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let is_wanted = |line: &&str| {
        let Some((_, after)) = line.split_once(" - ") else {
            return false;
        };
        let mut words = after.split(' ');
        let (kind, options) = (words.next(), words.nth(1).unwrap_or_default());
        match controller {
            Some(name) => kind == Some("cgroup") && options.split(',').any(|option| option == name),
            None => kind == Some("cgroup2"),
        }
    };
    let line = mounts.lines().find(is_wanted);
    Ok(line
        .and_then(|line| line.split(' ').nth(4))
        .map(PathBuf::from))
}

/// Where cgroup file systems are mounted.
pub(crate) fn mounts() -> Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let path_of = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let is_cgroup = after.starts_with("cgroup ") || after.starts_with("cgroup2 ");
        is_cgroup.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    };
    Ok(mounts.lines().filter_map(path_of).collect())
}

/// The folders of a process's cgroups, one a hierarchy, without those where it is in the root.
pub(crate) fn folders_of(pid: u32) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mut folders = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = parts.next().zip(parts.next()).context("no cgroup")?;
        let first = controllers
            .split(',')
            .next()
            .filter(|name| !name.is_empty());
        if path != "/"
            && let Some(mount) = mount(first)?
        {
            folders.push(mount.join(path.trim_start_matches('/')));
        }
    }
    Ok(folders)
}

/// Has a process use version 1 alone where both are mounted, as most runtimes have it.
pub(crate) fn leave_version_2(pid: u32) -> Result<()> {
    match mount(None)? {
        Some(root) if has_version_1("cpu") => move_below(std::slice::from_ref(&root), "", pid),
        _ => Ok(()),
    }
}

/// Moves a process into the folder of that name below each of those, or into those themselves if the name is empty.
pub(crate) fn move_below(folders: &[PathBuf], name: &str, pid: u32) -> Result<()> {
    for folder in folders {
        let below = folder.join(name);
        std::fs::create_dir_all(&below)
            .with_context(|| format!("cannot make {}", below.display()))?;
        // The controller of processor sets takes nobody in before it is told which; others have no such files.
        let mut at = folder.clone();
        for part in Path::new(name) {
            let above = at.clone();
            at.push(part);
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = std::fs::read_to_string(above.join(file)) {
                    let _ = std::fs::write(at.join(file), value);
                }
            }
        }
        std::fs::write(below.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("cannot move {pid} to {}", below.display()))?;
    }
    Ok(())
}

/// Ends whoever is still in a test's cgroup or below it, and removes it.
pub(crate) fn remove_all(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        }
    }
    alive::until(
        &format!("{} is empty and removed", folder.display()),
        || {
            let procs = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            for pid in procs.lines().filter_map(|line| line.parse().ok()) {
                // Only what these tests have started is in such a folder; who has ended meanwhile is fine.
                let _ = alive::signal(pid, libc::SIGKILL);
            }
            std::fs::remove_dir(folder).is_ok() || !folder.exists()
        },
    )
}

impl Cgroup {
    /// One with a CPU controller that somebody else has made.
    pub(crate) fn with_cpu_at(path: &str) -> Result<Self> {
        let controller = has_version_1("cpu").then_some("cpu");
        let mount = mount(controller)?.context("no cgroups with a CPU controller are mounted")?;
        Ok(Self {
            path: mount.join(path.trim_start_matches('/')),
            is_version_2: controller.is_none(),
        })
    }

    /// One of version 2.
    pub(crate) fn version_2(name: &str) -> Result<Self> {
        Self::make(None, name)
    }

    /// One of a controller of version 1.
    pub(crate) fn version_1(controller: &str, name: &str) -> Result<Self> {
        Self::make(Some(controller), name)
    }

    /// One with a CPU controller, of the version that has it.
    pub(crate) fn with_cpu(name: &str) -> Result<Self> {
        if has_version_1("cpu") {
            return Self::version_1("cpu", name);
        }
        let root = mount(None)?.context("no cgroup2 is mounted")?;
        std::fs::write(root.join("cgroup.subtree_control"), "+cpu")
            .context("cannot have the CPU controller in cgroups below the root")?;
        Self::version_2(name)
    }

    fn make(controller: Option<&str>, name: &str) -> Result<Self> {
        let mount = mount(controller)?.context("that cgroup file system is not mounted")?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let is_own = |line: &&str| {
            let controllers = line.split(':').nth(1).unwrap_or_default();
            match controller {
                Some(name) => controllers.split(',').any(|own| own == name),
                None => controllers.is_empty(),
            }
        };
        let own = own.lines().find(is_own).context("no cgroup of that kind")?;
        let own = own.splitn(3, ':').nth(2).unwrap_or_default();
        let path = mount.join(own.trim_start_matches('/')).join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            path,
            is_version_2: controller.is_none(),
        })
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        std::fs::write(&path, text)
            .with_context(|| format!("cannot write {text} to {}", path.display()))
    }

    fn has(&self, file: &str, wanted: &str) -> bool {
        std::fs::read_to_string(self.path.join(file))
            .is_ok_and(|text| text.lines().any(|line| line == wanted))
    }

    /// Takes a process in.
    pub(crate) fn take(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Freezes or thaws it, and waits until it is.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, word, state, wanted) = match (self.is_version_2, frozen) {
            (true, true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (true, false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
            (false, true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
        };
        self.write(file, word)?;
        alive::until(wanted, || self.has(state, wanted))
    }

    /// Gives it so many percent of a CPU.
    pub(crate) fn limit_to_percent(&self, percent: u32) -> Result<()> {
        let quota = percent * 1000;
        if self.is_version_2 {
            self.write("cpu.max", &format!("{quota} 100000"))
        } else {
            self.write("cpu.cfs_quota_us", &quota.to_string())
        }
    }

    /// How long it was throttled so far.
    pub(crate) fn throttled_ns(&self) -> Result<u64> {
        let text = std::fs::read_to_string(self.path.join("cpu.stat"))?;
        let value = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        let nanoseconds = value("throttled_time ");
        nanoseconds
            .or_else(|| value("throttled_usec ").map(|micros| micros * 1000))
            .context("cpu.stat says nothing of throttling")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // After a failed test a process may be in it still: it must not stay frozen, and the folder can stay.
        let _ = if self.is_version_2 {
            std::fs::write(self.path.join("cgroup.freeze"), "0")
        } else {
            std::fs::write(self.path.join("freezer.state"), "THAWED")
        };
        let _ = std::fs::remove_dir(&self.path);
    }
}
