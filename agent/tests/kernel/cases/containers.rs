//! Loops in real containers that runc starts, in cgroups named as a kubelet names them: who is who across namespaces, and who is
//! not touched, whatever cgroups are called and wherever somebody moves a process.

use anyhow::{Context as _, Result, ensure};
use loopwarden::pipeline::place::{Place, Seat};

use super::{Case, held};
use crate::harness::cgroup::{self, Cgroup};
use crate::harness::runc::{Driver, Ground, Pids, Wanted, host_pid};
use crate::harness::scene::{ENFORCE, Scene};
use crate::harness::shared::Grace;
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, alive, program};
use crate::sys;

const POD: &str = "5f0c5a2e-8a4e-4a57-9c8e-2f3a4b5c6d7e";
const OTHER_POD: &str = "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9";
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER_ID: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

/// Of a container in a container.
const NESTED: &str = "89abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234567";

/// The container that most tests are about.
const OWN: Wanted<'_> = Wanted {
    driver: Driver::Cgroupfs,
    pod: POD,
    id: ID,
    pids: Pids::Own,
};
/// One of another pod.
const OTHER: Wanted<'_> = Wanted {
    driver: Driver::Cgroupfs,
    pod: OTHER_POD,
    id: OTHER_ID,
    pids: Pids::Own,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("containers::wedged_engine_of_a_pod_of_cgroupfs", || {
            rescued(&OWN)
        }),
        Case::new("containers::wedged_engine_of_a_pod_of_systemd", || {
            rescued(&Wanted {
                driver: Driver::Systemd,
                ..OWN
            })
        }),
        Case::new("containers::wedged_engine_of_a_pod_with_host_pid", || {
            rescued(&Wanted {
                pids: Pids::Host,
                ..OWN
            })
        }),
        Case::new(
            "containers::engine_stuck_in_its_end_is_not_taken_for_anothers",
            stuck_in_its_end,
        ),
        Case::new(
            "containers::engine_moved_to_another_container_is_refused",
            moved,
        ),
        Case::new(
            "containers::engine_below_its_own_cgroup_in_one_named_like_a_container_is_refused",
            named_below,
        ),
        Case::new(
            "containers::a_pod_imitated_below_ones_own_is_not_believed",
            imitated,
        ),
        Case::new(
            "containers::orphan_of_another_container_in_a_shared_pid_namespace_is_refused",
            shared_pids,
        ),
        Case::new(
            "containers::throttled_by_the_limit_of_its_pod",
            throttled_by_the_pod,
        ),
        Case::new(
            "containers::engine_throttled_in_a_cgroup_of_its_own",
            throttled_engine,
        ),
        Case::new("containers::paused_by_the_runtime", paused),
        Case::new(
            "containers::what_a_pod_asked_for_holds_while_its_engine_ends",
            asked_for_to_the_end,
        ),
    ]
}

/// A loop in a container, recognised by an enforcing agent of its own.
fn scene(loop_: Victim, grace: &str) -> Result<Scene> {
    Scene::with(loop_, &[&ENFORCE[..], &["--grace", grace]].concat())
}

/// Adds a deaf engine that was told to end: its id out here, and its number in there.
fn wedge(scene: &mut Scene) -> Result<(u32, u32)> {
    let number = scene.add("engine", "engine", ENGINE)?;
    let engine = host_pid(scene.victim.pid, number)?;
    scene.victim.tell_to_end("engine")?;
    Ok((engine, number))
}

fn place_of(pid: u32) -> Result<(Place, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok((Place::parse(&text), text))
}

fn seat(wanted: &Wanted<'_>) -> Seat {
    Seat {
        uid: Some(wanted.pod.to_owned()),
        container: wanted.id.to_owned(),
    }
}

/// Fails unless a process's cgroups tell that container and no doubt.
fn must_be_in(wanted: &Wanted<'_>, pid: u32) -> Result<()> {
    let (place, text) = place_of(pid)?;
    ensure!(
        place.seat == Some(seat(wanted)) && !place.is_unknown,
        "{place:?} in\n{text}"
    );
    Ok(())
}

