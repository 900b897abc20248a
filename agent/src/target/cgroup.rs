//! CPU throttling of a process's cgroup and of those above it, read from files that are opened ahead of need.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mounts::Mounts;
use crate::pipeline::Pid;

/// Cgroups above a process's own that are looked at: a pod has about five.
const MOST_LEVELS: usize = 12;

/// The `cpu.stat` of a cgroup, and of those above it: a quota of any of them throttles.
#[derive(Debug)]
pub struct CpuStat {
    /// Innermost first.
    files: Vec<File>,
    /// Of the innermost.
    folder: PathBuf,
}

/// What they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    /// How long, as far as throttlings have ended.
    pub time: Duration,
    /// How often, as far as they have begun.
    pub count: u64,
}

impl CpuStat {
    /// Opens the files for a process; `None` if the cgroup has no CPU controller or the host's mount is not to be seen.
    #[must_use]
    pub fn open(pid: Pid) -> Option<Self> {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let folders = Mounts::read().ok()?.folders(&cgroups, "cpu");
        folders
            .iter()
            .find_map(|folder| Self::open_levels(&folder.mount, &folder.path))
    }

    fn open_levels(mount: &Path, path: &Path) -> Option<Self> {
        let files: Vec<File> = path
            .ancestors()
            .take_while(|folder| folder.starts_with(mount))
            .take(MOST_LEVELS)
            .filter_map(|folder| File::open(folder.join("cpu.stat")).ok())
            .collect();
        let folder = path.to_owned();
        let found = Self { files, folder };
        found.throttling().map(|_| found)
    }

    /// Whether both are of the same cgroup.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.folder == other.folder
    }

    /// How long the cgroups were throttled so far; `None` if no file says.
    #[must_use]
    pub fn throttled(&self) -> Option<Duration> {
        self.throttling().map(|throttling| throttling.time)
    }

    /// How long and how often; `None` if no file says.
    #[must_use]
    pub fn throttling(&self) -> Option<Throttling> {
        let read = |file: &File| {
            let mut bytes = [0; 1024];
            let length = file.read_at(&mut bytes, 0).ok()?;
            parse(&String::from_utf8_lossy(&bytes[..length]))
        };
        self.files
            .iter()
            .filter_map(read)
            .reduce(|sum, level| Throttling {
                time: sum.time + level.time,
                count: sum.count + level.count,
            })
    }
}

fn parse(text: &str) -> Option<Throttling> {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    let time = value("throttled_usec ")
        .map(Duration::from_micros)
        .or_else(|| value("throttled_time ").map(Duration::from_nanos))?;
    Some(Throttling {
        time,
        count: value("nr_throttled ").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_is_read_in_both_forms() {
        assert_eq!(
            parse("nr_periods 5\nthrottled_usec 1500\n"),
            Some(Throttling {
                time: Duration::from_micros(1500),
                count: 0
            })
        );
        assert_eq!(
            parse("nr_periods 5\nnr_throttled 1\nthrottled_time 2000\n"),
            Some(Throttling {
                time: Duration::from_micros(2),
                count: 1
            })
        );
        assert_eq!(parse("usage_usec 5\n"), None);
    }
}
