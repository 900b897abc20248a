//! Who a child is: by what it ran, whose child it is, and which wait is going on. A process id alone says nothing.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, bail, ensure};
use loopwarden::action::strike;
use loopwarden::pipeline::{Outcome, Pid, PidKey, Refusal, Signal};
use rustix::process::{PidfdFlags, pidfd_open};

use super::Case;
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::shared::Grace;
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, SHELL, alive, folder, program, slowness};
use crate::sys::{self, PollCall};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("identity::engine_of_another_parent", orphan),
        Case::new("identity::engine_gone_before_the_grace", gone),
        Case::new("identity::renamed_after_exec", renamed),
        Case::new("identity::deleted_before_the_agent_came", deleted),
        Case::new("identity::a_new_wait_has_a_new_grace", new_wait_new_grace),
        Case::new(
            "identity::a_reused_pid_inherits_nothing",
            reused_pid_in_the_next_wait,
        ),
        Case::new(
            "identity::a_pid_reused_before_the_signal",
            reused_pid_before_the_signal,
        ),
    ]
}

/// Re-parented: the loop can only watch it by a pidfd, and may not lose it.
fn orphan() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let behind = format!("{SHELL}:{}", program(ENGINE).display());
    let shell = scene.victim.spawn("shell", "orphan", &behind)?;
    // It is the child of another when its parent has ended.
    scene.victim.ask("wait shell wait4", "waited")?;
    let engine = orphan_of(shell)?;
    let ended = EndsWithTest(engine);
    let from: u64 = scene
        .victim
        .ask(&format!("watch-pid {engine}"), "waiting")?
        .parse()?;
    // The wait for the shell may have been long enough for such a line, too.
    let refused = scene.watch.next("the refusal", |line| {
        line.text("/refused_by") == "not_child" && line.mono_ns() >= from
    })?;
    scene.watch.linger(200)?;
    alive::must_live("the orphan", engine)?;
    drop(ended);
    scene.freed(&refused)?;
    scene.end(&[]).map(|_| ())
}

/// The engine that ran below a parent that has ended: it has written its id for whoever looks.
fn orphan_of(parent: u32) -> Result<u32> {
    let text = std::fs::read_to_string(folder().join(format!("{parent}.orphan")))?;
    text.trim().parse().context("no process id")
}

/// Kills a process that nobody else would.
struct EndsWithTest(u32);

impl Drop for EndsWithTest {
    fn drop(&mut self) {
        let _ = alive::signal(self.0, libc::SIGKILL);
    }
}

/// It ends by itself within the grace, and nothing is done or credited.
fn gone() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Usual)?;
    scene.add_bystanders()?;
    let engine = scene.add_wedged_engine()?;
    scene.victim.wait_for("engine", "wait4")?;
    let stall = scene.stall("child_wait")?;
    scene.free(engine, &stall)?;
    let lines = scene.end(&[])?;
    ensure!(
        !lines.iter().any(|line| line.kind() == "action"),
        "an action on an engine that was gone"
    );
    Ok(())
}

/// What a file is called later does not matter.
fn renamed() -> Result<()> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let (before, after) = own_program()?;
    let engine = scene.add("engine", "engine", &before)?;
    std::fs::rename(folder().join(&before), folder().join(after))?;
    scene.victim.tell_to_end("engine")?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// A program of this test alone, below a folder of its own: its path now, and another one for later.
fn own_program() -> Result<(String, String)> {
    let own = format!("own-{}", sys::mono_ns());
    std::fs::create_dir(folder().join(&own))?;
    let before = format!("{own}/{ENGINE}");
    // A link and no copy: a file that was just written may still be open for writing in a child of another test.
    std::fs::hard_link(program(ENGINE), folder().join(&before))?;
    Ok((before, format!("{own}/renamed")))
}

