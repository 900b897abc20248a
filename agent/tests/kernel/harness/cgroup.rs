//! Cgroups of a test's own, below the one that the test runs in.

use std::path::PathBuf;

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

impl Cgroup {
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
