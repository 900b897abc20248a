//! Engines from birth to death, and what their loop was refused meanwhile.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::line::Line;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::victim::Victim;
use crate::harness::watch::Options;
use crate::harness::{ENGINE, SHELL, alive, program, slowness};

/// A startup race takes a second.
const LATE_MS: u64 = 1500;

/// The client of an engine must have some time to be refused in.
fn late_ms() -> u64 {
    LATE_MS * u64::from(slowness())
}

const KNOCK_MS: u64 = 20;
const NAMED: [&str; 2] = ["--engine", "query-engine-*"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("engines::a_late_one", || late("late", ENGINE)),
        Case::new("engines::a_late_one_behind_a_shell", || {
            let engine = program(ENGINE);
            late("shell", &format!("{SHELL}:{}", engine.display()))
        }),
        Case::new("engines::the_next_one_on_the_same_port", the_same_port),
        Case::new("engines::planned_and_crashed", planned_and_crashed),
        Case::new("engines::killed_and_recovered", killed_and_recovered),
        Case::new("engines::asked_for_its_version", asked_for_its_version),
        Case::new("engines::not_reaped", not_reaped),
        Case::new("engines::older_than_the_agent", || older(None)),
        Case::new("engines::sampled", || older(Some("sampling"))),
    ]
}

/// What an engine and its client know of a startup.
struct Startup {
    refused: u64,
    /// It began to listen in between, and took the first bytes in between.
    listened: Range<u64>,
    accepted: Range<u64>,
}

impl Startup {
    fn of(victim: &mut Victim, port: &str, how: &str) -> Result<Self> {
        let told = victim.ask(&format!("knock {port} {KNOCK_MS} {how}"), "knocked")?;
        let numbers: Result<Vec<u64>, _> = told.split(' ').map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("knocked {told}"))?;
        let [refused, before, listened, accepted, answered] = numbers[..] else {
            anyhow::bail!("knocked {told}");
        };
        Ok(Self {
            refused,
            listened: before..listened,
            accepted: accepted..answered,
        })
    }
}

/// Whatever the machine does in between, the order of moments stays.
fn is_within(line: &Line, truth: &Range<u64>) -> Result<()> {
    ensure!(truth.contains(&line.mono_ns()), "not in {truth:?}: {line}");
    Ok(())
}

/// A span in whole milliseconds.
fn span(line: &Line, field: &str) -> Result<u64> {
    let span = line
        .float(field)
        .with_context(|| format!("no {field}: {line}"))?;
    Ok(u64::try_from(
        Duration::from_secs_f64(span / 1000.0).as_millis(),
    )?)
}

fn event(scene: &mut Scene, event: &'static str) -> Result<Line> {
    let pid = scene.victim.pid;
    scene.watch.next(&format!("an engine's {event}"), |line| {
        line.is("engine", pid) && line.text("/event") == event
    })
}

fn ready(scene: &mut Scene, ready: &'static str) -> Result<Line> {
    let pid = scene.victim.pid;
    scene.watch.next(&format!("that it {ready}"), |line| {
        line.is("engine_ready", pid) && line.text("/ready") == ready
    })
}

fn start(arguments: &[&str]) -> Result<(Scene, String)> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let port = victim.ask("port", "port")?;
    Ok((Scene::with(victim, arguments)?, port))
}

/// Every refused connection is counted, and every moment told.
fn late(kind: &str, program: &str) -> Result<()> {
    let (mut scene, port) = start(&NAMED)?;
    // The loop is older than the agent: it may have an engine that was not seen.
    ready(&mut scene, "unknown")?;
    let kind = format!("{kind}-{port}-{}", late_ms());
    scene.victim.spawn("engine", &kind, program)?;
    let truth = Startup::of(&mut scene.victim, &port, "once")?;
    ensure!(truth.refused > 0, "the engine was not late");
    let spawned = event(&mut scene, "spawned")?;
    ensure!(spawned.number("/generation") == Some(1), "{spawned}");
    let listening = event(&mut scene, "listening")?;
    ensure!(
        listening.number("/refused") == Some(truth.refused)
            && listening.number("/engine") == spawned.number("/engine")
            && listening.number("/port") == port.parse().ok(),
        "{} refused: {listening}",
        truth.refused
    );
    is_within(&listening, &truth.listened)?;
    let between = |line: &Line| line.mono_ns().saturating_sub(spawned.mono_ns()) / 1_000_000;
    let after = span(&listening, "/after_ms")?;
    ensure!(after.abs_diff(between(&listening)) <= 1, "{listening}");
    let race = scene.line("startup_race")?;
    let lasted = span(&race, "/lasted_ms")?;
    ensure!(
        race.number("/refused") == Some(truth.refused) && lasted <= after,
        "{race} of {listening}"
    );
    let accepting = event(&mut scene, "accepting")?;
    is_within(&accepting, &truth.accepted)?;
    let after = span(&accepting, "/after_ms")?;
    ensure!(after.abs_diff(between(&accepting)) <= 1, "{accepting}");
    ready(&mut scene, "accepts")?;
    scene.end(&[]).map(|_| ())
}

/// What is refused after the end of one is the startup of the next.
fn the_same_port() -> Result<()> {
    let (mut scene, port) = start(&NAMED)?;
    let first = scene
        .victim
        .spawn("first", &format!("late-{port}-0"), ENGINE)?;
    Startup::of(&mut scene.victim, &port, "hold")?;
    event(&mut scene, "accepting")?;
    alive::signal(first, libc::SIGKILL)?;
    let ended = event(&mut scene, "ended")?;
    scene.victim.wait_for("first", "wait4")?;
    scene.victim.answer("waited")?;
    ready(&mut scene, "starting")?;
    let kind = format!("late-{port}-{}", late_ms());
    scene.victim.spawn("second", &kind, ENGINE)?;
    let truth = Startup::of(&mut scene.victim, &port, "once")?;
    let race = scene.line("startup_race")?;
    let since_end = (race.mono_ns() - ended.mono_ns()) / 1_000_000;
    ensure!(
        race.number("/refused") == Some(truth.refused)
            && race.number("/generation") == Some(2)
            && span(&race, "/lasted_ms")? <= since_end,
        "{} refused: {race} after {ended}",
        truth.refused
    );
    ready(&mut scene, "accepts")?;
    scene.end(&[]).map(|_| ())
}

