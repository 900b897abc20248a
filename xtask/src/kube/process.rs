//! The processes of a pod's containers on this machine.

use std::fs;

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

/// Without the runtime's name before it.
fn container_id(pod: &Value, container: &str) -> Option<String> {
    let statuses = pod["status"]["containerStatuses"].as_array()?;
    let status = statuses.iter().find(|status| status["name"] == container)?;
    let id = status["containerID"].as_str()?;
    let (_, id) = id.split_once("://")?;
    // An empty one would be in every path.
    (!id.is_empty()).then(|| id.to_owned())
}
