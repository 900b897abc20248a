//! A wait that the loop thread has left before the grace was over, for something else in the same iteration: nobody is ended
//! for that, and it is not told as a wait any more.

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::line::Line;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::victim::Victim;
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
        Case::new("given_up::another_reaped_without_asking_which", another),
    ]
}

/// Longer than it takes to leave the wait, on any machine.
fn grace_ms() -> u64 {
    2000 * u64::from(slowness())
}

fn scene() -> Result<Scene> {
    let grace = format!("{}ms", grace_ms());
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    Scene::with(victim, &[&ENFORCE[..], &["--grace", &grace]].concat())
}

fn left(way: &str, cause: &str, leave: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    let mut scene = scene()?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", way)?;
    leave(&mut scene)?;
    let closed = stays_alone(&mut scene, engine, cause)?;
    ensure!(closed.text("/ended_by") == "poll", "{closed}");
    scene.end(&[]).map(|_| ())
}

fn another() -> Result<()> {
    let mut scene = scene()?;
    let engine = scene.add_wedged_engine()?;
    let other = scene.add("other", "engine", HELPER)?;
    scene.victim.wait_for("any", "reaps_another_then_sleeps")?;
    scene.stall("child_wait")?;
    alive::signal(other, libc::SIGKILL)?;
    stays_alone(&mut scene, engine, "sleep")?;
    scene.end(&[]).map(|_| ())
}

/// Waits until the true cause is told, lets the grace pass, and looks that nothing was done; then the loop may go on.
fn stays_alone(scene: &mut Scene, engine: u32, cause: &str) -> Result<Line> {
    let stall = scene.stall(cause)?;
    let so_far = scene.watch.seen().len();
    scene.watch.linger(grace_ms() + 500)?;
    alive::must_live("the engine", engine)?;
    let pid = scene.victim.pid;
    let odd = scene.watch.seen().iter().skip(so_far).find(|line| {
        let wait = line.text("/cause/kind") == "child_wait";
        line.number("/pid") == Some(pid.into()) && (line.kind() == "action" || wait)
    });
    ensure!(odd.is_none(), "after {stall}: {odd:?}");
    scene.victim.wake()?;
    scene.victim.answer("waited")?;
    scene.closed(&stall)
}
