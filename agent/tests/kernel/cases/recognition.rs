//! Which threads are loops, and what their stalls are.

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::shared::{self, Grace};
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, HELPER, LOOP, program};
use crate::sys::PollCall;

pub(super) fn cases() -> Vec<Case> {
    let loops = PollCall::ALL.into_iter().flat_map(|call| {
        [
            Case::new(format!("recognition::loop_{}", call.name()), move || {
                loop_of(call)
            }),
            Case::new(format!("recognition::rescue_{}", call.name()), move || {
                rescue_of(call)
            }),
        ]
    });
    loops
        .chain([
            Case::new(
                "recognition::idle_in_its_poll_when_the_agent_comes",
                idle_loop,
            ),
            Case::new("recognition::pool_of_threads", || no_loop(&["pool"])),
            Case::new("recognition::pool_that_shows_itself_late", late_pool),
            Case::new("recognition::polls_once", || no_loop(&["polls-once"])),
            Case::new("recognition::nested_poll_is_part_of_the_stall", nested_poll),
            Case::new("recognition::forked_worker", forked_worker),
            Case::new("recognition::worker_that_ran_a_program", execed_worker),
            Case::new("recognition::worker_wedged_after_its_first_poll", || {
                wedged_worker(50)
            }),
            Case::new("recognition::worker_wedged_at_once", || wedged_worker(0)),
            Case::new("recognition::end_by_exec", end_by_exec),
            Case::new("recognition::end_by_exit_in_a_stall", end_by_exit),
            Case::new("recognition::stopped_loop_is_a_stall", stopped_loop),
            Case::new(
                "recognition::loop_that_ignores_sigtstp_is_none",
                unstoppable_loop,
            ),
        ])
        .collect()
}

/// A loop that was there before is recognised, and its poller named.
fn loop_of(call: PollCall) -> Result<()> {
    let mut scene = Scene::with(Victim::start(&["loop", call.name()])?, &[])?;
    let found = scene
        .watch
        .seen()
        .iter()
        .find(|line| line.kind() == "loop")
        .cloned();
    let poller = found.as_ref().map_or("", |line| line.text("/poller"));
    ensure!(poller == call.name(), "the poller is {poller:?}");
    scene.nap()?;
    scene.end(&[]).map(|_| ())
}

/// The same for one that is born under the agent, and whose engine wedges.
fn rescue_of(call: PollCall) -> Result<()> {
    let mut scene = Scene::enforcing_on(Grace::Short, &["loop", call.name()])?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// It sleeps in a poll without a timeout and does not move: it is recognised all the same.
fn idle_loop() -> Result<()> {
    let scene = Scene::with(Victim::start(&["loop", "epoll_wait", "no-timeout"])?, &[])?;
    scene.end(&[]).map(|_| ())
}

/// A process that is no loop is not taken for one, while a loop beside it is.
fn no_loop(part: &[&str]) -> Result<()> {
    let (mut other, _) = shared::victim(Grace::Usual, part)?;
    let mut scene = Scene::enforcing(Grace::Usual)?;
    other
        .tell("anything")
        .and_then(|()| scene.victim.ask("idle 200", "idled").map(|_| ()))?;
    let pid = other.pid;
    drop(other);
    scene.nap()?;
    let found = scene
        .watch
        .seen()
        .iter()
        .find(|line| line.number("/pid") == Some(pid.into()));
    ensure!(found.is_none(), "{part:?} was taken for a loop: {found:?}");
    scene.end(&[]).map(|_| ())
}

/// Of two threads behind one descriptor the agent finds one in the poll and the other away: a loop, as far as it can tell,
/// until the other polls. Then it is none, and its stalls are nobody's.
fn late_pool() -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    victim.ask("poll-beside-later", "there")?;
    let mut scene = Scene::with(victim, &[])?;
    scene.victim.ask("poll-beside-now", "told")?;
    scene.line("summary")?;
    let so_far = scene.watch.seen().len();
    scene.victim.ask("nap 300", "napped")?;
    // A look of the agent's later; that nothing is said has no event.
    scene.watch.linger(200)?;
    let said = scene.watch.seen().get(so_far);
    ensure!(said.is_none(), "a pool was taken for a loop: {said:?}");
    scene.victim.quit()
}

/// A poll on another descriptor is no return to the loop.
fn nested_poll() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    scene.victim.ask("nested 300", "nested")?;
    let pid = scene.victim.pid;
    let is_whole = |line: &crate::harness::line::Line| {
        line.is("stall_closed", pid) && line.float("/busy_ms") >= Some(300.0)
    };
    scene
        .watch
        .next("a stall as long as the nested poll", is_whole)?;
    scene.end(&[]).map(|_| ())
}

/// Faster than the rescan of five seconds, so not by it.
const BY_EVENT_NS: u64 = 5_000_000_000;

/// A fork of a watched process that becomes a loop.
fn forked_worker() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let from = crate::sys::mono_ns();
    let worker: u32 = scene.victim.ask("fork-worker", "spawned")?.parse()?;
    let found = scene
        .watch
        .next("the worker", |line| line.is("loop", worker))?;
    ensure!(
        found.mono_ns() < from + BY_EVENT_NS,
        "found by the rescan only: {found}"
    );
    scene.end(&[]).map(|_| ())
}

