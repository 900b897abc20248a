//! Each rule of "When a signal is sent" as rows of a table.

mod chosen;
mod deadline;
mod due;
mod guards;

use super::*;
use crate::pipeline::event::{Awaited, WaitOptions};
use crate::pipeline::ids::NsPid;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Mono {
    Mono(ms * MS)
}

fn engine() -> ChildFacts {
    ChildFacts {
        key: PidKey {
            pid: Pid(20),
            start_ns: 5,
        },
        ns_pid: Some(NsPid(7)),
        group: Some(3),
        exe: "query-engine-x".into(),
        engine: Some(true),
        told: Some(at(990)),
        seen_born: true,
        told_unseen: false,
        place: Place::Same,
        condition: Condition::Free,
        state: "sleeping",
        engines_below: Vec::new(),
    }
}

/// A loop in `wait4(7)` since second 1 on an engine that was told to end just before.
fn wedged() -> WaitFacts {
    WaitFacts {
        start: at(1000),
        first_seen: at(1000),
        older_than_agent: false,
        awaited: Awaited::Process(7),
        options: WaitOptions::default(),
        waits: true,
        pidfd_child: None,
        own_group: Some(3),
        loop_thread: true,
        loop_condition: Condition::Free,
        target_ending: None,
        ends_by: None,
        children: vec![engine()],
        held_until: None,
        throttled: Duration::ZERO,
        termed: None,
        free_by: None,
        guards: Guards::default(),
    }
}

fn with(change: impl FnOnce(&mut WaitFacts)) -> WaitFacts {
    let mut facts = wedged();
    change(&mut facts);
    facts
}

fn child(change: impl FnOnce(&mut ChildFacts)) -> WaitFacts {
    with(|facts| change(&mut facts.children[0]))
}

fn strike(signal: Signal, grace_ms: u64) -> Decision {
    Decision::Strike {
        child: engine().key,
        exe: engine().exe,
        signal,
        grace: Duration::from_millis(grace_ms),
        grace_reason: None,
    }
}

fn refusal(facts: &WaitFacts, rules: &EngineRules, now_ms: u64) -> Option<Refusal> {
    match decide(facts, rules, at(now_ms)) {
        Decision::Refuse { refusal, .. } => Some(refusal),
        _ => None,
    }
}

fn with_group(mut facts: WaitFacts, group: i32) -> WaitFacts {
    facts.awaited = Awaited::Group(group);
    facts
}

fn wrap(child: &mut ChildFacts, engines: u32) {
    child.engine = Some(false);
    for number in 0..engines {
        let mut below = engine();
        below.key.pid = Pid(100 + number);
        child.engines_below.push(below);
    }
}
