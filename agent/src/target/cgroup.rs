//! CPU throttling of a process's cgroup and of those above it, read from files that are opened ahead of need.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pipeline::Pid;

/// Cgroups above a process's own that are looked at: a pod has about five.
const MOST_LEVELS: usize = 12;

/// The `cpu.stat` of a cgroup, and of those above it: a quota of any of them throttles.
#[derive(Debug)]
pub struct CpuStat {
    /// Innermost first.
    files: Vec<File>,
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
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        candidates(&cgroups, &mounts)
            .into_iter()
            .find_map(|(mount, path)| Self::open_levels(&mount, &path))
    }

    fn open_levels(mount: &Path, path: &Path) -> Option<Self> {
        let files: Vec<File> = path
            .ancestors()
            .take_while(|folder| folder.starts_with(mount))
            .take(MOST_LEVELS)
            .filter_map(|folder| File::open(folder.join("cpu.stat")).ok())
            .collect();
        let found = Self { files };
        found.throttling().map(|_| found)
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

/// Where the cgroup can be: a mount of the version that has the CPU controller, and the folder below it.
fn candidates(cgroups: &str, mounts: &str) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let wanted = |mount: &Mount<'_>| match controllers {
            "" => mount.kind == "cgroup2",
            names => {
                names.split(',').any(|name| name == "cpu")
                    && mount.kind == "cgroup"
                    && mount.options.split(',').any(|option| option == "cpu")
            }
        };
        for mount in mounts.lines().filter_map(Mount::parse).filter(wanted) {
            // Read from a cgroup namespace of its own, a path outside of it begins with `/..`: below the host's mount the
            // rest of it is the way.
            let rest = path.trim_start_matches("/..").trim_start_matches('/');
            let mount = PathBuf::from(mount.point);
            let folder = mount.join(rest);
            found.push((mount, folder));
        }
    }
    found
}

/// A line of mountinfo.
struct Mount<'a> {
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let kind = after.next()?;
        Some(Self {
            point,
            kind,
            options: after.nth(1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
34 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn the_file_is_found_in_both_versions() {
        let paths = candidates(
            "4:cpu,cpuacct:/kubepods/pod1/c\n3:cpuset:/x\n0::/kubepods/pod1/c\n",
            MOUNTS,
        );
        let expected = [
            ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu/kubepods/pod1/c"),
            (
                "/sys/fs/cgroup/unified",
                "/sys/fs/cgroup/unified/kubepods/pod1/c",
            ),
        ];
        let both = |(mount, folder)| (PathBuf::from(mount), PathBuf::from(folder));
        assert_eq!(paths, expected.map(both));
        let outside = candidates("0::/../../pod2/c\n", MOUNTS);
        assert_eq!(
            outside,
            [both((
                "/sys/fs/cgroup/unified",
                "/sys/fs/cgroup/unified/pod2/c"
            ))]
        );
        assert!(candidates("nonsense\n", "nonsense\n").is_empty());
    }

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
