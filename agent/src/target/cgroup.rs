//! CPU throttling of a process's cgroup, read from a file that is opened ahead of need.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pipeline::Pid;

/// The `cpu.stat` of a cgroup.
#[derive(Debug)]
pub struct CpuStat {
    file: File,
}

impl CpuStat {
    /// Opens the file for a process; `None` if the cgroup has no CPU controller or the host's mount is not to be seen.
    #[must_use]
    pub fn open(pid: Pid) -> Option<Self> {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        candidates(&cgroups, &mounts).into_iter().find_map(|path| {
            let file = File::open(path).ok()?;
            let found = Self { file };
            found.throttled().map(|_| found)
        })
    }

    /// How long the cgroup was throttled so far; `None` if the file does not say.
    #[must_use]
    pub fn throttled(&self) -> Option<Duration> {
        let mut bytes = [0; 1024];
        let length = self.file.read_at(&mut bytes, 0).ok()?;
        parse(&String::from_utf8_lossy(&bytes[..length]))
    }
}

fn parse(text: &str) -> Option<Duration> {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    value("throttled_usec ")
        .map(Duration::from_micros)
        .or_else(|| value("throttled_time ").map(Duration::from_nanos))
}

/// Where the file can be: below the mount of the version that has the CPU controller.
fn candidates(cgroups: &str, mounts: &str) -> Vec<PathBuf> {
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
            found.push(Path::new(mount.point).join(rest).join("cpu.stat"));
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
            "/sys/fs/cgroup/cpu/kubepods/pod1/c/cpu.stat",
            "/sys/fs/cgroup/unified/kubepods/pod1/c/cpu.stat",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
        let outside = candidates("0::/../../pod2/c\n", MOUNTS);
        assert_eq!(
            outside,
            [PathBuf::from("/sys/fs/cgroup/unified/pod2/c/cpu.stat")]
        );
        assert!(candidates("nonsense\n", "nonsense\n").is_empty());
    }

    #[test]
    fn throttling_is_read_in_both_forms() {
        assert_eq!(
            parse("nr_periods 5\nthrottled_usec 1500\n"),
            Some(Duration::from_micros(1500))
        );
        assert_eq!(
            parse("nr_periods 5\nnr_throttled 1\nthrottled_time 2000\n"),
            Some(Duration::from_micros(2))
        );
        assert_eq!(parse("usage_usec 5\n"), None);
    }
}
