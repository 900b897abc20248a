//! The countdown to the kubelet's kill, told while a stall lasts.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::Case;
use crate::harness::alive;
use crate::harness::line::Line;
use crate::harness::scene::Scene;
use crate::harness::slowness;
use crate::harness::victim::Victim;
use crate::sys;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("liveness::risk_rises_and_is_over", rises_and_is_over),
        Case::new("liveness::probes_are_seen", || probes_are_seen(false)),
        Case::new("liveness::probes_of_a_named_port_are_seen", || {
            probes_are_seen(true)
        }),
        Case::new("liveness::closed_without_an_answer", without_an_answer),
        Case::new(
            "liveness::a_worker_that_polls_answers_for_another",
            workers_share_a_socket,
        ),
    ]
}

/// A probe with this period; its time-out is a quarter, and three failures are the end.
pub(super) fn probe(period_ms: u64) -> String {
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

/// A probe that is later than that may be taken for another one.
pub(super) const HELD_UP_MS: u64 = 50;
/// Kubelets that a busy machine may hold up before one is not.
pub(super) const KUBELETS: u32 = 10;

/// A loop with a port, and how it is probed.
struct Probed {
    scene: Scene,
    port: String,
    probe: String,
}

/// A kubelet comes eight times or so.
pub(super) fn period() -> Duration {
    Duration::from_millis((600 * u64::from(slowness())).max(1000))
}

impl Probed {
    fn start(named: bool) -> Result<Self> {
        let probe = probe(u64::try_from(period().as_millis())?);
        let mut victim = Victim::start(&["loop", "epoll_wait"])?;
        let port = victim.ask("listen", "listens")?;
        let told = if named {
            format!("{probe}@{port}")
        } else {
            probe.clone()
        };
        Ok(Self {
            scene: Scene::with(victim, &["--liveness", &told])?,
            port,
            probe,
        })
    }

    /// Gets a kubelet that was answered some times, and has `spoil` make it kill the loop. Answers with the lines since then, when it
    /// killed, and by how many milliseconds the machine held it up.
    fn run(mut self, spoil: Spoil) -> Result<(Vec<Line>, u64, u64)> {
        let mut kubelet = Victim::start(&["kubelet", &self.port, &self.probe])?;
        for _ in 0..4 {
            kubelet.answer("alive")?;
        }
        let from = self.scene.watch.seen().len();
        let killed = spoil(&mut self.scene, &mut kubelet)?;
        let (at, held_up) = killed.split_once(' ').context("no moment")?;
        let lines = self.scene.watch.seen().get(from..).unwrap_or_default();
        let lines = lines.to_vec();
        self.scene.end(&[])?;
        Ok((lines, at.parse()?, held_up.parse()?))
    }
}

type Spoil = fn(&mut Scene, &mut Victim) -> Result<String>;

/// Judges the first run in which the machine does not hold up the kubelet.
fn judged(
    run: impl Fn() -> Result<(Vec<Line>, u64, u64)>,
    judge: impl Fn(&[Line], u64) -> Result<()>,
) -> Result<()> {
    for _ in 0..KUBELETS {
        let (lines, killed, held_up) = run()?;
        if held_up <= HELD_UP_MS {
            return judge(&lines, killed);
        }
    }
    bail!("the machine has held up {KUBELETS} kubelets by more than {HELD_UP_MS} ms")
}

/// The first line of a risk that is as wanted, from the probes that were seen.
fn risk(lines: &[Line], what: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
    let risks = lines.iter().filter(|line| line.kind() == "risk");
    let mut seen =
        risks.filter(|line| line.is_true("/probes_seen") || line.text("/level") == "none");
    let found = seen.find(|line| wanted(line)).cloned();
    let all = || lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    found.with_context(|| format!("{what} was not told: {:#?}", all()))
}

/// A kubelet probes the loop, which another client asks ten times a second. What failed and what will is told as the kubelet sees it.
fn probes_are_seen(named: bool) -> Result<()> {
    let run = || {
        let probed = Probed::start(named)?;
        let _client = Victim::start(&["client", &probed.port])?;
        probed.run(stall_twice)
    };
    judged(run, |lines, killed| {
        let at = |line: &Line| line.number("/mono_ns").unwrap_or_default();
        let elevated = risk(lines, "a warning", |line| line.text("/level") == "elevated")?;
        let failed = risk(lines, "the failed probe", |line| {
            line.number("/failed_probes") == Some(1)
        })?;
        ensure!(at(&elevated) < at(&failed), "{elevated} after {failed}");
        let none = risk(lines, "the end of the risk", |line| {
            line.text("/level") == "none" && at(line) > at(&failed)
        })?;
        ensure!(none.number("/failed_probes") == Some(0), "{none}");
        let last = risk(lines, "the last failure before", |line| {
            line.number("/failed_probes") == Some(2)
        })?;
        let left = last.float("/seconds_to_decision").unwrap_or_default();
        let told = at(&last) + u64::try_from(Duration::from_secs_f64(left).as_nanos())?;
        // Without its probes, half of the period would be unknown.
        let off = Duration::from_nanos(killed.abs_diff(told));
        let uncertainty = last.float("/uncertainty_s").unwrap_or(f64::INFINITY);
        ensure!(
            off < period() / 4 && uncertainty < 0.2,
            "{off:?} off: {last}"
        );
        Ok(())
    })
}

/// Once for a probe, and then for good.
fn stall_twice(scene: &mut Scene, kubelet: &mut Victim) -> Result<String> {
    scene.victim.tell("nap")?;
    kubelet.answer("failed")?;
    wake(scene)?;
    kubelet.answer("alive")?;
    scene.victim.tell("nap")?;
    let killed = kubelet.answer("killed")?;
    wake(scene)?;
    Ok(killed)
}

/// Ends a nap, and reads on until its end is told: other stalls of a busy machine may have been told before it.
fn wake(scene: &mut Scene) -> Result<()> {
    let (pid, from) = (scene.victim.pid, sys::mono_ns());
    scene.victim.wake()?;
    scene.victim.answer("napped")?;
    let closed =
        |line: &Line| line.is("stall_closed", pid) && line.number("/mono_ns") >= Some(from);
    scene.watch.next("the end of the nap", closed).map(|_| ())
}

/// The loop runs, and closes the probe's connection without a word: that is a failure for the kubelet too.
fn without_an_answer() -> Result<()> {
    judged(
        || Probed::start(false)?.run(mute),
        |lines, _| {
            let failed = risk(lines, "a failed probe", |line| {
                line.number("/failed_probes") == Some(1)
            })?;
            ensure!(failed.float("/seconds_to_decision").is_some(), "{failed}");
            Ok(())
        },
    )
}

fn mute(scene: &mut Scene, kubelet: &mut Victim) -> Result<String> {
    scene.victim.ask("mute on", "muted")?;
    let killed = kubelet.answer("killed")?;
    // What is told of a stall from here on comes after that.
    scene.nap()?;
    Ok(killed)
}

/// Two workers have one listening socket: while one of them polls, the stall of the other costs no probe. When both are away, it does.
fn workers_share_a_socket() -> Result<()> {
    let period_ms = 1000 * u64::from(slowness());
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let pid = victim.pid;
    victim.ask("listen", "listens")?;
    let mut scene = Scene::with(victim, &["--liveness", &probe(period_ms)])?;
    let worker: u32 = scene.victim.ask("fork-worker", "spawned")?.parse()?;
    scene
        .watch
        .next("the worker", |line| line.is("loop", worker))?;
    let from = scene.watch.seen().len();
    scene.victim.tell("nap")?;
    scene.stall("sleep")?;
    // Without the other worker, the kubelet would decide to kill by then.
    scene.watch.linger(4 * period_ms)?;
    let at_risk = |line: &&Line| line.kind() == "risk" && line.text("/level") != "none";
    let lines = scene.watch.seen().get(from..).unwrap_or_default();
    let warned = lines.iter().find(at_risk);
    ensure!(
        warned.is_none(),
        "warned while a worker answers: {}",
        warned.map_or(String::new(), ToString::to_string)
    );
    alive::signal(worker, libc::SIGSTOP)?;
    let stopped = sys::mono_ns();
    let elevated = scene.watch.next("a warning", |line| {
        line.is("risk", pid) && line.text("/level") == "elevated"
    })?;
    // Since the last of them left.
    ensure!(
        elevated.float("/seconds_to_decision")
            > Some(Duration::from_millis(period_ms).as_secs_f64())
            && elevated.mono_ns() > stopped,
        "{elevated}"
    );
    alive::signal(worker, libc::SIGCONT)?;
    scene.watch.next("the end of the risk", |line| {
        line.is("risk", pid) && line.text("/level") == "none"
    })?;
    wake(&mut scene)?;
    scene.end(&[]).map(|_| ())
}
