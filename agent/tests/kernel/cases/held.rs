//! Engines that cannot end because they are held: stopped, frozen, traced, or a leader that ended before its threads.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::scene::Scene;
use crate::harness::shared::Grace;
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, HELPER, alive};
use crate::sys;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("held::dead_leader_with_a_live_thread", dead_leader),
        Case::new("held::stopped_engine", stopped),
        Case::new("held::another_stopped_child", another_stopped),
        Case::new("held::engine_in_a_frozen_cgroup", frozen),
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

/// The same for a frozen cgroup.
fn frozen() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    let cgroup = Cgroup::make(&format!("loopwarden-test-{engine}"))?;
    cgroup.write("cgroup.procs", &engine.to_string())?;
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

/// A cgroup of the test's own, below the one the test runs in.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(name: &str) -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split_whitespace().nth(4))
            .context("no cgroup2 is mounted")?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("no cgroup of version 2")?;
        let path = PathBuf::from(mount).join(own).join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        std::fs::write(&path, text)
            .with_context(|| format!("cannot write {text} to {}", path.display()))
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        let digit = if frozen { "1" } else { "0" };
        self.write("cgroup.freeze", digit)?;
        let events = self.0.join("cgroup.events");
        let wanted = format!("frozen {digit}");
        alive::until(&wanted, || {
            std::fs::read_to_string(&events)
                .is_ok_and(|text| text.lines().any(|line| line == wanted))
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // After a failed test a process may be in it still: it must not stay frozen, and the folder can stay.
        let _ = std::fs::write(self.0.join("cgroup.freeze"), "0");
        let _ = std::fs::remove_dir(&self.0);
    }
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
