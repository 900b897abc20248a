//! Agents that come late, or see little: loops already stalled, PID namespaces, and no BPF at all.

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::gate::Gate;
use crate::harness::scene::{ENFORCE, Scene, was_sent};
use crate::harness::victim::Victim;
use crate::harness::watch::{Agent, Options};
use crate::harness::{ENGINE, alive};

/// Default of `unknown_grace`, as milliseconds of a stall.
const UNKNOWN_GRACE_MS: f64 = 10_000.0;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("late::already_stalled", already_stalled),
        Case::new("late::already_stalled_is_freed_in_two_steps", || {
            two_steps(None)
        }),
        Case::new("late::stalled_and_not_shown_to_be_a_loop", not_shown),
        Case::new("late::shown_to_be_no_loop_while_stalled", shown_late),
        Case::new("late::told_before_and_waited_for_after", told_before),
        Case::new(
            "late::told_before_and_the_signal_is_pending",
            pending_signal,
        ),
        Case::new("late::told_while_it_is_stalled", told_meanwhile),
        Case::new("late::pid_namespace", pid_namespace),
        Case::new("late::sampling_notices", sampling),
        Case::new("late::sampling_frees_in_two_steps", || {
            two_steps(Some("sampling"))
        }),
    ]
}

fn arguments() -> Vec<&'static str> {
    [&ENFORCE[..], &["--grace", "200ms"]].concat()
}

/// It is unknown who told whom before the agent came: nothing is done in the length of a stall.
fn already_stalled() -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let engine = victim.spawn("engine", "engine", ENGINE)?;
    victim.tell_to_end("engine")?;
    victim.wait_for("engine", "wait4")?;
    alive::until_state(victim.pid, 'S')?;
    let mut scene = Scene::with(victim, &arguments())?;
    let stall = scene.stall("child_wait")?;
    ensure!(
        stall.is_true("/busy_is_lower_bound"),
        "how long it lasts is unknown: {stall}"
    );
    if stall.number("/cause/child/pid").is_none() {
        // What is an engine is still being read.
        scene.watch.next("the engine's name", |line| {
            line.number("/cause/child/pid") == Some(engine.into())
        })?;
    } else {
        ensure!(
            stall.number("/cause/child/pid") == Some(engine.into()),
            "{stall}"
        );
    }
    alive::must_live("the engine", engine)?;
    scene.free(engine, &stall)?;
    scene.end(&[]).map(|_| ())
}