fn planned_and_crashed() -> Result<()> {
    let (mut scene, port) = start(&NAMED)?;
    for (number, (reason, status)) in [("planned", libc::SIGINT), ("crashed", libc::SIGKILL)]
        .into_iter()
        .enumerate()
    {
        let name = format!("engine{number}");
        let pid = scene
            .victim
            .spawn(&name, &format!("late-{port}-0"), ENGINE)?;
        Startup::of(&mut scene.victim, &port, "hold")?;
        event(&mut scene, "accepting")?;
        if reason == "planned" {
            scene.victim.tell_to_end(&name)?;
        } else {
            alive::signal(pid, status)?;
        }
        let ended = event(&mut scene, "ended")?;
        ensure!(
            ended.text("/reason") == reason
                && ended.number("/status") == u64::try_from(status).ok()
                && ended.number("/generation") == u64::try_from(number + 1).ok(),
            "expected {reason}: {ended}"
        );
        scene.victim.wait_for(&name, "wait4")?;
        scene.victim.answer("waited")?;
    }
    scene.end(&[]).map(|_| ())
}

/// The first engine that accepts after a rescue is the recovery.
fn killed_and_recovered() -> Result<()> {
    let mut arguments = ENFORCE.to_vec();
    arguments.extend(["--grace", "100ms"]);
    let (mut scene, port) = start(&arguments)?;
    let wedged = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.rescued(wedged)?;
    // Told before the loop is back.
    let mut seen = scene.watch.seen().iter();
    let ended = seen.find(|line| line.text("/event") == "ended");
    let ended = ended.context("the engine's end was not told")?.clone();
    ensure!(
        ended.text("/reason") == "killed" && ended.number("/engine") == Some(wedged.into()),
        "{ended}"
    );
    scene
        .victim
        .spawn("next", &format!("late-{port}-0"), ENGINE)?;
    Startup::of(&mut scene.victim, &port, "hold")?;
    let accepting = event(&mut scene, "accepting")?;
    let recovery = scene.line("recovery")?;
    ensure!(
        recovery.mono_ns() == accepting.mono_ns() && span(&recovery, "/after_ms")? > 0,
        "{recovery} with {accepting}"
    );
    scene.end(&[(wedged, "SIGKILL")]).map(|_| ())
}

/// A run that tells its version and ends is no engine.
fn asked_for_its_version() -> Result<()> {
    let (mut scene, port) = start(&NAMED)?;
    scene.victim.spawn("version", "ends-after-1", ENGINE)?;
    scene.victim.wait_for("version", "wait4")?;
    scene.victim.answer("waited")?;
    scene
        .victim
        .spawn("engine", &format!("late-{port}-0"), ENGINE)?;
    Startup::of(&mut scene.victim, &port, "hold")?;
    let listening = event(&mut scene, "listening")?;
    ensure!(listening.number("/generation") == Some(1), "{listening}");
    scene.end(&[]).map(|_| ())
}

/// Who should reap an engine is named.
fn not_reaped() -> Result<()> {
    let (mut scene, port) = start(&NAMED)?;
    let loop_pid = scene.victim.pid;
    let pid = scene
        .victim
        .spawn("engine", &format!("late-{port}-0"), ENGINE)?;
    Startup::of(&mut scene.victim, &port, "hold")?;
    alive::signal(pid, libc::SIGKILL)?;
    let zombies = event(&mut scene, "zombies")?;
    ensure!(
        zombies.number("/zombies") == Some(1)
            && zombies.number("/engine") == Some(pid.into())
            && zombies.number("/parent") == Some(loop_pid.into()),
        "{zombies}"
    );
    scene.victim.wait_for("engine", "wait4")?;
    scene.victim.answer("waited")?;
    let none = scene.watch.next("that it is reaped", |line| {
        line.is("engine", loop_pid) && line.number("/zombies") == Some(0)
    })?;
    ensure!(none.number("/parent").is_none(), "{none}");
    scene.end(&[]).map(|_| ())
}

/// Of what was there before, or is only sampled, no durations are told and no refusals.
fn older(plan: Option<&str>) -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let port = victim.ask("port", "port")?;
    victim.spawn("engine", &format!("late-{port}-0"), ENGINE)?;
    Startup::of(&mut victim, &port, "hold")?;
    let arguments = &NAMED;
    let options = Options {
        arguments,
        plan,
        ..Options::default()
    };
    let mut scene = Scene::with_options(victim, &options)?;
    let found = event(&mut scene, "found")?;
    ensure!(found.number("/generation") == Some(1), "{found}");
    let listening = event(&mut scene, "listening")?;
    ensure!(
        listening.number("/port") == port.parse().ok() && listening.float("/after_ms").is_none(),
        "{listening}"
    );
    // Where connections are not seen there is no number of them, not even 0.
    ensure!(
        listening.number("/refused").is_none() == (plan == Some("sampling")),
        "{listening}"
    );
    let accepting = event(&mut scene, "accepting")?;
    ensure!(accepting.float("/after_ms").is_none(), "{accepting}");
    ready(&mut scene, "accepts")?;
    scene.end(&[]).map(|_| ())
}
