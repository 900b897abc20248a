//! What a loop is stuck on is named rightly, with who and what is at the other end.

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::cgroup::Cgroup;
use crate::harness::gate::Gate;
use crate::harness::line::Line;
use crate::harness::scene::Scene;
use crate::harness::shared::Grace;
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, alive, slowness};

pub(super) fn cases() -> Vec<Case> {
    let plain = [("sleep", "sleep"), ("select", "sleep")];
    let mut cases: Vec<Case> = plain
        .into_iter()
        .map(|(way, kind)| Case::new(format!("causes::{way}"), move || named(way, kind)))
        .collect();
    cases.extend([
        Case::new("causes::cpu", computing),
        Case::new("causes::lock", lock),
        Case::new("causes::tcp", tcp),
        Case::new("causes::dns", dns),
        Case::new("causes::unix", unix),
        Case::new("causes::pipe", pipe),
        Case::new("causes::flock", || file_lock("flock", "flock")),
        Case::new("causes::posix_lock", || file_lock("posix_lock", "fcntl")),
        Case::new("causes::mixed", mixed),
        Case::new("causes::stopped_by_a_signal", stopped),
        Case::new("causes::frozen_by_version_2", || frozen(Cgroup::version_2)),
        Case::new("causes::frozen_by_version_1", || {
            frozen(|name| Cgroup::version_1("freezer", name))
        }),
        Case::new("causes::quota", quota),
        Case::new("causes::child_that_closes", child_that_closes),
    ]);
    cases
}

/// Long enough for some looks.
fn span_ms() -> u64 {
    600 * u64::from(slowness())
}

/// Lets the loop stall for a time, and returns how the stall ended.
fn stalled(scene: &mut Scene, way: &str, kind: &str) -> Result<Line> {
    scene
        .victim
        .ask(&format!("stall {way} {}", span_ms()), "stalling")?;
    let line = scene.stall(kind)?;
    scene.victim.answer("stalled")?;
    let closed = scene.closed(&line)?;
    ensure!(closed.text("/cause/kind") == kind, "not {kind}: {closed}");
    Ok(closed)
}

/// Lets the loop stall until a line says all that `told` asks for, given what the loop said is true.
fn explained(way: &str, kind: &str, told: impl Fn(&Line, &str) -> bool) -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let pid = scene.victim.pid;
    let gate = Gate::make()?;
    let command = format!("stall {way} {}", gate.path());
    let truth = scene.victim.ask(&command, "stalling")?;
    let line = scene.watch.next(&format!("{kind} with {truth}"), |line| {
        let told_of = line.is("stall_opened", pid) || line.is("stall_updated", pid);
        told_of && line.text("/cause/kind") == kind && told(line, &truth)
    })?;
    gate.open()?;
    scene.victim.answer("stalled")?;
    let closed = scene.closed(&line)?;
    // On a busy or slow machine most of it may be the way there and back, starting and reaping a helper among it: then the wait is
    // one of the shares.
    let mostly = closed.text("/cause/kind") == kind;
    let part = closed.float(&format!("/shares/{kind}"));
    ensure!(
        if mostly {
            told(&closed, &truth)
        } else {
            part.is_some()
        },
        "not as before: {closed}"
    );
    scene.end(&[]).map(|_| ())
}

fn named(way: &str, kind: &str) -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    stalled(&mut scene, way, kind)?;
    scene.end(&[]).map(|_| ())
}

/// On a busy machine it may starve for most of the time; that it computes has to be told all the same.
fn computing() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let gate = Gate::make()?;
    scene
        .victim
        .ask(&format!("stall cpu {}", gate.path()), "stalling")?;
    let line = scene.stall("cpu_busy")?;
    gate.open()?;
    scene.victim.answer("stalled")?;
    let closed = scene.closed(&line)?;
    ensure!(
        ["cpu_busy", "cpu_starved"].contains(&closed.text("/cause/kind")),
        "{closed}"
    );
    scene.end(&[]).map(|_| ())
}

fn lock() -> Result<()> {
    explained("lock", "lock_wait", |line, _| {
        line.text("/cause/syscall") == "futex"
    })
}

fn tcp() -> Result<()> {
    explained("tcp", "network_wait", |line, address| {
        line.text("/cause/peer") == address
            && line.text("/cause/socket_state") == "ESTABLISHED"
            && !line.is_true("/cause/dns")
    })
}

fn dns() -> Result<()> {
    explained("dns", "network_wait", |line, address| {
        line.text("/cause/peer") == address && line.is_true("/cause/dns")
    })
}