/// Who told whom before the agent came is unknown; but told under its eyes, by another thread, the engine has its grace, and
/// no more.
fn told_meanwhile() -> Result<()> {
    let gate = Gate::make()?;
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let engine = victim.spawn("engine", "engine", ENGINE)?;
    let command = format!("signal-at engine {} {}", libc::SIGINT, gate.path());
    victim.ask(&command, "will")?;
    victim.wait_for("engine", "wait4")?;
    alive::until_state(victim.pid, 'S')?;
    let mut scene = Scene::with(victim, &arguments())?;
    scene.stall("child_wait")?;
    gate.open()?;
    let killed = scene.rescued(engine)?;
    ensure!(
        killed.float("/busy_ms") < Some(UNKNOWN_GRACE_MS),
        "as late as if nobody knew: {killed}"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// SIGTERM after `unknown_grace`, SIGKILL a grace later.
fn two_steps(plan: Option<&str>) -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let engine = victim.spawn("engine", "engine", ENGINE)?;
    let arguments = arguments();
    let options = Options {
        arguments: &arguments,
        plan,
        ..Options::default()
    };
    let stalled_before = plan.is_none();
    let mut scene = if stalled_before {
        victim.tell_to_end("engine")?;
        victim.wait_for("engine", "wait4")?;
        alive::until_state(victim.pid, 'S')?;
        Scene::with_options(victim, &options)?
    } else {
        let mut scene = Scene::with_options(victim, &options)?;
        scene.victim.tell_to_end("engine")?;
        scene.victim.wait_for("engine", "wait4")?;
        scene
    };
    let termed = scene.action()?;
    ensure!(
        termed.is_sent() && termed.text("/signal") == "SIGTERM",
        "{termed}"
    );
    ensure!(
        termed.float("/busy_ms") >= Some(UNKNOWN_GRACE_MS),
        "too early: {termed}"
    );
    let killed = scene.rescued(engine)?;
    ensure!(
        killed.mono_ns() >= termed.mono_ns() + 200_000_000,
        "{killed} too soon after {termed}"
    );
    scene
        .end(&[(engine, "SIGTERM"), (engine, "SIGKILL")])
        .map(|_| ())
}

/// A main thread that was stalled when the agent came has not been seen polling. It is not taken for a loop if another
/// thread polls its descriptor, or if there is no epoll descriptor; that is said, once, when a signal would be due.
fn not_shown() -> Result<()> {
    let mut beside = Victim::start(&["loop", "epoll_wait"])?;
    let mut without = Victim::start(&["loop", "poll"])?;
    let mut engines = Vec::new();
    for victim in [&mut beside, &mut without] {
        let engine = victim.spawn("engine", "engine", ENGINE)?;
        victim.tell_to_end("engine")?;
        engines.push((victim.pid, engine));
    }
    beside.ask("poll-beside", "polling")?;
    for victim in [&mut beside, &mut without] {
        victim.wait_for("engine", "wait4")?;
        alive::until_state(victim.pid, 'S')?;
    }
    let arguments = arguments();
    let options = Options {
        arguments: &arguments,
        ..Options::default()
    };
    let (agent, mut watch) = Agent::start(&[beside.pid, without.pid], &options)?;
    for _ in &engines {
        watch.next("a refusal", |line| line.kind() == "action")?;
    }
    for (pid, engine) in &engines {
        let told: Vec<_> = watch
            .seen()
            .iter()
            // The thread that polls beside the main one, alone by now, is a loop.
            .filter(|line| line.number("/tid") == Some(u64::from(*pid)))
            .collect();
        let kinds: Vec<&str> = told.iter().map(|line| line.kind()).collect();
        ensure!(kinds == ["stall_opened", "action"], "{pid}: {kinds:?}");
        let refused = told[1];
        ensure!(
            refused.text("/refused_by") == "not_loop_thread",
            "{refused}"
        );
        ensure!(
            refused.number("/child") == Some(u64::from(*engine)),
            "{refused}"
        );
        ensure!(
            refused.float("/busy_ms") >= Some(UNKNOWN_GRACE_MS),
            "too early: {refused}"
        );
        alive::must_live("the engine", *engine)?;
    }
    // More than one look later it is not said again.
    watch.linger(1000)?;
    let (_, engine) = engines[1];
    alive::signal(engine, libc::SIGKILL)?;
    let closed = watch.next("the end of it", |line| line.is("stall_closed", without.pid))?;
    ensure!(!closed.is_true("/rescued"), "{closed}");
    beside.kill()?;
    without.quit()?;
    let lines = agent.finish(watch)?;
    let count = |kind: &str| lines.iter().filter(|line| line.kind() == kind).count();
    ensure!(count("action") == 2, "said {} times", count("action"));
    ensure!(count("stall_closed") >= 2, "an incident has no end");
    was_sent(&lines, &[])
}

/// The same when the other thread shows itself only after the main one was taken for a loop: from then on it is none.
fn shown_late() -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let pid = victim.pid;
    let engine = victim.spawn("engine", "engine", ENGINE)?;
    victim.tell_to_end("engine")?;
    let gate = Gate::make()?;
    let command = format!("poll-beside-after {}", gate.path());
    victim.ask(&command, "there")?;
    victim.wait_for("engine", "wait4")?;
    alive::until_state(pid, 'S')?;
    let mut scene = Scene::with(victim, &arguments())?;
    let stall = scene.stall("child_wait")?;
    gate.open()?;
    let detached = scene.closed(&stall)?;
    ensure!(detached.text("/ended_by") == "detached", "{detached}");
    let refused = scene
        .watch
        .next("the refusal", |line| line.is("action", pid))?;
    ensure!(
        refused.text("/refused_by") == "not_loop_thread",
        "{refused}"
    );
    alive::must_live("the engine", engine)?;
    alive::signal(engine, libc::SIGKILL)?;
    scene.victim.answer("waited")?;
    scene.victim.quit()
}

