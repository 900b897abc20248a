//! Waits that must not be ended, and the reason that is told.

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::scene::Scene;
use crate::harness::shared::Grace;
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, HELPER, SHELL, alive, program};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "refusals::slow_healthy_child_nobody_told",
            slow_healthy_child,
        ),
        Case::new("refusals::drain_that_waits_briefly", brief_drain),
        Case::new("refusals::target_is_ending", target_is_ending),
        Case::new("refusals::two_children_and_any", two_children),
        Case::new(
            "refusals::one_of_two_has_ended_and_is_not_reaped",
            unreaped_other,
        ),
        Case::new("refusals::wrapper_in_between", wrapper),
        Case::new("refusals::not_an_engine", not_an_engine),
        Case::new("refusals::told_by_another_than_the_parent", told_by_another),
        Case::new("refusals::other_container", other_container),
        Case::new("refusals::wait_for_a_stop_only", || no_wait("stopped_only")),
        Case::new("refusals::wait_that_leaves_the_zombie", || {
            no_wait("leaves_zombie")
        }),
        Case::new(
            "refusals::main_thread_that_is_no_loop",
            main_thread_of_a_pool,
        ),
        Case::new("refusals::helper_thread_waits", helper_thread),
        Case::new(
            "refusals::helper_thread_waits_on_the_engine_of_a_wait",
            other_threads_wait_does_not_count,
        ),
    ]
}

/// What prisma-client-py does on every connect: `query-engine --version`, synchronously.
fn slow_healthy_child() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let engine = scene.add("engine", "polite", ENGINE)?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("not_told_to_end")?;
    ensure!(refused.number("/child") == Some(engine.into()), "{refused}");
    alive::must_live("the healthy child", engine)?;
    scene.free(engine, &refused)?;
    scene.end(&[]).map(|_| ())
}

/// Told longer ago than the grace, and then waited for only a moment: a drain that ends well.
fn brief_drain() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let engine = scene.add_wedged_engine()?;
    scene.idle_longer_than(Grace::Usual)?;
    scene.victim.wait_for("engine", "wait4")?;
    // Less than the grace into the wait.
    let opened = scene.stall("child_wait")?;
    let ago = opened.float("/cause/child/told_to_end_ms_ago");
    ensure!(ago > Some(300.0), "{opened}");
    scene.free(engine, &opened)?;
    let lines = scene.end(&[])?;
    let action = lines.iter().find(|line| line.kind() == "action");
    ensure!(action.is_none(), "the drain was disturbed: {action:?}");
    Ok(())
}

/// In a planned shutdown the engine may be writing.
fn target_is_ending() -> Result<()> {
    let mut scene = Scene::enforcing_on(Grace::Short, &["loop", "epoll_wait", "deaf"])?;
    let engine = scene.add_wedged_engine()?;
    alive::signal(scene.victim.pid, libc::SIGTERM)?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("target_ending")?;
    ensure!(refused.number("/child") == Some(engine.into()), "{refused}");
    alive::must_live("the engine", engine)?;
    scene.free(engine, &refused)?;
    scene.end(&[]).map(|_| ())
}

/// `wait4(-1)` names nobody when there are two.
fn two_children() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let first = scene.add_wedged_engine()?;
    let second = scene.add("second", "engine", ENGINE)?;
    scene.victim.tell_to_end("second")?;
    scene.victim.wait_for("any", "wait4")?;
    let refused = scene.refusal("ambiguous_child")?;
    alive::must_live("the first engine", first)?;
    scene.must_live("the second engine", second);
    scene.free(first, &refused)?;
    scene.end(&[]).map(|_| ())
}

/// `wait4(-1)` with one child left alive, and one that has ended: the wait is as good as over, and about that one. A tracer
/// keeps it from being reaped here; otherwise it is a matter of microseconds.
fn unreaped_other() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let first = scene.add_wedged_engine()?;
    let second = scene.add("second", "engine", ENGINE)?;
    scene.victim.tell_to_end("second")?;
    scene.must_live("the second engine", second);
    let tracer = Victim::start(&["tracer", &first.to_string()])?;
    scene.victim.wait_for("any", "wait4")?;
    let refused = scene.refusal("ambiguous_child")?;
    alive::signal(first, libc::SIGKILL)?;
    alive::until_state(first, 'Z')?;
    scene.watch.linger(200)?;
    drop(tracer);
    scene.freed(&refused)?;
    scene.end(&[]).map(|_| ())
}

/// A shell between loop and engine: to kill the engine behind it needs a configuration that says so.
fn wrapper() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let behind = format!("{SHELL}:{}", program(ENGINE).display());
    let shell = scene.add("shell", "wrapper", &behind)?;
    scene.victim.tell_to_end("shell")?;
    scene.victim.wait_for("shell", "wait4")?;
    let refused = scene.refusal("waits_on_wrapper")?;
    ensure!(refused.number("/child") == Some(shell.into()), "{refused}");
    let engine = children_of(shell)?;
    ensure!(engine.len() == 1, "the shell has the children {engine:?}");
    alive::must_live("the shell", shell)?;
    alive::must_live("the engine", engine[0])?;
    scene.free(shell, &refused)?;
    scene.end(&[]).map(|_| ())
}

