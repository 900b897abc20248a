//! The main job: a wedged engine that was told to end is killed, and only it, and the loop is back.

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::alive;
use crate::harness::line::Line;
use crate::harness::scene::Scene;
use crate::harness::victim::Victim;

/// Every way of waiting that counts.
const WAYS: [&str; 5] = ["wait4", "waitid", "pidfd_waitid", "pidfd_poll", "naps"];

pub(super) fn cases() -> Vec<Case> {
    let ways = WAYS
        .into_iter()
        .map(|way| Case::new(format!("rescue::{way}"), move || rescued(way, "200ms", 200)));
    ways.chain([
        Case::new("rescue::grace_0s", || rescued("wait4", "0s", 0)),
        Case::new("rescue::grace_20ms", || rescued("wait4", "20ms", 20)),
        Case::new("rescue::any_child_of_one", any_child_of_one),
        Case::new(
            "rescue::told_during_the_wait",
            told_before_the_wait_only_counts_from_the_wait,
        ),
        Case::new("rescue::observe_mode_only_says_so", observed),
    ])
    .collect()
}

fn rescued(way: &'static str, grace: &str, grace_ms: u64) -> Result<()> {
    let mut scene = Scene::enforcing(grace)?;
    scene.add_bystanders()?;
    let engine = scene.add_engine()?;
    scene.victim.tell_to_end("engine")?;
    let from = scene.victim.wait_for("engine", way)?;
    let opened = scene.line("stall_opened")?;
    let action = scene.action()?;
    let waited = scene.victim.answer("waited")?;
    let closed = scene.line("stall_closed")?;

    ensure!(
        waited == "Killed(9)",
        "the engine ended otherwise: {waited}"
    );
    is_wait_for(&opened, engine)?;
    ensure!(
        action.text("/outcome") == "sent" && action.text("/signal") == "SIGKILL",
        "{action}"
    );
    ensure!(
        action.text("/mode") == "enforce" && action.number("/child") == Some(engine.into()),
        "{action}"
    );
    ensure!(
        action.mono_ns() >= from + grace_ms * 1_000_000,
        "too early: {action}"
    );
    same_incident(&[&opened, &action, &closed])?;
    ensure!(
        closed.is_true("/rescued") && closed.text("/ended_by") == "poll",
        "{closed}"
    );
    is_wait_for(&closed, engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

fn is_wait_for(stall: &Line, engine: u32) -> Result<()> {
    ensure!(stall.text("/cause/kind") == "child_wait", "{stall}");
    ensure!(
        stall.number("/cause/child/pid") == Some(engine.into()),
        "another child: {stall}"
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

fn same_incident(lines: &[&Line]) -> Result<()> {
    let first = lines.first().context("no lines")?;
    for line in lines {
        ensure!(
            line.text("/incident") == first.text("/incident"),
            "{line} belongs to another incident than {first}"
        );
    }
    ensure!(
        lines.is_sorted_by_key(|line| line.mono_ns()),
        "out of order: {lines:?}"
    );
    Ok(())
}

/// `wait4(-1)` with a single child names it.
fn any_child_of_one() -> Result<()> {
    let mut scene = Scene::enforcing("100ms")?;
    let engine = scene.add_engine()?;
    scene.victim.tell_to_end("engine")?;
    scene.victim.wait_for("any", "wait4")?;
    let action = scene.action()?;
    ensure!(action.number("/child") == Some(engine.into()), "{action}");
    ensure!(
        scene.line("stall_closed")?.is_true("/rescued"),
        "not rescued"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// The grace counts from the later of signal and wait: an engine told long ago still gets all of it.
fn told_before_the_wait_only_counts_from_the_wait() -> Result<()> {
    let mut scene = Scene::enforcing("300ms")?;
    scene.add_bystanders()?;
    let engine = scene.add_engine()?;
    scene.victim.tell_to_end("engine")?;
    // Longer than the grace.
    scene.victim.ask("idle 500", "idled")?;
    let from = scene.victim.wait_for("engine", "wait4")?;
    let action = scene.action()?;
    ensure!(
        action.mono_ns() >= from + 300_000_000,
        "too early: {action}"
    );
    ensure!(
        scene.line("stall_closed")?.is_true("/rescued"),
        "not rescued"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Without `--enforce` the same is decided, said, and not done.
fn observed() -> Result<()> {
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let mut scene = Scene::with(victim, &["--engine", "query-engine-*", "--grace", "50ms"])?;
    scene.add_bystanders()?;
    let engine = scene.add_engine()?;
    scene.victim.tell_to_end("engine")?;
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
    scene.free(engine)?;
    scene.end(&[]).map(|_| ())
}
