//! Engines that cannot end because they are held: stopped, frozen, traced, or a leader that ended before its threads; and
//! loops that are throttled.

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::cgroup::Cgroup;
use crate::harness::line::Line;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::shared::Grace;
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, HELPER, alive, limit};
use crate::sys;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("held::dead_leader_with_a_live_thread", dead_leader),
        Case::new("held::stopped_engine", stopped),
        Case::new("held::another_stopped_child", another_stopped),
        Case::new("held::engine_that_ignores_sigtstp", unstoppable),
        Case::new("held::engine_in_a_frozen_cgroup", || {
            frozen(Cgroup::version_2)
        }),
        Case::new("held::engine_in_a_frozen_cgroup_of_version_1", || {
            frozen(|name| Cgroup::version_1("freezer", name))
        }),
        Case::new("held::throttled_loop", throttled),
        Case::new("held::traced_engine", traced),
        Case::new("held::zombie_kept_by_its_tracer", zombie),
    ]
}

/// The process has not ended while a thread lives, and has no `/proc/PID/exe` any more: it is an engine all the same.
fn dead_leader() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    scene.add_bystanders()?;
    let engine = scene.add("engine", "leader-ends", ENGINE)?;
    alive::signal(engine, libc::SIGUSR1)?;
    alive::until_state(engine, 'Z')?;
    ensure!(
        std::fs::read_link(format!("/proc/{engine}/exe")).is_err(),
        "its leader has not ended"
    );
    scene.victim.tell_to_end("engine")?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// A stopped engine cannot end; its grace begins when it can.
fn stopped() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    alive::signal(engine, libc::SIGSTOP)?;
    alive::until_state(engine, 'T')?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.refusal("frozen")?;
    alive::must_live("the engine", engine)?;
    let from = sys::mono_ns();
    alive::signal(engine, libc::SIGCONT)?;
    let action = scene.rescued(engine)?;
    ensure!(
        action.mono_ns() >= from + Grace::Usual.ns(),
        "within the grace after {from}: {action}"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Whoever else is stopped does not keep a wedged engine alive.
fn another_stopped() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let other = scene.add("other", "engine", HELPER)?;
    scene.must_live("the stopped child", other);
    alive::signal(other, libc::SIGSTOP)?;
    alive::until_state(other, 'T')?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// A signal that would stop it and that it ignores holds nobody: neither before the wait nor in it.
fn unstoppable() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    scene.add_bystanders()?;
    let engine = scene.add("engine", "unstoppable", ENGINE)?;
    scene.victim.tell_to_end("engine")?;
    alive::signal(engine, libc::SIGTSTP)?;
    scene.victim.wait_for("engine", "wait4")?;
    alive::signal(engine, libc::SIGTSTP)?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// The same for a frozen cgroup.
fn frozen(make: impl FnOnce(&str) -> Result<Cgroup>) -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    let cgroup = make(&format!("loopwarden-test-{engine}"))?;
    cgroup.take(engine)?;
    cgroup.freeze(true)?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.refusal("frozen")?;
    let from = sys::mono_ns();
    cgroup.freeze(false)?;
    let action = scene.rescued(engine)?;
    ensure!(
        action.mono_ns() >= from + Grace::Usual.ns(),
        "within the grace after {from}: {action}"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// The loop's cgroup is throttled for most of the wait: that time does not count.
fn throttled() -> Result<()> {
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let cgroup = Cgroup::with_cpu(&format!("loopwarden-test-{}", victim.pid))?;
    cgroup.take(victim.pid)?;
    let grace = format!("{}ms", Grace::Usual.ms());
    let mut scene = Scene::with(victim, &[&ENFORCE[..], &["--grace", &grace]].concat())?;
    let engine = scene.add_wedged_engine()?;
    // A loop that waits uses no CPU; what shares its quota does.
    let burner = Victim::start(&["burner"])?;
    cgroup.take(burner.pid)?;
    throttled_time_does_not_count(scene, engine, &cgroup, burner)
}

/// The loop waits for its wedged engine while the burner uses up the quota that they share in that cgroup.
pub(super) fn throttled_time_does_not_count(
    mut scene: Scene,
    engine: u32,
    cgroup: &Cgroup,
    burner: Victim,
) -> Result<()> {
    cgroup.limit_to_percent(5)?;
    let from = scene.victim.wait_for("engine", "wait4")?;
    // The agent has begun to count by now.
    scene.stall("child_wait")?;
    let before = cgroup.throttled_ns()?;
    let pid = scene.victim.pid;
    let mut readings = vec![(sys::mono_ns(), before)];
    let over = |line: &Line| line.is("stall_closed", pid) && line.is_true("/rescued");
    let end = from + u64::try_from(limit().as_nanos())?;
    while !scene.watch.seen().iter().any(over) {
        ensure!(sys::mono_ns() < end, "no rescue, throttled or not");
        readings.push((sys::mono_ns(), cgroup.throttled_ns()?));
        scene.watch.linger(20)?;
    }
    burner.kill()?;
    let seen = scene.watch.seen();
    let action = seen.iter().find(|line| line.is("action", pid)).cloned();
    let action = action.context("no action")?;
    // The last reading that is surely older than the one on which the decision rests.
    let older = |(at, _): &&(u64, u64)| at + 50_000_000 < action.mono_ns();
    let (_, last) = readings.iter().rev().find(older).context("no reading")?;
    let lost = last - before;
    ensure!(
        lost > Grace::Usual.ns() / 4,
        "throttled for {lost} ns only: this shows nothing"
    );
    ensure!(
        action.is_sent() && action.number("/child") == Some(engine.into()),
        "{action}"
    );
    ensure!(
        action.mono_ns() >= from + lost + Grace::Usual.ns(),
        "of the time since {from} {lost} ns were counted that the loop was throttled: {action}"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Somebody debugs the engine; when that is over, the rescue goes on.
fn traced() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    let tracer = Victim::start(&["tracer", &engine.to_string()])?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.refusal("traced")?;
    alive::must_live("the engine", engine)?;
    drop(tracer);
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// An engine that has ended, and that its tracer keeps from its parent: the wait lasts, and there is nobody to signal.
fn zombie() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    let tracer = Victim::start(&["tracer", &engine.to_string()])?;
    scene.victim.wait_for("engine", "wait4")?;
    alive::signal(engine, libc::SIGKILL)?;
    alive::until_state(engine, 'Z')?;
    let refused = scene.refusal("not_child")?;
    drop(tracer);
    scene.freed(&refused)?;
    scene.end(&[]).map(|_| ())
}
