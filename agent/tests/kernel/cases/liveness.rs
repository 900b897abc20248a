//! The countdown to the kubelet's kill, told while a stall lasts.

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::scene::Scene;
use crate::harness::slowness;
use crate::harness::victim::Victim;

pub(super) fn cases() -> Vec<Case> {
    vec![Case::new(
        "liveness::risk_rises_and_is_over",
        rises_and_is_over,
    )]
}

/// A probe with this period; its time-out is a quarter, and three failures are the end.
fn probe(period_ms: u64) -> String {
    format!("{period_ms}ms/{}ms/3", period_ms / 4)
}

fn rises_and_is_over() -> Result<()> {
    let period_ms = 1000 * u64::from(slowness());
    let probe = probe(period_ms);
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let pid = victim.pid;
    let mut scene = Scene::with(victim, &["--liveness", &probe])?;
    scene.victim.tell("nap")?;
    let stall = scene.stall("sleep")?;
    let id = stall.text("/incident").to_owned();
    let level = |scene: &mut Scene, level: &'static str| {
        scene.watch.next(&format!("the level {level}"), |line| {
            line.is("risk", pid) && line.text("/level") == level
        })
    };
    let elevated = level(&mut scene, "elevated")?;
    ensure!(
        elevated.float("/seconds_to_decision") > Some(0.0)
            && elevated.float("/seconds_to_sigkill") > Some(30.0)
            && !elevated.is_true("/probes_seen"),
        "{elevated}"
    );
    // Of the whole period nothing is known.
    let uncertainty = elevated.float("/uncertainty_s").unwrap_or_default();
    let half = std::time::Duration::from_millis(period_ms / 2).as_secs_f64();
    ensure!((uncertainty - half).abs() < half / 10.0, "{elevated}");
    let imminent = level(&mut scene, "imminent")?;
    ensure!(
        imminent.float("/seconds_to_decision") < elevated.float("/seconds_to_decision"),
        "{imminent} after {elevated}"
    );
    let failed = scene.watch.next("a failure for certain", |line| {
        line.is("risk", pid) && line.number("/failed_probes") == Some(1)
    })?;
    scene.victim.wake()?;
    let closed = scene.watch.next("the stall's end", |line| {
        line.is("stall_closed", pid) && line.text("/incident") == id
    })?;
    ensure!(
        closed.number("/liveness/failed_probes") >= failed.number("/failed_probes"),
        "{closed}"
    );
    let none = level(&mut scene, "none")?;
    ensure!(
        none.number("/failed_probes") == Some(0) && none.float("/seconds_to_decision").is_none(),
        "{none}"
    );
    scene.end(&[]).map(|_| ())
}