fn unix() -> Result<()> {
    explained("unix", "network_wait", |line, _| {
        let own = line.number("/pid");
        let told =
            line.text("/cause/protocol") == "unix" && line.number("/cause/holder_pid") == own;
        // A kernel without these diagnostics cannot tell, and that is said.
        told || line.to_string().contains("load its module unix_diag")
    })
}

fn pipe() -> Result<()> {
    explained("pipe", "pipe_wait", |line, child| {
        holder(line).as_deref() == Some(child)
    })
}

fn file_lock(way: &'static str, call: &'static str) -> Result<()> {
    explained(way, "file_lock", move |line, truth| {
        let told = holder(line).map(|pid| format!("{pid} {}", line.text("/cause/file")));
        line.text("/cause/syscall") == call && told.as_deref() == Some(truth)
    })
}

fn holder(line: &Line) -> Option<String> {
    line.number("/cause/holder_pid").map(|pid| pid.to_string())
}

/// Three quarters of it a lock, the rest computing.
fn mixed() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let closed = stalled(&mut scene, "lock_and_cpu", "lock_wait")?;
    let lock = closed.float("/shares/lock_wait").unwrap_or(0.0);
    // On a busy machine it takes some of its last quarter waiting for a CPU.
    let own = ["cpu_busy", "cpu_starved"]
        .map(|kind| closed.float(&format!("/shares/{kind}")).unwrap_or(0.0));
    ensure!(lock > 0.5 && own.iter().sum::<f64>() > 0.1, "{closed}");
    scene.end(&[]).map(|_| ())
}

fn stopped() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let pid = scene.victim.pid;
    alive::signal(pid, libc::SIGSTOP)?;
    let line = scene.stall("stopped")?;
    alive::signal(pid, libc::SIGCONT)?;
    ensure!(line.text("/cause/stopped_by") == "signal", "{line}");
    ensure!(
        line.number("/cause/holder_pid") == Some(std::process::id().into()),
        "not by this process: {line}"
    );
    scene.closed(&line)?;
    scene.end(&[]).map(|_| ())
}

fn frozen(make: impl FnOnce(&str) -> Result<Cgroup>) -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let pid = scene.victim.pid;
    let cgroup = make(&format!("loopwarden-loop-{pid}"))?;
    cgroup.take(pid)?;
    cgroup.freeze(true)?;
    let line = scene.stall("stopped")?;
    cgroup.freeze(false)?;
    ensure!(line.text("/cause/stopped_by") == "freezer", "{line}");
    scene.closed(&line)?;
    scene.end(&[]).map(|_| ())
}

/// Two hundredths of a CPU: it computes for a moment, and then for nearly all of a period it may not. The loop comes into its
/// cgroup after the agent has looked for it.
fn quota() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let pid = scene.victim.pid;
    let cgroup = Cgroup::with_cpu(&format!("loopwarden-quota-{pid}"))?;
    cgroup.limit_to_percent(2)?;
    cgroup.take(pid)?;
    let gate = Gate::make()?;
    scene
        .victim
        .tell(&format!("stall lazy_cpu {}", gate.path()))?;
    let line = scene.watch.next("a stall by the quota", |line| {
        line.is("stall_updated", pid) && line.text("/cause/starved_by") == "cgroup_quota"
    })?;
    ensure!(line.text("/cause/kind") == "cpu_starved", "{line}");
    cgroup.limit_to_percent(100)?;
    gate.open()?;
    scene.victim.answer("stalled")?;
    scene.closed(&line)?;
    scene.end(&[]).map(|_| ())
}

/// The incident says why the engine is wedged, and who told it to end.
fn child_that_closes() -> Result<()> {
    // Nobody kills it here.
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let mut scene = Scene::with(victim, &["--engine", "query-engine-*"])?;
    let engine = scene.add("engine", "lingers", ENGINE)?;
    scene.victim.tell_to_end("engine")?;
    scene.victim.wait_for("engine", "wait4")?;
    let pid = scene.victim.pid;
    let line = scene.watch.next("why the engine does not end", |line| {
        line.is("stall_updated", pid) && line.text("/cause/child/sockets/0/state") == "FIN_WAIT1"
    })?;
    ensure!(
        line.number("/cause/child/pid") == Some(engine.into()),
        "{line}"
    );
    ensure!(
        line.text("/cause/child/sockets/0/peer")
            .starts_with("127.0.0.1:"),
        "{line}"
    );
    ensure!(
        line.number("/cause/child/sockets/0/unacknowledged_bytes") > Some(0),
        "{line}"
    );
    ensure!(
        line.text("/cause/child/signalled/signal") == "SIGINT"
            && line.number("/cause/child/signalled/by") == Some(pid.into()),
        "{line}"
    );
    scene.free(engine, &line)?;
    scene.end(&[]).map(|_| ())
}