/// Told before the agent came, and waited for after: nobody can know that, so nothing is done; but it is said.
fn told_before() -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let engine = victim.spawn("engine", "engine", ENGINE)?;
    victim.tell_to_end("engine")?;
    let mut scene = Scene::with(victim, &arguments())?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("not_told_to_end")?;
    ensure!(
        refused.text("/detail").contains("older than the agent"),
        "{refused}"
    );
    alive::must_live("the engine", engine)?;
    scene.free(engine, &refused)?;
    scene.end(&[]).map(|_| ())
}

/// The same for an engine that blocks the signal, which is pending then and proves that it was told.
fn pending_signal() -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let engine = victim.spawn("engine", "blocks", ENGINE)?;
    victim.tell_to_end("engine")?;
    let mut scene = Scene::with(victim, &arguments())?;
    scene.victim.wait_for("engine", "wait4")?;
    let termed = scene.action()?;
    ensure!(
        termed.is_sent() && termed.text("/signal") == "SIGTERM",
        "{termed}"
    );
    ensure!(
        termed.float("/busy_ms") >= Some(UNKNOWN_GRACE_MS),
        "too early: {termed}"
    );
    scene.rescued(engine)?;
    scene
        .end(&[(engine, "SIGTERM"), (engine, "SIGKILL")])
        .map(|_| ())
}

/// A rescue inside a PID namespace: the loop calls its engine by a number that means another process out here.
fn pid_namespace() -> Result<()> {
    let victim = Victim::start_nested("epoll_wait")?;
    let mut scene = Scene::with(victim, &arguments())?;
    let inside = scene.victim.spawn("engine", "engine", ENGINE)?;
    scene.victim.ask("idle 20", "idled")?;
    scene.victim.tell_to_end("engine")?;
    scene.victim.wait_for("engine", "wait4")?;
    let action = scene.action()?;
    let engine = action
        .number("/child")
        .and_then(|pid| u32::try_from(pid).ok())
        .context("no child")?;
    let closed = scene.closed(&action)?;
    ensure!(closed.is_true("/rescued"), "{closed}");
    ensure!(
        engine != inside,
        "the numbers are the same in and out: {action}"
    );
    ensure!(
        closed.number("/cause/child/pid") == Some(engine.into()),
        "{closed}"
    );
    ensure!(
        closed.number("/cause/child/ns_pid") == Some(inside.into()),
        "not {inside}: {closed}"
    );
    ensure!(
        scene.victim.answer("waited")? == "Killed(9)",
        "another one was killed"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Without BPF the plan is named, and the stall is noticed; nobody knows who told the engine, so nothing is done soon.
fn sampling() -> Result<()> {
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let arguments = arguments();
    let options = Options {
        arguments: &arguments,
        plan: Some("sampling"),
        ..Options::default()
    };
    let mut scene = Scene::with_options(victim, &options)?;
    let found = scene
        .watch
        .seen()
        .iter()
        .find(|line| line.kind() == "loop")
        .context("no loop")?;
    ensure!(found.text("/plan") == "sampling", "{found}");
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    // Without events a child this young is known by the next scan only: an update tells it.
    let stall = scene.watch.next("a stall that names the engine", |line| {
        line.kind().starts_with("stall_") && line.number("/cause/child/pid") == Some(engine.into())
    })?;
    ensure!(stall.text("/cause/kind") == "child_wait", "{stall}");
    // The answer of a loop that is idle for some time comes later than any grace but the unknown one.
    let mut other = Victim::start(&["loop", "epoll_wait"])?;
    other.ask("idle 600", "idled")?;
    other.quit()?;
    alive::must_live("the engine", engine)?;
    scene.free(engine, &stall)?;
    let lines = scene.end(&[])?;
    was_sent(&lines, &[])
}
