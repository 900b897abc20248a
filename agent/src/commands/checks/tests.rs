use super::facts::capabilities;
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
