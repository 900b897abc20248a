//! Another configuration while the node agent runs.

use anyhow::{Result, ensure};

use super::Case;
use crate::harness::make_program;
use crate::harness::node::Node;
use crate::harness::victim::Victim;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("reload::no_longer_matched", no_longer_matched),
        Case::new("reload::moved_to_another_target", moved),
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