/// The agent comes when the file is gone: the kernel then calls it "(deleted)".
fn deleted() -> Result<()> {
    let mut victim = Victim::start(&["loop", "epoll_wait"])?;
    let (before, _) = own_program()?;
    let engine = victim.spawn("engine", "engine", &before)?;
    std::fs::remove_file(folder().join(&before))?;
    let exe = std::fs::read_link(format!("/proc/{engine}/exe"))?;
    ensure!(
        exe.to_string_lossy().ends_with(" (deleted)"),
        "{}",
        exe.display()
    );
    let mut scene = Scene::with(victim, &[&ENFORCE[..], &["--grace", "50ms"]].concat())?;
    scene.victim.tell_to_end("engine")?;
    scene.victim.wait_for("engine", "wait4")?;
    let action = scene.rescued(engine)?;
    ensure!(action.text("/exe") == ENGINE, "{action}");
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// A wait that gave up and began anew is another one, with all of its grace.
fn new_wait_new_grace() -> Result<()> {
    let seconds = 2 * slowness();
    let grace = format!("{seconds}s");
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let mut scene = Scene::with(victim, &[&ENFORCE[..], &["--grace", &grace]].concat())?;
    let engine = scene.add_wedged_engine()?;
    // Ten looks with naps of 50 ms: a good part of the grace.
    scene.victim.wait_for("engine", "naps_10")?;
    ensure!(
        scene.victim.answer("waited")? == "Nothing",
        "the engine has ended"
    );
    scene.victim.ask("idle 20", "idled")?;
    let from = scene.victim.wait_for("engine", "wait4")?;
    let action = scene.rescued(engine)?;
    ensure!(
        action.mono_ns() >= from + u64::from(seconds) * 1_000_000_000,
        "the first wait counted too: {action}"
    );
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Sets a stage on which an id is reused until no stranger takes that id first: other processes of the machine, the tests
/// beside this one among them, are given ids from the same place.
fn undisturbed(mut story: impl FnMut() -> Result<Reuse>) -> Result<()> {
    for _ in 0..50 {
        if story()? == Reuse::Done {
            return Ok(());
        }
    }
    bail!("50 times a stranger got the process id that was to be reused")
}

/// What became of a try to reuse an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Done,
    Stranger,
}

/// An engine was told, ended and was reaped; the next one got its id and was told nothing.
fn reused_pid_in_the_next_wait() -> Result<()> {
    undisturbed(reused_in_the_next_wait)
}

fn reused_in_the_next_wait() -> Result<Reuse> {
    let mut scene = Scene::enforcing(Grace::Short)?;
    let first = scene.add_wedged_engine()?;
    alive::signal(first, libc::SIGKILL)?;
    // On a busy machine its end may take longer than the grace.
    alive::until_state(first, 'Z')?;
    scene.victim.ask("wait engine wait4", "waited")?;
    let start = || scene.victim.spawn("engine", "engine", ENGINE);
    if reuse(first, start, |other| alive::signal(other, libc::SIGKILL))? == Reuse::Stranger {
        return Ok(Reuse::Stranger);
    }
    scene.victim.ask("idle 20", "idled")?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("not_told_to_end")?;
    ensure!(refused.number("/child") == Some(first.into()), "{refused}");
    alive::must_live("the second engine", first)?;
    scene.free(first, &refused)?;
    scene.end(&[]).map(|_| Reuse::Done)
}

/// Starts processes until one has a given id, or a stranger has it.
fn reuse(
    wanted: u32,
    mut start: impl FnMut() -> Result<u32>,
    mut end: impl FnMut(u32) -> Result<()>,
) -> Result<Reuse> {
    // Few tries: a stranger that has it may keep it for as long as it lives.
    for _ in 0..5 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string())
            .context("cannot choose the next process id")?;
        let pid = start()?;
        if pid == wanted {
            return Ok(Reuse::Done);
        }
        end(pid)?;
    }
    Ok(Reuse::Stranger)
}

/// The child the decision was about ended, and its id was given out again before the signal: the signal goes nowhere.
fn reused_pid_before_the_signal() -> Result<()> {
    undisturbed(reused_before_the_signal)
}

fn reused_before_the_signal() -> Result<Reuse> {
    let old = Victim::start(&["loop", "epoll_wait"])?;
    let pid = old.pid;
    let raw = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("no process id")?;
    let identity = pidfd_open(raw, PidfdFlags::empty())?;
    old.quit()?;
    let mut new = None;
    let start = || {
        let victim = new.insert(Victim::start(&["loop", "epoll_wait"])?);
        Ok(victim.pid)
    };
    if reuse(pid, start, |_| Ok(()))? == Reuse::Stranger {
        return Ok(Reuse::Stranger);
    }
    let key = PidKey {
        pid: Pid(pid),
        start_ns: 1,
    };
    let (outcome, ..) = strike(key, Signal::Kill, || {
        let ended = sys::wait_readable(PollCall::Poll, None, identity.as_fd(), 0);
        if matches!(ended, Ok(false)) {
            Ok(())
        } else {
            Err(Refusal::IdentityChanged)
        }
    });
    ensure!(
        outcome == Outcome::Refused(Refusal::IdentityChanged),
        "{outcome:?}"
    );
    alive::must_live("the new process", pid)?;
    new.context("no new process")?.quit()?;
    Ok(Reuse::Done)
}
