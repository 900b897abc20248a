//! The countdown to the kubelet's kill, told while a stall lasts.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::line::Line;
use crate::harness::scene::Scene;
use crate::harness::slowness;
use crate::harness::victim::Victim;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("liveness::risk_rises_and_is_over", rises_and_is_over),
        Case::new("liveness::probes_are_seen", || probes_are_seen(false)),
        Case::new("liveness::probes_of_a_named_port_are_seen", || {
            probes_are_seen(true)
        }),
        Case::new("liveness::closed_without_an_answer", without_an_answer),
    ]
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
    let half = Duration::from_millis(period_ms / 2).as_secs_f64();
    ensure!((uncertainty - half).abs() < half / 10.0, "{elevated}");
    let imminent = level(&mut scene, "imminent")?;
    ensure!(
        imminent.float("/seconds_to_decision").is_some()
            && imminent.float("/seconds_to_decision") < elevated.float("/seconds_to_decision"),
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

/// A kubelet probes the loop, which another client asks ten times a second. What failed and what will is told as the kubelet sees it.
fn probes_are_seen(named: bool) -> Result<()> {
    // The kubelet comes eight times or so.
    let period_ms = (600 * u64::from(slowness())).max(1000);
    let mut probe = probe(period_ms);
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let pid = victim.pid;
    let port = victim.ask("listen", "listens")?;
    let mut kubelet = Victim::start(&["kubelet", &port, &probe])?;
    let _client = Victim::start(&["client", &port])?;
    if named {
        probe = format!("{probe}@{port}");
    }
    let mut scene = Scene::with(victim, &["--liveness", &probe])?;
    for _ in 0..4 {
        kubelet.answer("alive")?;
    }
    let risk = |scene: &mut Scene, what: &str, wanted: &dyn Fn(&Line) -> bool| {
        scene
            .watch
            .next(what, |line| line.is("risk", pid) && wanted(line))
    };

    scene.victim.tell("nap")?;
    kubelet.answer("failed")?;
    let failed = risk(&mut scene, "the failed probe", &|line| {
        line.number("/failed_probes") == Some(1)
    })?;
    ensure!(failed.is_true("/probes_seen"), "{failed}");
    let before = scene.watch.seen().iter();
    let elevated = before
        .filter(|line| line.is("risk", pid))
        .find(|line| line.text("/level") == "elevated" && line.is_true("/probes_seen"));
    ensure!(elevated.is_some(), "no warning before: {failed}");
    scene.victim.wake()?;
    kubelet.answer("alive")?;
    let none = risk(&mut scene, "the end of the risk", &|line| {
        line.text("/level") == "none"
    })?;
    ensure!(none.number("/failed_probes") == Some(0), "{none}");

    scene.victim.tell("nap")?;
    let last = risk(&mut scene, "the last failure before", &|line| {
        line.number("/failed_probes") == Some(2)
    })?;
    let killed: u64 = kubelet.answer("killed")?.parse()?;
    let left = last.float("/seconds_to_decision").unwrap_or_default();
    let told = last.number("/mono_ns").unwrap_or_default()
        + u64::try_from(Duration::from_secs_f64(left).as_nanos())?;
    // Without its probes, half of the period would be unknown.
    let off = Duration::from_nanos(killed.abs_diff(told));
    ensure!(
        off < Duration::from_millis(period_ms / 4) && last.float("/uncertainty_s") < Some(0.2),
        "{off:?} off: {last}"
    );
    scene.victim.wake()?;
    scene.victim.answer("napped")?;
    scene.end(&[]).map(|_| ())
}

/// The loop runs, and closes the probe's connection without a word: that is a failure for the kubelet too.
fn without_an_answer() -> Result<()> {
    let probe = probe((600 * u64::from(slowness())).max(1000));
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let pid = victim.pid;
    let port = victim.ask("listen", "listens")?;
    let mut kubelet = Victim::start(&["kubelet", &port, &probe])?;
    let mut scene = Scene::with(victim, &["--liveness", &probe])?;
    for _ in 0..4 {
        kubelet.answer("alive")?;
    }
    scene.victim.ask("mute", "muted")?;
    let failed = scene.watch.next("a failed probe", |line| {
        line.is("risk", pid) && line.number("/failed_probes") == Some(1)
    })?;
    ensure!(
        failed.is_true("/probes_seen") && failed.float("/seconds_to_decision").is_some(),
        "{failed}"
    );
    scene.end(&[]).map(|_| ())
}
