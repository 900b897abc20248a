//! What `doctor` says of the machine and of the agent's privileges, beside the hooks.
//!
//! Facts are gathered once, from procfs and by trying; the verdicts are a pure function of them. Nothing is changed: a missing
//! run directory is not made, and what is tried ends with the command.

use std::fs;

use crate::action::RunDir;
use crate::kernel::{self, Verdict, Way, realtime};
use crate::target::freezer::Freezer;

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

/// What the verdicts rest on.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    way: Way,
    is_root: bool,
    realtime: Result<(), String>,
    locked_memory: Result<(), String>,
    run_dir: Result<(), String>,
    freezer: Result<(), String>,
    host_pid_namespace: bool,
    procfs_is_ours: bool,
    /// `CapEff` of `/proc/self/status`.
    capabilities: u64,
    /// `/proc/self/mountinfo`.
    mounts: String,
    /// `/proc/1/cgroup`.
    cgroups_of_init: String,
}

impl Facts {
    /// Looks, and tries what can only be tried.
    pub(super) fn gather(way: Way) -> Self {
        // On a thread of its own, which takes the priority with it when it ends.
        let realtime = std::thread::spawn(realtime::prefer_this_thread).join();
        Self {
            way,
            is_root: rustix::process::geteuid().is_root(),
            realtime: realtime.unwrap_or_else(|_| Err("trying it panicked".to_owned())),
            locked_memory: realtime::lock_memory(),
            run_dir: RunDir::inspect().map_err(|error| error.to_string()),
            freezer: Freezer::find().check(),
            host_pid_namespace: kernel::in_host_pid_namespace(),
            procfs_is_ours: kernel::procfs_is_ours(),
            capabilities: capabilities(
                &fs::read_to_string("/proc/self/status").unwrap_or_default(),
            ),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            cgroups_of_init: fs::read_to_string("/proc/1/cgroup").unwrap_or_default(),
        }
    }

    fn holds(&self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }

    fn mounts(&self) -> impl Iterator<Item = Mount<'_>> {
        self.mounts.lines().filter_map(Mount::parse)
    }
}

const KILL: u32 = 5;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

fn capabilities(status: &str) -> u64 {
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    held.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

/// The part of a line of mountinfo that matters here.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        Some(Self {
            root: before.next()?,
            point: before.next()?,
            kind: after.next()?,
            options: after.nth(1)?,
        })
    }

    fn option(&self, name: &str) -> Option<&'a str> {
        self.options
            .split(',')
            .find_map(|option| option.strip_prefix(name))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const PROC: &str = "22 1 0:21 / /proc rw - proc proc rw\n";
    const CGROUP1: &str = "32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
    const TRACEFS: &str = "40 31 0:30 / /sys/kernel/tracing rw - tracefs tracefs rw\n";

    fn root() -> Facts {
        Facts {
            way: Way::Tracepoint,
            is_root: true,
            realtime: Ok(()),
            locked_memory: Ok(()),
            run_dir: Ok(()),
            freezer: Ok(()),
            host_pid_namespace: true,
            procfs_is_ours: true,
            capabilities: u64::MAX,
            mounts: [PROC, CGROUP1].concat(),
            cgroups_of_init: "4:cpu,cpuacct:/\n0::/init.scope\n".to_owned(),
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = root();
        change(&mut facts);
        facts
    }

    /// Names and verdicts of the rows that are not ok.
    fn wrong(facts: &Facts) -> Vec<(&'static str, &'static str)> {
        let checks = judge(facts);
        for check in &checks {
            let ok = check.verdict == Verdict::Ok;
            assert_eq!(check.advice.is_empty(), ok, "{check:?}");
            assert_eq!(check.verdict.reason().is_empty(), ok, "{check:?}");
        }
        checks
            .iter()
            .filter(|check| check.verdict != Verdict::Ok)
            .map(|check| (check.name, check.verdict.name()))
            .collect()
    }

    #[test]
    fn each_fact_has_its_row() {
        let none = |bit: u32| !(1u64 << bit);
        let hidden = PROC.replace("proc proc rw", "proc proc rw,hidepid=invisible");
        let table: Vec<(Facts, Vec<(&str, &str)>)> = vec![
            (root(), vec![]),
            (
                with(|f| f.realtime = Err("EPERM".into())),
                vec![("rescue.realtime", "unsupported")],
            ),
            (
                with(|f| f.locked_memory = Err("ENOMEM".into())),
                vec![("rescue.locked_memory", "unsupported")],
            ),
            (
                with(|f| f.run_dir = Err("mode 777".into())),
                vec![("enforce.run_dir", "broken")],
            ),
            (
                with(|f| (f.run_dir, f.is_root) = (Err("not writable".into()), false)),
                vec![("enforce.run_dir", "unsupported")],
            ),
            (
                with(|f| f.host_pid_namespace = false),
                vec![("machine.pid_namespace", "unsupported")],
            ),
            (
                with(|f| f.procfs_is_ours = false),
                vec![("machine.pid_namespace", "broken")],
            ),
            (
                with(|f| f.freezer = Err("wchan is 0".into())),
                vec![("machine.freezer", "unsupported")],
            ),
            // Who may trace sees them all the same.
            (with(|f| f.mounts = [&hidden, CGROUP1].concat()), vec![]),
            (
                with(|f| {
                    f.mounts = [&hidden, CGROUP1].concat();
                    f.capabilities = none(SYS_PTRACE);
                }),
                vec![
                    ("machine.procfs", "unsupported"),
                    ("capability.sys_ptrace", "unsupported"),
                ],
            ),
            (
                with(|f| f.capabilities = none(KILL)),
                vec![("capability.kill", "unsupported")],
            ),
            (
                with(|f| f.capabilities = none(BPF) & none(SYS_ADMIN)),
                vec![
                    ("capability.bpf", "unsupported"),
                    ("capability.sys_admin", "unsupported"),
                ],
            ),
            // CAP_SYS_ADMIN stands for the two smaller ones.
            (with(|f| f.capabilities = none(BPF) & none(PERFMON)), vec![]),
            (
                with(|f| {
                    f.capabilities = none(SYS_ADMIN);
                    f.mounts += TRACEFS;
                }),
                vec![],
            ),
        ];
        for (facts, expected) in table {
            assert_eq!(wrong(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn throttling_needs_the_hosts_cgroups() {
        let row = vec![("machine.cpu_throttling", "unsupported")];
        assert_eq!(wrong(&with(|f| f.mounts = PROC.to_owned())), row);
        let own = "35 31 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let inside = |mount: &str| {
            with(|f| {
                f.mounts = [PROC, mount].concat();
                f.cgroups_of_init = "0::/../../init.scope\n".to_owned();
            })
        };
        assert_eq!(wrong(&inside(own)), row);
        assert_eq!(wrong(&inside(&own.replace("0:31 /", "0:31 /../.."))), []);
    }

    #[test]
    fn effective_capabilities_are_read() {
        let status = "CapPrm:\t000001fffeffffff\nCapEff:\t0000000000000020\n";
        assert_eq!(capabilities(status), 1 << KILL);
        assert_eq!(capabilities(""), 0);
    }
}
