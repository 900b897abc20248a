//! Another configuration while the node agent runs.

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::node::Node;
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, make_program};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("reload::no_longer_matched", no_longer_matched),
        Case::new("reload::moved_to_another_target", moved),
        Case::new("reload::enforced_while_it_lasts", enforced),
        Case::new("reload::shorter_grace_while_it_lasts", shorter_grace),
        Case::new("reload::told_sigterm_is_sent_first", told_sigterm),
    ]
}

/// One target that matches executables by this pattern.
fn config(name: &str, pattern: &str) -> String {
    format!(
        "export: {{ metrics: {{ listen: \"127.0.0.1:0\" }} }}\ntargets:\n  - name: {name}\n    match: {{ exe: \"{pattern}\" }}\n"
    )
}

/// The target is still there and its match names less: what it does not name any more is let go, with its children; what it
/// names stays watched without a gap.
fn no_longer_matched() -> Result<()> {
    let mut kept = Victim::start_as(&make_program("reload-a-test")?, &["loop", "epoll_wait"])?;
    let mut dropped = Victim::start_as(&make_program("reload-b-test")?, &["loop", "epoll_wait"])?;
    let mut node = Node::start(&config("loops", "reload-?-test"))?;
    let (of_kept, of_dropped) = (format!("[{}]", kept.pid), format!("[{}]", dropped.pid));
    // In any order.
    for _ in 0..2 {
        node.next(&["is an event loop", "reload-"])?;
    }
    let worker = dropped.ask("fork-worker", "spawned")?;
    let of_worker = format!("[{worker}]");
    node.next(&["is an event loop", &of_worker])?;
    node.configure(&config("loops", "reload-a-test"))?;
    for who in [&of_dropped, &of_worker] {
        if !node.seen().iter().any(|line| is_summary(line, who)) {
            node.next(&[who, "iterations"])?;
        }
    }
    let so_far = node.seen().len();
    dropped.ask("nap 300", "napped")?;
    kept.tell("nap")?;
    node.next(&[&of_kept, "STALLED"])?;
    kept.wake()?;
    kept.quit()?;
    dropped.quit()?;
    let lines = node.end()?;
    let late = lines
        .iter()
        .skip(so_far)
        .find(|line| line.contains(&of_dropped));
    ensure!(late.is_none(), "still watched: {late:?}");
    let begun = lines
        .iter()
        .filter(|line| line.contains(&of_kept) && line.contains("is an event loop"));
    ensure!(begun.count() == 1, "not watched without a gap: {lines:#?}");
    Ok(())
}

fn is_summary(line: &str, who: &str) -> bool {
    line.contains(who) && line.contains("iterations")
}

/// Another target matches it now: it is that one's, from its recognition on.
fn moved() -> Result<()> {
    let mut victim = Victim::start_as(&make_program("reload-c-test")?, &["loop", "epoll_wait"])?;
    let who = format!("[{}]", victim.pid);
    // No stall is ever that long here.
    let old = config("old", "reload-c-test") + "    stall_after: 10s\n";
    let mut node = Node::start(&old)?;
    node.next(&[&who, "is an event loop"])?;
    let both = config("old", "reload-?-other")
        + "  - name: new\n    match: { exe: \"reload-c-test\" }\n    stall_after: 1s\n";
    node.configure(&both)?;
    node.next(&[&who, "iterations"])?;
    node.next(&[&who, "is an event loop"])?;
    // The new target's threshold: it is told of a stall that the old one's would not have been one for.
    victim.tell("nap")?;
    node.next(&[&who, "STALLED"])?;
    victim.wake()?;
    node.next(&[&who, "the loop runs again"])?;
    victim.quit()?;
    node.end().map(|_| ())
}

/// One target whose engines are treated like this.
fn with_engine(pattern: &str, mode: &str, graces: &str) -> String {
    format!("mode: {mode}\n")
        + &config("loops", pattern)
        + &format!("    engine: {{ match: [ {{ exe: \"{ENGINE}\" }} ], {graces} }}\n")
}

fn is_action(line: &str) -> bool {
    line.contains("would send SIG") || line.contains(": sent SIG")
}

/// A loop that waits for a deaf engine, which it has told to end or not.
fn wedge(victim: &mut Victim, told: bool) -> Result<()> {
    victim.spawn("engine", "engine", ENGINE)?;
    victim.ask("idle 20", "idled")?;
    if told {
        victim.tell_to_end("engine")?;
    }
    victim.wait_for("engine", "wait4").map(|_| ())
}

/// The loop is free, and has told so; it and the agent end.
fn freed(mut victim: Victim, node: Node, actions: &[&str]) -> Result<()> {
    victim.answer("waited")?;
    victim.quit()?;
    let lines = node.end()?;
    let told: Vec<&String> = lines.iter().filter(|line| is_action(line)).collect();
    ensure!(
        told.len() == actions.len()
            && told
                .iter()
                .zip(actions)
                .all(|(line, words)| words.split(' ').all(|word| line.contains(word))),
        "expected {actions:?}: {told:#?}"
    );
    Ok(())
}

/// Observing, it says once what it would do; enforcing from then on, it does that to the wait that is still going on. What
/// concerns no engine does not make it say it again.
fn enforced() -> Result<()> {
    let mut victim = Victim::start_as(&make_program("reload-d-test")?, &["loop", "epoll_wait"])?;
    let who = format!("[{}]", victim.pid);
    let observing = with_engine("reload-d-test", "observe", "grace: 50ms");
    let mut node = Node::start(&observing)?;
    node.next(&[&who, "is an event loop"])?;
    wedge(&mut victim, true)?;
    node.next(&[&who, "would"])?;
    node.configure(&(observing.clone() + "    stall_after: 200ms\n"))?;
    node.next(&["configuration changed"])?;
    node.configure(&with_engine("reload-d-test", "enforce", "grace: 50ms"))?;
    node.next(&[&who, "the loop runs again"])?;
    freed(victim, node, &["would send SIGKILL", "sent SIGKILL"])
}

/// A grace that would have lasted beyond the test.
fn shorter_grace() -> Result<()> {
    let mut victim = Victim::start_as(&make_program("reload-e-test")?, &["loop", "epoll_wait"])?;
    let who = format!("[{}]", victim.pid);
    let mut node = Node::start(&with_engine("reload-e-test", "enforce", "grace: 600s"))?;
    node.next(&[&who, "is an event loop"])?;
    wedge(&mut victim, true)?;
    node.next(&[&who, "STALLED"])?;
    node.configure(&with_engine("reload-e-test", "enforce", "grace: 50ms"))?;
    node.next(&[&who, "the loop runs again"])?;
    freed(victim, node, &["sent SIGKILL"])
}

/// A SIGTERM that was only told of while observing is sent before the SIGKILL.
fn told_sigterm() -> Result<()> {
    let mut victim = Victim::start_as(&make_program("reload-f-test")?, &["loop", "epoll_wait"])?;
    let who = format!("[{}]", victim.pid);
    let graces = "grace: 50ms, unknown_grace: 50ms, untold_grace: 50ms";
    let settings = |mode| with_engine("reload-f-test", mode, graces);
    let mut node = Node::start(&settings("observe"))?;
    node.next(&[&who, "is an event loop"])?;
    wedge(&mut victim, false)?;
    node.next(&[&who, "would send SIGKILL"])?;
    node.configure(&settings("enforce"))?;
    node.next(&[&who, "the loop runs again"])?;
    let actions = [
        "would send SIGTERM",
        "would send SIGKILL",
        "sent SIGTERM",
        "sent SIGKILL",
    ];
    freed(victim, node, &actions)
}
