//! A wait that the loop thread has left before the grace was over, for something else in the same iteration: nobody is ended
//! for that, and it is not told as a wait any more.

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::line::Line;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::victim::Victim;
use crate::harness::watch::come_and_go;
use crate::harness::{HELPER, alive, slowness};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("given_up::after_naps", || {
            left("naps_then_sleeps", "sleep", |_| Ok(()))
        }),
        Case::new("given_up::after_two_looks_in_a_row", || {
            left("looks_then_receives", "network_wait", |_| Ok(()))
        }),
        Case::new("given_up::interrupted", || {
            left("interrupted_then_sleeps", "sleep", |scene| {
                scene.stall("child_wait")?;
                scene.victim.wake()
            })
        }),
        Case::new("given_up::another_reaped_without_asking_which", || {
            another(GRACE_MS, || Ok(()))
        }),
        Case::new("given_up::while_another_agent_came_and_went", || {
            // Longer than another agent takes to come and go.
            another(5 * GRACE_MS, come_and_go)
        }),
    ]
}

/// Longer than it takes to leave the wait, on any machine that is not slow.
const GRACE_MS: u64 = 2000;

fn scene(grace_ms: u64) -> Result<Scene> {
    let grace = format!("{}ms", grace_ms * u64::from(slowness()));
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    Scene::with(victim, &[&ENFORCE[..], &["--grace", &grace]].concat())
}

fn left(way: &str, cause: &str, leave: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    let mut scene = scene(GRACE_MS)?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", way)?;
    leave(&mut scene)?;
    let closed = stays_alone(&mut scene, GRACE_MS, engine, cause)?;
    ensure!(closed.text("/ended_by") == "poll", "{closed}");
    scene.end(&[]).map(|_| ())
}

fn another(grace_ms: u64, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut scene = scene(grace_ms)?;
    let engine = scene.add_wedged_engine()?;
    let other = scene.add("other", "engine", HELPER)?;
    scene.victim.wait_for("any", "reaps_another_then_sleeps")?;
    scene.stall("child_wait")?;
    meanwhile()?;
    alive::signal(other, libc::SIGKILL)?;
    stays_alone(&mut scene, grace_ms, engine, "sleep")?;
    scene.end(&[]).map(|_| ())
}

/// Lets the grace pass after the wait was left, and looks that nothing was done and that the true cause is told; then the loop
/// may go on.
fn stays_alone(scene: &mut Scene, grace_ms: u64, engine: u32, cause: &str) -> Result<Line> {
    scene.victim.answer("left")?;
    scene.watch.linger(grace_ms * u64::from(slowness()) + 500)?;
    let pid = scene.victim.pid;
    let own = || {
        let lines = scene.watch.seen().iter();
        lines.filter(|line| line.number("/pid") == Some(pid.into()))
    };
    // Where another agent takes longer than the grace to come and go, the wait for either of two children is refused meanwhile.
    let action =
        own().find(|line| line.kind() == "action" && line.text("/refused_by") != "ambiguous_child");
    let before = || own().map(ToString::to_string).collect::<Vec<_>>();
    ensure!(action.is_none(), "{:#?}", before());
    alive::must_live("the engine", engine)?;
    // The grace is longer than the agent may take to see that the wait was left.
    let last = own()
        .rfind(|line| ["stall_opened", "stall_updated"].contains(&line.kind()))
        .context("no stall was told")?
        .clone();
    ensure!(last.text("/cause/kind") == cause, "not {cause}: {last}");
    scene.victim.wake()?;
    scene.victim.answer("waited")?;
    scene.closed(&last)
}
