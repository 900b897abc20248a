//! A cgroup for one run: of version 1 where the machine has the controller there, else of version 2.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::scene::unable;
use crate::cmd;
use crate::litellm::process::{hold, signal_held};

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "freezer"];
/// Beyond what the group uses; enough for what happens before the stall.
const HEADROOM: u64 = 4 << 20;

/// Where a controller is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    folder: PathBuf,
    /// Version 2: one folder for all controllers.
    unified: bool,
}

/// The group; removed when dropped, after what is still in it was ended.
#[derive(Debug)]
pub(super) struct Cgroup {
    places: BTreeMap<&'static str, Place>,
}

impl Cgroup {
    pub(super) fn make(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
        let mut places = BTreeMap::new();
        for controller in CONTROLLERS {
            let Some(parent) = place(&mounts, controller) else {
                continue;
            };
            if parent.unified && controller != "freezer" && !enable(&parent.folder, controller) {
                continue;
            }
            let folder = parent.folder.join(name);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
            let unified = parent.unified;
            places.insert(controller, Place { folder, unified });
        }
        Ok(Self { places })
    }

    /// The folders whose `cgroup.procs` a process has to enter.
    pub(super) fn folders(&self) -> Vec<&Path> {
        let mut folders: Vec<&Path> = self
            .places
            .values()
            .map(|place| place.folder.as_path())
            .collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// Limits it to 3 % of a processor.
    pub(super) fn starve(&self, period_ms: u64) -> Result<()> {
        let place = self.place("cpu")?;
        let (period, quota) = (period_ms * 1000, period_ms * 30);
        if place.unified {
            return place.write("cpu.max", &format!("{quota} {period}"));
        }
        place.write("cpu.cfs_period_us", &period.to_string())?;
        place.write("cpu.cfs_quota_us", &quota.to_string())
    }

    /// Prefers it to all others that want processors.
    pub(super) fn favour(&self) -> Result<()> {
        let place = self.place("cpu")?;
        if place.unified {
            place.write("cpu.weight", "10000")
        } else {
            place.write("cpu.shares", "262144")
        }
    }

    pub(super) fn freeze(&self, frozen: bool) -> Result<()> {
        let place = self.place("freezer")?;
        match (place.unified, frozen) {
            (true, _) => place.write("cgroup.freeze", if frozen { "1" } else { "0" }),
            (false, true) => place.write("freezer.state", "FROZEN"),
            (false, false) => place.write("freezer.state", "THAWED"),
        }
    }

    /// Whether all of it is frozen by now, as far as the kernel tells.
    pub(super) fn is_frozen(&self) -> bool {
        let Ok(place) = self.place("freezer") else {
            return false;
        };
        let (file, word) = if place.unified {
            ("cgroup.events", "frozen 1")
        } else {
            ("freezer.state", "FROZEN")
        };
        place.read(file).is_ok_and(|text| text.contains(word))
    }

    /// Whoever needs more memory has to wait: throttled in version 2, paused instead of killed in version 1.
    pub(super) fn limit_memory(&self) -> Result<()> {
        let place = self.place("memory")?;
        if place.unified {
            let limit = place.number("memory.current")? + HEADROOM;
            return place.write("memory.high", &limit.to_string());
        }
        let limit = place.number("memory.usage_in_bytes")? + HEADROOM;
        place.write("memory.oom_control", "1")?;
        place.write("memory.limit_in_bytes", &limit.to_string())
    }

    pub(super) fn free_memory(&self) -> Result<()> {
        let place = self.place("memory")?;
        if place.unified {
            place.write("memory.high", "max")
        } else {
            place.write("memory.limit_in_bytes", "-1")
        }
    }

    fn place(&self, controller: &str) -> Result<&Place> {
        self.places.get(controller).ok_or_else(|| {
            unable(format!(
                "the cgroup controller {controller} is not to be had here"
            ))
        })
    }

    fn remove(&self) {
        let end = cmd::now() + Duration::from_secs(5);
        for folder in self.folders() {
            while fs::remove_dir(folder).is_err() && folder.exists() && cmd::now() < end {
                let inside = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                for pid in inside.lines().filter_map(|line| line.parse().ok()) {
                    if let Some(process) = hold(pid) {
                        signal_held(&process, Signal::KILL);
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A frozen process cannot end, and one that waits for memory should not have to be killed.
        let _ = self.freeze(false);
        let _ = self.free_memory();
        self.remove();
    }
}

impl Place {
    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, value).map_err(|error| {
            unable(format!(
                "{value} cannot be written to {}: {error}",
                path.display()
            ))
        })
    }

    fn number(&self, file: &str) -> Result<u64> {
        let text = self.read(file)?;
        text.trim().parse().with_context(|| {
            let path = self.folder.join(file);
            format!("{} holds no number: {text:?}", path.display())
        })
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.folder.join(file);
        fs::read_to_string(&path)
            .map_err(|error| unable(format!("{} cannot be read: {error}", path.display())))
    }
}

/// Where a controller is mounted.
fn place(mounts: &str, controller: &str) -> Option<Place> {
    let found = |kind: &str, fits: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (folder, this, options) = (words.next()?, words.next()?, words.next()?);
            (this == kind && fits(folder, options)).then(|| PathBuf::from(folder))
        })
    };
    let old = found("cgroup", &|_, options| {
        options.split(',').any(|option| option == controller)
    });
    let as_old = old.map(|folder| Place {
        folder,
        unified: false,
    });
    as_old.or_else(|| {
        let folder = found("cgroup2", &|_, _| true)?;
        Some(Place {
            folder,
            unified: true,
        })
    })
}

/// Whether children of the root of version 2 have the controller; gives it to them where that is missing.
fn enable(root: &Path, controller: &str) -> bool {
    let file = root.join("cgroup.subtree_control");
    let has = || {
        fs::read_to_string(&file)
            .is_ok_and(|text| text.split_whitespace().any(|word| word == controller))
    };
    has() || (fs::write(&file, format!("+{controller}")).is_ok() && has())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_of_version_1_is_preferred_and_found_by_its_whole_name() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let of = |folder: &str, unified| {
            Some(Place {
                folder: folder.into(),
                unified,
            })
        };
        assert_eq!(
            place(mounts, "cpu"),
            of("/sys/fs/cgroup/cpu,cpuacct", false)
        );
        assert_eq!(place(mounts, "memory"), of("/sys/fs/cgroup/unified", true));
        assert_eq!(place("proc /proc proc rw 0 0\n", "cpu"), None);
    }
}