/// Seen, named, killed and credited, with the numbers of both sides.
fn rescued(wanted: &Wanted<'_>) -> Result<()> {
    let ground = Ground::make()?;
    let mut scene = scene(ground.start(wanted, &["loop", "epoll_wait"])?, "300ms")?;
    must_be_in(wanted, scene.victim.pid)?;
    let number = scene.add("other-engine", "engine", ENGINE)?;
    let bystander = host_pid(scene.victim.pid, number)?;
    scene.victim.tell_to_end("other-engine")?;
    scene.must_live("the other engine", bystander);
    let (engine, number) = wedge(&mut scene)?;
    let is_host = wanted.pids == Pids::Host;
    ensure!(
        is_host == (engine == number),
        "{number} in there and {engine} out here"
    );
    must_be_in(wanted, engine)?;
    let from = scene.victim.wait_for("engine", "wait4")?;
    let stall = scene.stall("child_wait")?;
    ensure!(
        stall.number("/cause/child/pid") == Some(engine.into())
            && stall.number("/cause/child/ns_pid") == Some(number.into())
            && stall.text("/cause/child/exe") == ENGINE,
        "not {engine}, {number} in there: {stall}"
    );
    let action = scene.rescued(engine)?;
    ensure!(action.mono_ns() >= from + 300_000_000, "{from}: {action}");
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// An engine that has begun to end and goes on: version 1 shows it in the root of every hierarchy from then on.
fn stuck_in_its_end() -> Result<()> {
    let ground = Ground::make()?;
    let victim = ground.start(&OWN, &["loop", "epoll_wait"])?;
    cgroup::leave_version_2(victim.pid)?;
    let mut scene = scene(victim, "300ms")?;
    let number = scene.add("engine", "leader-ends", ENGINE)?;
    let engine = host_pid(scene.victim.pid, number)?;
    scene.victim.tell_to_end("engine")?;
    begin_to_end(engine)?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Has an engine's main thread end, which others survive.
fn begin_to_end(engine: u32) -> Result<()> {
    alive::signal(engine, libc::SIGUSR1)?;
    alive::until_state(engine, 'Z')?;
    let (place, text) = place_of(engine)?;
    ensure!(
        place.seat.is_none() == cgroup::has_version_1("cpu"),
        "{place:?} in\n{text}"
    );
    Ok(())
}

/// Somebody moves the engine to another container's cgroups after the agent has seen where it is, and later back, in steps.
fn moved() -> Result<()> {
    let ground = Ground::make()?;
    let other = ground.start(&OTHER, &["engine"])?;
    let mut scene = scene(ground.start(&OWN, &["loop", "epoll_wait"])?, "50ms")?;
    scene.must_live("the other container", other.pid);
    let (engine, _) = wedge(&mut scene)?;
    let own = cgroup::folders_of(engine)?;
    cgroup::move_below(&cgroup::folders_of(other.pid)?, "", engine)?;
    must_be_in(&OTHER, engine)?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("other_container")?;
    ensure!(refused.number("/child") == Some(engine.into()), "{refused}");
    // Both of them below their containers in cgroups of one name.
    cgroup::move_below(&cgroup::folders_of(engine)?, NESTED, engine)?;
    cgroup::move_below(&own, NESTED, scene.victim.pid)?;
    scene.watch.linger(200)?;
    // In one container again, but for one hierarchy.
    let (last, most) = own.split_last().context("the engine was in no cgroup")?;
    cgroup::move_below(most, NESTED, engine)?;
    scene.watch.linger(200)?;
    let mut seen = scene.watch.seen().iter();
    let sent = seen.find(|line| line.is_sent());
    ensure!(sent.is_none(), "in another container still: {sent:?}");
    alive::must_live("the engine", engine)?;
    cgroup::move_below(std::slice::from_ref(last), NESTED, engine)?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// A container that makes cgroups below its own: one with the name of a container may be one, so that nothing is done; any other
/// name says nothing.
fn named_below() -> Result<()> {
    let ground = Ground::make()?;
    let mut scene = scene(ground.start(&OWN, &["loop", "epoll_wait"])?, "50ms")?;
    let (engine, _) = wedge(&mut scene)?;
    let own = cgroup::folders_of(engine)?;
    cgroup::move_below(&own, OTHER_ID, engine)?;
    must_be_in(&OWN, engine)?;
    scene.victim.wait_for("engine", "wait4")?;
    let refused = scene.refusal("other_container")?;
    ensure!(refused.number("/child") == Some(engine.into()), "{refused}");
    alive::must_live("the engine", engine)?;
    cgroup::move_below(&own, "engines/query", engine)?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// A container that makes cgroups below its own which look like those of another pod's container, and says so in its environment,
/// too: it stays where the kubelet put it, and so do its children.
fn imitated() -> Result<()> {
    let ground = Ground::make()?;
    let victim = ground.start(&OWN, &["loop", "epoll_wait"])?;
    let own = cgroup::folders_of(victim.pid)?;
    ensure!(!own.is_empty(), "the container is in no cgroup");
    let name = format!("{}/{OTHER_ID}", Driver::Cgroupfs.pod(OTHER_POD));
    cgroup::move_below(&own, &name, victim.pid)?;
    let (_, text) = place_of(victim.pid)?;
    ensure!(text.contains(&name), "it did not move: {text}");
    must_be_in(&OWN, victim.pid)?;
    let mut scene = scene(victim, "50ms")?;
    let (engine, _) = wedge(&mut scene)?;
    must_be_in(&OWN, engine)?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Two containers of a pod share a PID namespace, and the loop is its first process: what the other one leaves behind becomes the
/// loop's child. Its own engine is killed, the other's is not.
fn shared_pids() -> Result<()> {
    let ground = Ground::make()?;
    let mut victim = ground.start(&OWN, &["loop", "epoll_wait"])?;
    let beside = Wanted {
        id: OTHER_ID,
        pids: Pids::Of(victim.pid),
        ..OWN
    };
    let behind = program(ENGINE).display().to_string();
    let mut other = ground.start(&beside, &["leaves", &behind])?;
    let number: u32 = other.answer("left")?.parse()?;
    let parent = victim.pid;
    alive::until("the orphan is the loop's child", || {
        host_pid(parent, number).is_ok()
    })?;
    let orphan = host_pid(parent, number)?;
    must_be_in(&beside, orphan)?;
    victim.ask(&format!("adopt orphan {number}"), "adopted")?;
    let mut scene = scene(victim, "50ms")?;
    scene.victim.tell_to_end("orphan")?;
    scene.victim.wait_for("orphan", "wait4")?;
    // Only a scan finds it: until it was read where it runs and what, it is refused for that.
    let pid = scene.victim.pid;
    let refused = scene.watch.next("that it is another container's", |line| {
        line.is("action", pid) && line.text("/refused_by") == "other_container"
    })?;
    ensure!(refused.number("/child") == Some(orphan.into()), "{refused}");
    scene.watch.linger(200)?;
    alive::must_live("the orphan", orphan)?;
    scene.free(orphan, &refused)?;
    let (engine, _) = wedge(&mut scene)?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.rescued(engine)?;
    scene.end(&[(engine, "SIGKILL")]).map(|_| ())
}

/// Not the container has a limit, but its pod, and another container of the pod uses it up.
fn throttled_by_the_pod() -> Result<()> {
    let ground = Ground::make()?;
    let victim = ground.start(&OWN, &["loop", "epoll_wait"])?;
    let beside = Wanted {
        id: OTHER_ID,
        ..OWN
    };
    let burner = ground.start(&beside, &["burner"])?;
    let pod = Cgroup::with_cpu_at(&ground.pod_path(Driver::Cgroupfs, POD))?;
    let grace = format!("{}ms", Grace::Usual.ms());
    let mut scene = scene(victim, &grace)?;
    let (engine, _) = wedge(&mut scene)?;
    held::throttled_time_does_not_count(scene, engine, &pod, burner)
}

/// A container that gives its engine a cgroup below its own, with a limit.
fn throttled_engine() -> Result<()> {
    let ground = Ground::make()?;
    let mut victim = ground.start(&OWN, &["loop", "epoll_wait"])?;
    let number = victim.spawn("engine", "engine", ENGINE)?;
    let engine = host_pid(victim.pid, number)?;
    let own = cgroup::folders_of(engine)?;
    cgroup::move_below(&own, "engines", engine)?;
    let beside = Wanted {
        id: OTHER_ID,
        ..OWN
    };
    let burner = ground.start(&beside, &["burner"])?;
    cgroup::move_below(&own, "engines", burner.pid)?;
    let path = ground.pod_path(Driver::Cgroupfs, POD);
    let cgroup = Cgroup::with_cpu_at(&format!("{path}/{ID}/engines"))?;
    let grace = format!("{}ms", Grace::Usual.ms());
    let mut scene = scene(victim, &grace)?;
    scene.victim.tell_to_end("engine")?;
    held::throttled_time_does_not_count(scene, engine, &cgroup, burner)
}

/// `runc pause` freezes the loop in its wait, and its engine.
fn paused() -> Result<()> {
    let ground = Ground::make()?;
    // Long enough for runc to start in it.
    let seconds = 2;
    let mut scene = scene(
        ground.start(&OWN, &["loop", "epoll_wait"])?,
        &format!("{seconds}s"),
    )?;
    let (engine, _) = wedge(&mut scene)?;
    scene.victim.wait_for("engine", "wait4")?;
    scene.stall("child_wait")?;
    ground.ask("pause", ID)?;
    let refused = scene.refusal("frozen")?;
    ensure!(refused.number("/child") == Some(engine.into()), "{refused}");
    alive::must_live("the engine", engine)?;
    let from = sys::mono_ns();
    ground.ask("resume", ID)?;
    let action = scene.rescued(engine)?;
    ensure!(
        action.mono_ns() >= from + seconds * 1_000_000_000,
        "within the grace after {from}: {action}"
    );
    let lines = scene.end(&[(engine, "SIGKILL")])?;
    let closed = lines.iter().rfind(|line| line.kind() == "stall_closed");
    let closed = closed.context("no end of the stall")?;
    ensure!(closed.is_true("/rescued"), "{closed}");
    Ok(())
}

/// A pod names its engine, the configuration names another. The engine has begun to end, so that version 1 shows it in no pod, when
/// all processes are looked at again: it is what its pod calls it all the same.
fn asked_for_to_the_end() -> Result<()> {
    let ground = Ground::make()?;
    let mut victim = ground.start(&OWN, &["loop", "epoll_wait"])?;
    cgroup::leave_version_2(victim.pid)?;
    let pid = victim.pid.to_string();
    let mut agent = Victim::start(&["podded", &pid, POD, ID, ENGINE])?;
    let number = victim.spawn("engine", "leader-ends", ENGINE)?;
    let engine = host_pid(victim.pid, number)?;
    must_be_in(&OWN, engine)?;
    victim.tell_to_end("engine")?;
    begin_to_end(engine)?;
    agent.ask("reload", "reloaded")?;
    victim.wait_for("engine", "wait4")?;
    let sent = format!("{engine} Sent");
    loop {
        let told = agent.answer("action")?;
        if told == sent {
            break;
        }
        ensure!(!told.contains("NotEngine"), "the pod's engine: {told}");
    }
    victim.answer("waited")?;
    // To start a child can be a stall of its own.
    while agent.answer("closed")? != "true" {}
    agent.quit()?;
    victim.quit()
}
