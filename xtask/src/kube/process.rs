//! The processes of a pod's containers on this machine.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;

use serde_json::Value;

use crate::litellm::process;

/// The first process of a container that runs now: the one in its cgroup whose parent is not.
pub(crate) fn of_container(pod: &Value, container: &str) -> Option<u32> {
    let id = container_id(pod, container)?;
    let inside = |pid: u32| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroups| cgroups.contains(&id))
    };
    process::all()
        .into_iter()
        .filter(|pid| inside(*pid))
        .find(|pid| process::parent_of(*pid).is_some_and(|parent| !inside(parent)))
}

/// How often the process had to wait for the disk to get at its own program's code (`majflt` of `proc_pid_stat(5)`).
pub(crate) fn major_faults(pid: u32) -> Option<u64> {
    major_faults_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn major_faults_in(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(9)?.parse().ok()
}

/// Reads the files that a process and its children have mapped, so that they are in memory.
pub(crate) fn warm(pid: u32) {
    let children = process::children(pid);
    for pid in children.iter().map(|child| child.pid).chain([pid]) {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let paths: BTreeSet<&str> = maps
            .lines()
            .filter_map(|line| Some(&line[line.find('/')?..]))
            .collect();
        for path in paths {
            // What has gone meanwhile is not needed, and a device has no end.
            let Ok(mut file) = File::open(format!("/proc/{pid}/root{path}")) else {
                continue;
            };
            if file.metadata().is_ok_and(|data| data.is_file()) {
                let _ = io::copy(&mut file, &mut io::sink());
            }
        }
    }
}

/// Without the runtime's name before it.
fn container_id(pod: &Value, container: &str) -> Option<String> {
    let statuses = pod["status"]["containerStatuses"].as_array()?;
    let status = statuses.iter().find(|status| status["name"] == container)?;
    let id = status["containerID"].as_str()?;
    let (_, id) = id.split_once("://")?;
    // An empty one would be in every path.
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_faults_are_told_from_minor_ones_whatever_the_name() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 700 800 9 1000 11";
        assert_eq!(major_faults_in(stat), Some(9));
        assert_eq!(major_faults_in("12 (a"), None);
        assert_eq!(major_faults(0), None);
    }
}
