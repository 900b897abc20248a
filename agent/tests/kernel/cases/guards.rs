//! What keeps an agent from doing harm twice: one enforcer per loop process, a budget that outlives the agent, and a pause.

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::shared::Grace;
use crate::harness::victim::Victim;
use crate::harness::watch::{Agent, Options};
use crate::harness::{ENGINE, alive};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("guards::another_enforcer", another_enforcer),
        Case::new("guards::budget_outlives_the_agent", budget),
        Case::new("guards::pause_between_two_actions", pause),
    ]
}

/// The second of two enforcing agents keeps quiet, until the first is gone.
fn another_enforcer() -> Result<()> {
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let pid = victim.pid;
    // The first has the lock and, by its grace, never acts.
    let patient = [&ENFORCE[..], &["--grace", "1h"]].concat();
    let (mut first, mut first_lines) = Agent::start(
        &[pid],
        &Options {
            arguments: &patient,
            ..Options::default()
        },
    )?;
    first_lines.next("the loop", |line| line.is("loop", pid))?;
    let hasty = [&ENFORCE[..], &["--grace", "20ms"]].concat();
    let options = Options {
        arguments: &hasty,
        run_dir: Some(first.run_dir()),
        ..Options::default()
    };
    let mut scene = Scene::with_options(victim, &options)?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.refusal("another_enforcer")?;
    alive::must_live("the engine", engine)?;

    first.interrupt()?;
    let lines = first_lines.until_end()?;
    let (status, errors) = first.status()?;
    ensure!(
        status.success(),
        "the first agent ended with {status}: {errors}"
    );
    let detached = lines
        .iter()
        .rfind(|line| line.kind() == "stall_closed")
        .context("its stall was not closed")?;
    ensure!(
        detached.text("/ended_by") == "detached" && !detached.is_true("/rescued"),
        "{detached}"
    );
    let last = lines.last().context("no last line")?;
    ensure!(last.text("/reason") == "interrupted", "{last}");

    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Kills are counted beside the lock, so that a restarted agent knows of them.
fn budget() -> Result<()> {
    let arguments = [&ENFORCE[..], &["--grace", "20ms"]].concat();
    let options = Options {
        arguments: &arguments,
        ..Options::default()
    };
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let pid = victim.pid;
    let (mut agent, mut watch) = Agent::start(&[pid], &options)?;
    watch.next("the loop", |line| line.is("loop", pid))?;
    victim.spawn("engine", "engine", ENGINE)?;
    victim.tell_to_end("engine")?;
    victim.wait_for("engine", "wait4")?;
    watch.next("a signal", super::super::harness::line::Line::is_sent)?;
    victim.answer("waited")?;
    agent.interrupt()?;
    agent.status()?;

    // As if it had been killed as often as the default allows.
    let files = std::fs::read_dir(agent.run_dir())?.collect::<Result<Vec<_>, _>>()?;
    let named = |name: &str| name.ends_with(".budget") && name.starts_with(&format!("{pid}-"));
    let file = files
        .iter()
        .find(|file| file.file_name().to_str().is_some_and(named))
        .context("no budget is kept")?;
    let spent = std::fs::read_to_string(file.path())?;
    ensure!(spent.lines().count() == 1, "one kill is not {spent:?}");
    std::fs::write(file.path(), spent.repeat(20))?;

    let options = Options {
        run_dir: Some(agent.run_dir()),
        ..options
    };
    let mut scene = Scene::with_options(victim, &options)?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("budget")?;
    alive::must_live("the engine", engine)?;
    scene.free(engine, &refused)?;
    scene.end(&[]).map(|_| ())
}

/// A database outage wedges engine after engine: the next one is not killed within the pause of a second.
fn pause() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    scene.add_bystanders()?;
    let first = scene.add_wedged_engine()?;
    let second = scene.add("second", "engine", ENGINE)?;
    scene.victim.tell_to_end("second")?;
    scene.victim.wait_for("engine", "wait4")?;
    let action = scene.rescued(first)?;
    scene.victim.answer("waited")?;
    scene.victim.wait_for("second", "wait4")?;
    scene.refusal("paused")?;
    let next = scene.rescued(second)?;
    ensure!(
        next.mono_ns() >= action.mono_ns() + 1_000_000_000,
        "{next} within a second of {action}"
    );
    scene
        .end(&[(first, "SIGKILL"), (second, "SIGKILL")])
        .map(|_| ())
}