fn children_of(pid: u32) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?)
}

/// Any other child may take as long as it likes, told or not.
fn not_an_engine() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    scene.add_bystanders()?;
    let helper = scene.add("child", "engine", HELPER)?;
    scene.victim.tell_to_end("child")?;
    scene.victim.wait_for("child", "wait4")?;
    let refused = scene.refusal("not_engine")?;
    ensure!(refused.number("/child") == Some(helper.into()), "{refused}");
    alive::must_live("the child", helper)?;
    scene.free(helper, &refused)?;
    scene.end(&[]).map(|_| ())
}

/// Only its parent tells an engine to end in the sense of the rule.
fn told_by_another() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let engine = scene.add("engine", "engine", ENGINE)?;
    alive::signal(engine, libc::SIGINT)?;
    alive::signal(engine, libc::SIGTERM)?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("not_told_to_end")?;
    alive::must_live("the engine", engine)?;
    scene.free(engine, &refused)?;
    scene.end(&[]).map(|_| ())
}

/// A child with PID and mount namespaces of its own runs in another container.
fn other_container() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let engine = scene.add("engine", "contained", ENGINE)?;
    scene.victim.tell_to_end("engine")?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("other_container")?;
    ensure!(refused.number("/child") == Some(engine.into()), "{refused}");
    alive::must_live("the contained engine", engine)?;
    scene.free(engine, &refused)?;
    scene.end(&[]).map(|_| ())
}

/// A call that does not take in the child's end is no wait for it.
fn no_wait(way: &str) -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", way)?;
    // The grace is shorter than a stall: an action would have come first.
    let pid = scene.victim.pid;
    let stall = scene.watch.next("a stall in waitid", |line| {
        line.is("stall_opened", pid) && line.text("/cause/syscall") == "waitid"
    })?;
    alive::must_live("the engine", engine)?;
    scene.free(engine, &stall)?;
    let lines = scene.end(&[])?;
    let action = lines.iter().find(|line| line.kind() == "action");
    ensure!(action.is_none(), "an action on no wait: {action:?}");
    Ok(())
}

/// The main thread of a pool waits for an engine that was told to end: no loop, so nothing is done, and that is said. A
/// thread beside it that waits for the same engine for all its life is no alarm.
fn main_thread_of_a_pool() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    scene.victim.ask("poll-beside", "polling")?;
    scene.line("summary")?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.ask("help-wait engine", "helping")?;
    let so_far = scene.watch.seen().len();
    // Longer than anything takes that is said of a main thread.
    scene.victim.ask("idle 1500", "idled")?;
    let pid = scene.victim.pid;
    let said = |scene: &Scene| {
        let new = scene.watch.seen().iter().skip(so_far);
        new.filter(|line| line.number("/pid") == Some(pid.into()))
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    scene.watch.linger(1)?;
    ensure!(said(&scene).is_empty(), "{:?}", said(&scene));
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("not_loop_thread")?;
    ensure!(refused.number("/child") == Some(engine.into()), "{refused}");
    ensure!(
        scene.opened(&refused)?.text("/cause/syscall") == "wait4",
        "{refused}"
    );
    alive::must_live("the engine", engine)?;
    let closed = scene.free(engine, &refused)?;
    ensure!(closed.text("/ended_by") == "detached", "{closed}");
    scene.victim.quit()
}

/// A thread that waits for the engine for all its life is no alarm, and takes no blame for what the loop does.
fn helper_thread() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let engine = scene.add_wedged_engine()?;
    scene.must_live("the engine", engine);
    scene.victim.ask("help-wait engine", "helping")?;
    let closed = scene.nap()?;
    ensure!(
        closed.text("/cause/child/exe").is_empty(),
        "blamed on the helper's child: {closed}"
    );
    let lines = scene.end(&[])?;
    let blamed = lines
        .iter()
        .find(|line| line.kind() == "action" || line.text("/cause/kind") == "child_wait");
    ensure!(blamed.is_none(), "the helper's wait made this: {blamed:?}");
    Ok(())
}

/// The loop waits for its helper program while another thread waits for the engine.
fn other_threads_wait_does_not_count() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let engine = scene.add_wedged_engine()?;
    scene.must_live("the engine", engine);
    scene.victim.ask("help-wait engine", "helping")?;
    let child = scene.add("child", "engine", HELPER)?;
    scene.victim.tell_to_end("child")?;
    scene.victim.wait_for("child", "wait4")?;
    let refused = scene.refusal("not_engine")?;
    ensure!(refused.number("/child") == Some(child.into()), "{refused}");
    scene.free(child, &refused)?;
    scene.end(&[]).map(|_| ())
}
