//! A kubelet that is about to kill cuts the grace, and what is only configured does not.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::Case;
use super::liveness::{HELD_UP_MS, KUBELETS};
use crate::harness::ENGINE;
use crate::harness::line::Line;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::slowness;
use crate::harness::victim::Victim;

pub(super) fn cases() -> Vec<Case> {
    // In periods: three failures are the end.
    let graces = [10, 120];
    let cut = graces.into_iter().map(|periods| {
        Case::new(
            format!("deadline::cuts_a_grace_of_{periods}_periods"),
            move || unless_held_up(|| cut(periods)),
        )
    });
    cut.chain([
        Case::new("deadline::learnt_while_it_waits", || {
            unless_held_up(learnt_while_it_waits)
        }),
        Case::new("deadline::leaves_a_grace_that_fits", a_grace_that_fits),
        Case::new("deadline::is_none_without_a_probe_seen", no_probe_seen),
    ])
    .collect()
}

/// Time-out and period are the same, and three failures are the end.
fn period() -> Duration {
    Duration::from_millis((600 * u64::from(slowness())).max(1000))
}

/// Judges the first run in which the machine does not hold up the kubelet: one that is held up is not known as one.
fn unless_held_up(run: impl Fn() -> Result<Judged>) -> Result<()> {
    for _ in 0..KUBELETS {
        if run()? == Judged::Passed {
            return Ok(());
        }
    }
    bail!("the machine has held up {KUBELETS} kubelets by more than {HELD_UP_MS} ms")
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Passed,
    HeldUp,
}

/// A grace that was not cut: it had to be, unless the machine has held up the kubelet that killed meanwhile.
fn was_held_up(action: &Line, kubelet: &mut Victim) -> Result<bool> {
    if !action.text("/grace_reason").is_empty() {
        return Ok(false);
    }
    let killed = kubelet.answer("killed")?;
    let (_, held_up) = killed.trim().split_once(' ').context("no moment")?;
    ensure!(held_up.parse::<u64>()? > HELD_UP_MS, "{action}");
    Ok(true)
}

/// A loop with a port that is probed so, an enforcing agent with that grace, and the port.
fn probed(grace: &str) -> Result<(Scene, String, String)> {
    let period = period().as_millis();
    let probe = format!("{period}ms/{period}ms/3");
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let port = victim.ask("listen", "listens")?;
    let named = format!("{probe}@{port}");
    let options = ["--grace", grace, "--liveness", &named];
    let arguments = [&ENFORCE[..], &options].concat();
    Ok((Scene::with(victim, &arguments)?, port, probe))
}

/// A probe is answered after that moment: who has decided to kill probes no more.
fn is_alive_after(kubelet: &mut Victim, moment: u64) -> Result<()> {
    while kubelet.answer("alive")?.trim().parse::<u64>()? <= moment {}
    Ok(())
}

fn is_cut(action: &Line, grace_ms: f64) -> Result<()> {
    let given = action.float("/grace_ms").unwrap_or_default();
    ensure!(
        action.text("/grace_reason") == "deadline" && (100.0..grace_ms).contains(&given),
        "{action}"
    );
    ensure!(
        action.text("/detail").contains("the grace was cut"),
        "{action}"
    );
    Ok(())
}

/// The engine is killed in time for the loop to answer, whatever the grace.
fn cut(periods: u32) -> Result<Judged> {
    let grace = format!("{}ms", (period() * periods).as_millis());
    let (mut scene, port, probe) = probed(&grace)?;
    let mut kubelet = Victim::start(&["kubelet", &port, &probe])?;
    for _ in 0..4 {
        kubelet.answer("alive")?;
    }
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    let from = scene.victim.wait_for("engine", "wait4")?;
    let action = scene.rescued(engine)?;
    scene.victim.answer("waited")?;
    if was_held_up(&action, &mut kubelet)? {
        scene.end(&[(engine, "SIGKILL")])?;
        return Ok(Judged::HeldUp);
    }
    // The first of three failures begins within a period.
    is_cut(&action, 4.0 * 1000.0 * period().as_secs_f64())?;
    // Not before it is necessary.
    let waited = Duration::from_nanos(action.mono_ns() - from);
    ensure!(waited > period() * 2, "{waited:?}: {action}");
    is_alive_after(&mut kubelet, action.mono_ns())?;
    scene.end(&[(engine, "SIGKILL")])?;
    Ok(Judged::Passed)
}

/// The first probes come when the loop waits already: the second of them shows the deadline.
fn learnt_while_it_waits() -> Result<Judged> {
    let grace = period() * 10;
    let (mut scene, port, probe) = probed(&format!("{}ms", grace.as_millis()))?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.stall("child_wait")?;
    let mut kubelet = Victim::start(&["kubelet", &port, &probe])?;
    let action = scene.rescued(engine)?;
    scene.victim.answer("waited")?;
    if was_held_up(&action, &mut kubelet)? {
        scene.end(&[(engine, "SIGKILL")])?;
        return Ok(Judged::HeldUp);
    }
    is_cut(&action, 1000.0 * grace.as_secs_f64())?;
    is_alive_after(&mut kubelet, action.mono_ns())?;
    scene.end(&[(engine, "SIGKILL")])?;
    Ok(Judged::Passed)
}

fn a_grace_that_fits() -> Result<()> {
    let (mut scene, port, probe) = probed("200ms")?;
    let mut kubelet = Victim::start(&["kubelet", &port, &probe])?;
    for _ in 0..4 {
        kubelet.answer("alive")?;
    }
    let engine = scene.add_wedged_engine()?;
    let from = scene.victim.wait_for("engine", "wait4")?;
    let action = scene.rescued(engine)?;
    scene.victim.answer("waited")?;
    is_whole(&action, from, 200)?;
    is_alive_after(&mut kubelet, action.mono_ns())?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Nobody probes: the configuration alone is no reason to hurry, however long the grace.
fn no_probe_seen() -> Result<()> {
    let grace = period() * 5;
    let ms = u64::try_from(grace.as_millis())?;
    let (mut scene, _, _) = probed(&format!("{ms}ms"))?;
    let engine = scene.add("engine", "engine", ENGINE)?;
    scene.victim.tell_to_end("engine")?;
    let from = scene.victim.wait_for("engine", "wait4")?;
    let action = scene.rescued(engine)?;
    scene.victim.answer("waited")?;
    is_whole(&action, from, ms)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

fn is_whole(action: &Line, from: u64, grace_ms: u64) -> Result<()> {
    let told = action.number("/grace_ms").is_none_or(|ms| ms == grace_ms);
    ensure!(told && action.text("/grace_reason").is_empty(), "{action}");
    ensure!(action.mono_ns() >= from + grace_ms * 1_000_000, "{action}");
    Ok(())
}