/// A child that runs another program and becomes a loop there.
fn execed_worker() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let from = crate::sys::mono_ns();
    let worker = scene.victim.spawn("worker", "loop", LOOP)?;
    let found = scene
        .watch
        .next("the worker", |line| line.is("loop", worker))?;
    ensure!(
        found.mono_ns() < from + BY_EVENT_NS,
        "found by the rescan only: {found}"
    );
    ensure!(found.text("/exe") == LOOP, "{found}");
    scene.end(&[]).map(|_| ())
}

/// A worker that polls once and wedges: it is not known to come back, and must be freed all the same. Without a time-out
/// in its poll it is in the wait before the agent can have heard of the poll.
fn wedged_worker(milliseconds: u32) -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let engine = program(ENGINE);
    let command = format!("fork-wedged {milliseconds} {}", engine.display());
    let worker: u32 = scene.victim.ask(&command, "spawned")?.parse()?;
    let action = scene
        .watch
        .next("an action for the worker", |line| line.is("action", worker))?;
    ensure!(
        action.is_sent() && action.text("/signal") == "SIGKILL" && action.text("/exe") == ENGINE,
        "{action}"
    );
    let closed = scene.closed(&action)?;
    ensure!(
        closed.is_true("/rescued") && closed.text("/ended_by") == "poll",
        "{closed}"
    );
    let found = scene
        .watch
        .seen()
        .iter()
        .find(|line| line.is("loop", worker));
    let poller = found.map_or("", |line| line.text("/poller"));
    ensure!(poller == "epoll_wait", "the poller is {poller:?}");
    scene.end(&[]).map(|_| ())
}

/// A loop that runs another program in the middle of a stall: that stall is over, and what comes is another loop.
fn end_by_exec() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    scene.victim.tell("nap-and-exec")?;
    let stall = scene.stall("sleep")?;
    scene.victim.wake()?;
    let closed = scene.closed(&stall)?;
    ensure!(
        closed.text("/ended_by") == "exec" && !closed.is_true("/rescued"),
        "{closed}"
    );
    scene.line("loop")?;
    scene.end(&[]).map(|_| ())
}

/// A loop that is killed while it waits: the stall ends with it, and nobody is to be thanked.
fn end_by_exit() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    let helper = scene.add("child", "engine", HELPER)?;
    ensure!(helper > 0, "no helper");
    scene.victim.wait_for("child", "wait4")?;
    let stall = scene.stall("child_wait")?;
    crate::harness::alive::signal(scene.victim.pid, libc::SIGKILL)?;
    let closed = scene.closed(&stall)?;
    ensure!(
        closed.text("/ended_by") == "exit" && !closed.is_true("/rescued"),
        "{closed}"
    );
    scene.line("summary").map(|_| ())
}

/// A stopped loop does not poll, whatever its poll's timeout says.
fn stopped_loop() -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait", "no-timeout"])?;
    let engine = victim.spawn("engine", "engine", ENGINE)?;
    let mut scene = Scene::with(victim, &[&ENFORCE[..], &["--grace", "20ms"]].concat())?;
    scene.must_live("the engine", engine);
    crate::harness::alive::signal(scene.victim.pid, libc::SIGSTOP)?;
    let stall = scene.stall("stopped")?;
    crate::harness::alive::signal(scene.victim.pid, libc::SIGCONT)?;
    let closed = scene.closed(&stall)?;
    ensure!(
        closed.text("/ended_by") == "poll" && !closed.is_true("/rescued"),
        "{closed}"
    );
    scene.end(&[]).map(|_| ())
}

/// A loop that got a signal which would stop it, and ignores it, goes on polling.
fn unstoppable_loop() -> Result<()> {
    let mut scene = Scene::enforcing_on(Grace::Usual, &["loop", "epoll_wait", "unstoppable"])?;
    crate::harness::alive::signal(scene.victim.pid, libc::SIGTSTP)?;
    // Much longer than a stall.
    scene.victim.ask("idle 500", "idled")?;
    let so_far = scene.watch.seen().len();
    // A stall that is one, so that all there is to tell of before it has been told.
    scene.nap()?;
    // On a busy machine it may be kept from its CPU, which is a stall like others. One that is none ends before it is as long as
    // it was said to be.
    let seen = scene.watch.seen();
    let of = |kind: &'static str| {
        seen.iter()
            .skip(so_far)
            .filter(move |line| line.kind() == kind)
    };
    let unfounded = of("stall_opened").find(|opened| {
        let mut closed = of("stall_closed");
        let closed = closed.find(|closed| closed.text("/incident") == opened.text("/incident"));
        closed.is_some_and(|closed| closed.float("/busy_ms") < opened.float("/busy_ms"))
    });
    ensure!(unfounded.is_none(), "told of as stalled: {unfounded:?}");
    scene.end(&[]).map(|_| ())
}
