//! What cannot run on a machine is left out by name, in this one list, and every run says so.

use crate::cases::Case;
use crate::harness::{cgroup, in_vm, runc};
use crate::sys;

struct LeftOut {
    /// A test, or the beginning of the names of several.
    name: &'static str,
    reason: &'static str,
    here: fn() -> bool,
}

const NO_EPOLL_PWAIT2: &str = "this kernel has no epoll_pwait2 (Linux 5.11)";

const LIST: [LeftOut; 8] = [
    LeftOut {
        name: "recognition::loop_epoll_pwait2",
        reason: NO_EPOLL_PWAIT2,
        here: sys::lacks_epoll_pwait2,
    },
    LeftOut {
        name: "recognition::rescue_epoll_pwait2",
        reason: NO_EPOLL_PWAIT2,
        here: sys::lacks_epoll_pwait2,
    },
    LeftOut {
        name: "javascript::",
        reason: "this machine has no Node.js (Debian: nodejs)",
        here: lacks_node,
    },
    LeftOut {
        name: "containers::",
        reason: "they make cgroups in the root of every hierarchy: LOOPWARDEN_RUNC=1 runs them, LOOPWARDEN_CI=1 too",
        here: || !in_vm() && !runc::is_asked_for(),
    },
    LeftOut {
        name: "containers::",
        reason: "the virtual machine runs them alone: `cargo xtask vm -- containers::`",
        here: || in_vm() && !runc::is_asked_for(),
    },
    LeftOut {
        name: "containers::engine_throttled_in_a_cgroup_of_its_own",
        reason: "in version 2 a container's cgroup cannot hold processes and limit others below it",
        here: || !cgroup::has_version_1("cpu"),
    },
    LeftOut {
        name: "held::engine_in_a_frozen_cgroup_of_version_1",
        reason: "no freezer of cgroup version 1 is mounted",
        here: || !cgroup::has_version_1("freezer"),
    },
    LeftOut {
        name: "causes::frozen_by_version_1",
        reason: "no freezer of cgroup version 1 is mounted",
        here: || !cgroup::has_version_1("freezer"),
    },
];

fn lacks_node() -> bool {
    let mut node = std::process::Command::new("node");
    node.arg("--version").output().is_err()
}

/// Takes the tests out that cannot run here, and says which and why.
pub(crate) fn without(cases: Vec<Case>, quiet: bool) -> Vec<Case> {
    let here: Vec<&LeftOut> = LIST.iter().filter(|entry| (entry.here)()).collect();
    let (out, rest): (Vec<Case>, Vec<Case>) = cases
        .into_iter()
        .partition(|case| here.iter().any(|entry| case.name.starts_with(entry.name)));
    for case in out.iter().filter(|_| !quiet) {
        let reason = here
            .iter()
            .find(|entry| case.name.starts_with(entry.name))
            .map_or("", |entry| entry.reason);
        println!("left out: {}: {reason}", case.name);
    }
    rest
}
