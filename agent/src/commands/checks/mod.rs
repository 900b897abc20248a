//! What `doctor` says of the machine and of the agent's privileges, beside the hooks.
//!
//! Facts are gathered once (`facts`); the verdicts are a pure function of them.

mod facts;
#[cfg(test)]
mod tests;

use crate::kernel::{Verdict, Way};

pub(super) use facts::Facts;
use facts::{BPF, KILL, Mount, PERFMON, SYS_ADMIN, SYS_PTRACE};

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// Its name, the same in metrics where they know it.
    pub(super) name: &'static str,
    /// What was found.
    pub(super) verdict: Verdict,
    /// What to do about it; empty if nothing.
    pub(super) advice: &'static str,
}

/// All rows.
pub(super) fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![
        optional(
            "rescue.realtime",
            &facts.realtime,
            "grant CAP_SYS_NICE: on a busy node the rescue comes late without it",
        ),
        optional(
            "rescue.locked_memory",
            &facts.locked_memory,
            "grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK: an agent that was swapped out notices late",
        ),
        run_dir(facts),
        pid_namespace(facts),
        procfs(facts),
        throttling(facts),
        optional(
            "machine.freezer",
            &facts.freezer,
            "mount the host's /sys/fs/cgroup for the agent, read-only: else a frozen engine may be signalled",
        ),
    ];
    checks.extend(capability_rows(facts));
    checks
}

fn check(name: &'static str, verdict: Verdict, advice: &'static str) -> Check {
    let advice = if verdict == Verdict::Ok { "" } else { advice };
    Check {
        name,
        verdict,
        advice,
    }
}

fn optional(name: &'static str, found: &Result<(), String>, advice: &'static str) -> Check {
    let verdict = match found {
        Ok(()) => Verdict::Ok,
        Err(reason) => Verdict::Unsupported(reason.clone()),
    };
    check(name, verdict, advice)
}

fn run_dir(facts: &Facts) -> Check {
    let verdict = match &facts.run_dir {
        Ok(()) => Verdict::Ok,
        // Others than root are not meant to write it.
        Err(reason) if !facts.is_root => Verdict::Unsupported(reason.clone()),
        Err(reason) => Verdict::Broken(reason.clone()),
    };
    let advice = "enforce mode needs it and refuses without (another_enforcer): let root own it, mode 0700, on a file system that can be written";
    check("enforce.run_dir", verdict, advice)
}

fn pid_namespace(facts: &Facts) -> Check {
    let name = "machine.pid_namespace";
    if !facts.procfs_is_ours {
        let reason = "/proc shows the ids of another PID namespace, so nothing is ever signalled";
        return check(
            name,
            Verdict::Broken(reason.to_owned()),
            "mount procfs anew in the agent's own PID namespace, or run the agent in the one that /proc shows",
        );
    }
    let verdict = if facts.host_pid_namespace {
        Verdict::Ok
    } else {
        let reason = "the agent has a PID namespace of its own: it sees what runs in that only, and without BPF";
        Verdict::Unsupported(reason.to_owned())
    };
    check(
        name,
        verdict,
        "share the host's: hostPID: true for a pod, --pid=host for Docker",
    )
}

fn procfs(facts: &Facts) -> Check {
    let mounted = facts
        .mounts()
        .filter(|mount| mount.kind == "proc" && mount.point == "/proc");
    let hidden = mounted
        .filter_map(|mount| mount.option("hidepid="))
        .last()
        .filter(|value| !matches!(*value, "0" | "off"));
    let verdict = match hidden {
        Some(value) if !facts.holds(SYS_PTRACE) => Verdict::Unsupported(format!(
            "/proc is mounted with hidepid={value}, which hides processes of other users from an agent without CAP_SYS_PTRACE"
        )),
        _ => Verdict::Ok,
    };
    check(
        "machine.procfs",
        verdict,
        "grant CAP_SYS_PTRACE, or mount /proc without hidepid for the agent",
    )
}

/// Time for which a loop's cgroup was throttled does not count as grace, if it can be seen.
fn throttling(facts: &Facts) -> Check {
    let name = "machine.cpu_throttling";
    let advice = "mount the host's /sys/fs/cgroup for the agent, read-only: else throttled time counts as grace";
    let accounts: Vec<Mount<'_>> = facts
        .mounts()
        .filter(|mount| {
            let with_cpu = mount.options.split(',').any(|option| option == "cpu");
            mount.kind == "cgroup2" || mount.kind == "cgroup" && with_cpu
        })
        .collect();
    if accounts.is_empty() {
        let reason =
            "no cgroup file system with CPU accounts is mounted (version 2, or cpu of version 1)";
        return check(name, Verdict::Unsupported(reason.to_owned()), advice);
    }
    let outside = facts.cgroups_of_init.contains(":/..");
    if outside && !accounts.iter().any(|mount| mount.root.starts_with("/..")) {
        let reason =
            "the agent has a cgroup namespace of its own, and the host's cgroups are not mounted";
        return check(name, Verdict::Unsupported(reason.to_owned()), advice);
    }
    check(name, Verdict::Ok, advice)
}

fn capability_rows(facts: &Facts) -> [Check; 5] {
    let row = |name, held, lack: &str, advice| {
        let verdict = if held {
            Verdict::Ok
        } else {
            Verdict::Unsupported(lack.to_owned())
        };
        check(name, verdict, advice)
    };
    // Before there were smaller ones it stood for both, and still does.
    let admin = facts.holds(SYS_ADMIN);
    let tracefs = facts.mounts().any(|mount| mount.kind == "tracefs");
    [
        row(
            "capability.bpf",
            facts.holds(BPF) || admin,
            "not held: no hook can be loaded, so loops are sampled",
            "grant CAP_BPF, or run as root",
        ),
        row(
            "capability.perfmon",
            facts.holds(PERFMON) || admin,
            "not held: no hook can be attached, so loops are sampled",
            "grant CAP_PERFMON, or run as root",
        ),
        row(
            "capability.sys_ptrace",
            facts.holds(SYS_PTRACE),
            "not held: calls and descriptors of other users' processes cannot be read, so their stalls stay unexplained",
            "grant CAP_SYS_PTRACE, or run as root",
        ),
        row(
            "capability.kill",
            facts.holds(KILL),
            "not held: engines of other users cannot be ended (no_permission)",
            "grant CAP_KILL if mode is enforce; observe mode needs none",
        ),
        row(
            "capability.sys_admin",
            admin || tracefs || facts.way == Way::Fentry,
            "not held, and tracefs is not mounted: tracepoints cannot be attached",
            "mount tracefs at /sys/kernel/tracing (then it is not needed), or grant CAP_SYS_ADMIN",
        ),
    ]
}
