//! The main job: a wedged engine that was told to end is killed, and only it, and the loop is back.

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::alive;
use crate::harness::line::Line;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::shared::Grace;
use crate::harness::victim::Victim;
use crate::harness::watch::come_and_go;
use crate::harness::{ENGINE, HELPER};

/// Every way of waiting that counts.
const WAYS: [&str; 5] = ["wait4", "waitid", "pidfd_waitid", "pidfd_poll", "naps"];

pub(super) fn cases() -> Vec<Case> {
    let ways = WAYS
        .into_iter()
        .map(|way| Case::new(format!("rescue::{way}"), move || rescued(way, Grace::Usual)));
    ways.chain([
        Case::new("rescue::grace_0s", || rescued("wait4", Grace::Zero)),
        Case::new("rescue::grace_20ms", || rescued("wait4", Grace::Short)),
        Case::new("rescue::a_loop_older_than_the_agent", older_than_the_agent),
        Case::new(
            "rescue::after_another_agent_came_and_went",
            after_another_agent,
        ),
        Case::new("rescue::any_child_of_one", || unnamed_child("any")),
        Case::new("rescue::group_of_one", || unnamed_child("group")),
        Case::new(
            "rescue::told_long_before_the_wait",
            told_long_before_the_wait,
        ),
        Case::new("rescue::observe_mode_only_says_so", observed),
    ])
    .collect()
}

fn rescued(way: &str, grace: Grace) -> Result<()> {
    wedge_and_end(Scene::enforcing(grace)?, way, grace.ns())
}

/// Loop, engine and bystanders were there before the agent.
fn older_than_the_agent() -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let mut others = Vec::new();
    for (name, program) in [("helper", HELPER), ("other-engine", ENGINE)] {
        others.push((name, victim.spawn(name, "engine", program)?));
    }
    let engine = victim.spawn("engine", "engine", ENGINE)?;
    let arguments = [&ENFORCE[..], &["--grace", "200ms"]].concat();
    let mut scene = Scene::with(victim, &arguments)?;
    for (name, pid) in others {
        scene.must_live(name, pid);
        scene.victim.tell_to_end(name)?;
    }
    scene.victim.tell_to_end("engine")?;
    rescued_from(scene, engine, "wait4", 200_000_000)
}

/// The loop sleeps in its poll meanwhile.
fn after_another_agent() -> Result<()> {
    let victim = Victim::start(&["loop", "epoll_wait", "no-timeout"])?;
    let arguments = [&ENFORCE[..], &["--grace", "200ms"]].concat();
    let mut scene = Scene::with(victim, &arguments)?;
    let engine = scene.victim.spawn("engine", "engine", ENGINE)?;
    scene.victim.tell_to_end("engine")?;
    come_and_go()?;
    scene.victim.wait_for("engine", "wait4")?;
    let line = scene.stall("child_wait")?;
    let action = scene.rescued(engine)?;
    ensure!(
        action.text("/incident") == line.text("/incident"),
        "{line}: {action}"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

fn wedge_and_end(mut scene: Scene, way: &str, grace_ns: u64) -> Result<()> {
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    rescued_from(scene, engine, way, grace_ns)
}

fn rescued_from(mut scene: Scene, engine: u32, way: &str, grace_ns: u64) -> Result<()> {
    let from = scene.victim.wait_for("engine", way)?;
    let action = scene.action()?;
    let waited = scene.victim.answer("waited")?;
    let closed = scene.closed(&action)?;
    let opened = scene.opened(&action)?;

    ensure!(
        waited == "Killed(9)",
        "the engine ended otherwise: {waited}"
    );
    ensure!(
        action.is_sent() && action.text("/signal") == "SIGKILL",
        "{action}"
    );
    ensure!(
        action.text("/mode") == "enforce" && action.number("/child") == Some(engine.into()),
        "{action}"
    );
    ensure!(
        action.mono_ns() >= from + grace_ns,
        "earlier than the grace after {from}: {action}"
    );
    ensure!(
        [opened, &action, &closed].is_sorted_by_key(|line| line.mono_ns()),
        "{opened}, {action}, {closed}"
    );
    ensure!(
        closed.is_true("/rescued") && closed.text("/ended_by") == "poll",
        "{closed}"
    );
    is_wait_for(&closed, engine)?;
    // Also where the action opens the incident: looked at before the signal, not after it. On a busy machine the way from the poll
    // to the wait can be a stall already, which has another cause.
    let before_the_wait = opened.mono_ns() + grace_ns <= action.mono_ns();
    if opened.text("/cause/kind") == "child_wait" || !before_the_wait {
        is_wait_for(opened, engine)?;
        let call = opened.text("/cause/syscall");
        ensure!(calls_of(way).contains(&call), "not in {way}: {opened}");
        // Its own start, or the signal that it ignores, may still keep it busy.
        ensure!(
            ["sleeping", "running"].contains(&opened.text("/cause/child/state")),
            "not before the signal: {opened}"
        );
    }
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// The calls in which a look may find a loop that waits in that way.
fn calls_of(way: &str) -> &'static [&'static str] {
    match way {
        "waitid" | "pidfd_waitid" => &["waitid"],
        "pidfd_poll" => &["poll", "ppoll"],
        // It may be between two calls.
        "naps" => &["nanosleep", "clock_nanosleep", "wait4", ""],
        _ => &["wait4"],
    }
}

fn is_wait_for(stall: &Line, engine: u32) -> Result<()> {
    ensure!(stall.text("/cause/kind") == "child_wait", "{stall}");
    ensure!(
        stall.number("/cause/child/pid") == Some(engine.into()),
        "another child: {stall}"
    );
    ensure!(
        stall.number("/cause/child/ns_pid") == Some(engine.into()),
        "in no namespace: {stall}"
    );
    ensure!(
        stall.text("/cause/child/exe") == "query-engine-test",
        "{stall}"
    );
    ensure!(
        stall.float("/cause/child/told_to_end_ms_ago").is_some(),
        "told to end: {stall}"
    );
    Ok(())
}

/// `wait4(-1)` and `wait4(0)` with a single child name it.
fn unnamed_child(whom: &str) -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for(whom, "wait4")?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// The grace counts from the later of signal and wait: an engine told long ago still gets all of it.
fn told_long_before_the_wait() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    scene.idle_longer_than(Grace::Usual)?;
    let from = scene.victim.wait_for("engine", "wait4")?;
    let action = scene.rescued(engine)?;
    ensure!(
        action.mono_ns() >= from + Grace::Usual.ns(),
        "too early: {action}"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Without `--enforce` the same is decided, said, and not done.
fn observed() -> Result<()> {
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let mut scene = Scene::with(victim, &["--engine", "query-engine-*", "--grace", "50ms"])?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    let action = scene.action()?;
    ensure!(
        action.text("/outcome") == "would_send" && action.text("/mode") == "observe",
        "{action}"
    );
    ensure!(
        action.number("/child") == Some(engine.into()) && action.text("/signal") == "SIGKILL",
        "{action}"
    );
    alive::must_live("the engine", engine)?;
    scene.free(engine, &action)?;
    scene.end(&[]).map(|_| ())
}
