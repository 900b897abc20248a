//! The folder for what one run writes. Removed at the end of the run; what a killed run has left behind, its processes and its
//! folder, is removed by the next.
//!
//! A run holds a lock in its folder. All its processes have their working directory below it, so leftovers can be told by that.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::process;

const PREFIX: &str = "loopwarden-litellm-";
const LOCK: &str = "lock";

/// A run's own folder. Other users may pass through it, since `PostgreSQL` runs as one of them, but not list it.
#[derive(Debug)]
pub(crate) struct RunDir {
    folder: tempfile::TempDir,
    _lock: File,
}

impl RunDir {
    /// Removes what dead runs have left behind and makes a new folder.
    pub(crate) fn create() -> Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o711))
            .tempdir_in(&parent)
            .with_context(|| format!("cannot create a folder in {}", parent.display()))?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.lock().context("cannot lock the run's own folder")?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Leaves the folder behind, for a look at the logs. The databases are not part of that.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        // Without a lock it belongs to whoever looks at it.
        let _ = fs::remove_file(self.path(LOCK));
        for entry in fs::read_dir(self.folder.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.path().join("PG_VERSION").is_file() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        self.folder.path().to_owned()
    }
}

fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|found| {
                found.is_dir() && found.uid() == rustix::process::geteuid().as_raw()
            });
        let folder = entry.path();
        // Whoever can lock it has proof that its run is gone.
        let Some(Ok(lock)) = is_ours.then(|| File::open(folder.join(LOCK))) else {
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        let left = processes_below(&folder);
        eprintln!(
            "litellm: removing {} of a run that was killed, and {} processes",
            folder.display(),
            left.len()
        );
        for process in left {
            process::signal_held(&process, Signal::KILL);
        }
        if let Err(err) = fs::remove_dir_all(&folder) {
            eprintln!("litellm: cannot remove {}: {err}", folder.display());
        }
    }
}

fn processes_below(folder: &Path) -> Vec<OwnedFd> {
    let is_below = |pid: u32| {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    };
    process::all()
        .into_iter()
        .filter(|pid| is_below(*pid))
        .filter_map(|pid| {
            let held = process::hold(pid)?;
            // Only now is it certain that the pidfd is the process whose folder was read.
            is_below(pid).then_some(held)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_dead_run_has_left_is_removed_and_a_living_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = parent.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&folder).unwrap();
            folder
        };
        let (dead, living, kept) = (folder("dead"), folder("living"), folder("kept"));
        File::create(dead.join(LOCK)).unwrap();
        let lock = File::create(living.join(LOCK)).unwrap();
        lock.lock().unwrap();
        let mut left = Command::new("sleep")
            .arg("1000")
            .current_dir(&dead)
            .spawn()
            .unwrap();
        sweep(parent.path());
        // Returns only because the sweep has killed it.
        assert!(!left.wait().unwrap().success());
        assert!(!dead.exists() && living.exists() && kept.exists());
    }
}
