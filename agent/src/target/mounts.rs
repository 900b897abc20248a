//! Where a process's cgroup is to be found: below the cgroup file systems that are mounted here.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// A node's mountinfo has a line for each mount of each container: some MiB at most.
const MOST_OF_MOUNTINFO: u64 = 16 << 20;

/// The cgroup file systems that are to be seen here.
#[derive(Debug, Default)]
pub struct Mounts(Vec<Mount>);

#[derive(Debug)]
struct Mount {
    point: PathBuf,
    /// Those of version 1; `None` for version 2, where a folder has all that there are.
    controllers: Option<Vec<String>>,
}

/// A cgroup's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where it should be.
    pub path: PathBuf,
    /// The mount that it is below.
    pub mount: PathBuf,
    /// Version 2.
    pub unified: bool,
}

impl Mounts {
    /// Lists them.
    pub fn read() -> io::Result<Self> {
        read_bounded("/proc/self/mountinfo", MOST_OF_MOUNTINFO).map(|text| Self::parse(&text))
    }

    fn parse(mountinfo: &str) -> Self {
        Self(mountinfo.lines().filter_map(Mount::parse).collect())
    }

    /// The folders in which files of a controller can be, for a process with these lines in `/proc/PID/cgroup`.
    #[must_use]
    pub fn folders(&self, cgroups: &str, controller: &str) -> Vec<Folder> {
        let mut found = Vec::new();
        for line in cgroups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(of_line), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let unified = of_line.is_empty();
            if !unified && !of_line.split(',').any(|name| name == controller) {
                continue;
            }
            // Read from a cgroup namespace of its own, a path outside of it begins with `/..`: below the host's mount the
            // rest of it is the way.
            let rest = path.trim_start_matches("/..").trim_start_matches('/');
            for mount in self
                .of(controller)
                .filter(|mount| mount.unified() == unified)
            {
                found.push(Folder {
                    path: mount.point.join(rest),
                    mount: mount.point.clone(),
                    unified,
                });
            }
        }
        found
    }

    /// Whether any mount can have files of a controller.
    #[must_use]
    pub fn have(&self, controller: &str) -> bool {
        self.of(controller).next().is_some()
    }

    fn of(&self, controller: &str) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(move |mount| {
            let of_mount = mount.controllers.as_ref();
            of_mount.is_none_or(|names| names.iter().any(|name| name == controller))
        })
    }
}

impl Mount {
    /// From a line of mountinfo; `None` if it mounts something else.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let point = Path::new(before.split(' ').nth(4)?).to_owned();
        let mut after = after.split(' ');
        let controllers = match after.next()? {
            "cgroup2" => None,
            "cgroup" => Some(after.nth(1)?.split(',').map(str::to_owned).collect()),
            _ => return None,
        };
        Some(Self { point, controllers })
    }

    fn unified(&self) -> bool {
        self.controllers.is_none()
    }
}

/// A file's text, or its beginning.
pub(super) fn read_bounded(path: impl AsRef<Path>, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
    fn the_folder_is_found_in_both_versions() {
        let mounts = Mounts::parse(MOUNTS);
        let folder = |mount: &str, rest: &str, unified| Folder {
            path: PathBuf::from(mount).join(rest),
            mount: PathBuf::from(mount),
            unified,
        };
        let (old, new) = ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified");
        let table = [
            (
                "4:cpu,cpuacct:/kubepods/pod1/c\n3:cpuset:/x\n0::/kubepods/pod1/c\n",
                vec![
                    folder(old, "kubepods/pod1/c", false),
                    folder(new, "kubepods/pod1/c", true),
                ],
            ),
            ("0::/../../pod2/c\n", vec![folder(new, "pod2/c", true)]),
            ("0::/\n", vec![folder(new, "", true)]),
            ("3:cpuset:/x\n1:name=cpu:/y\n", vec![]),
            ("nonsense\n", vec![]),
        ];
        for (cgroups, expected) in table {
            assert_eq!(mounts.folders(cgroups, "cpu"), expected, "{cgroups}");
        }
        assert!(
            Mounts::parse("nonsense\n")
                .folders("0::/x\n", "cpu")
                .is_empty()
        );
    }

    #[test]
    fn a_mount_has_the_controllers_it_names_and_version_2_has_all() {
        let mounts = Mounts::parse(MOUNTS);
        assert!(mounts.have("cpu") && mounts.have("freezer"));
        let old = Mounts::parse(MOUNTS.rsplit_once("34 ").unwrap().0);
        assert!(old.have("cpu") && !old.have("freezer"));
    }
}
