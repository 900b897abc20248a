//! Which child a wait names, and which engine that is or hides.

use super::{ChildFacts, Condition, EngineRules, Place, WaitFacts};
use crate::pipeline::cause::ChildCause;
use crate::pipeline::event::Awaited;
use crate::pipeline::ids::{Mono, NsPid};
use crate::pipeline::refusal::Refusal;

/// The engine to signal, or the guard that names none, with the child that it is about.
pub(super) type Chosen<'a> = Result<&'a ChildFacts, (Option<&'a ChildFacts>, Refusal)>;

/// The child the call names, or the guard that says it names none.
pub(super) fn awaited_child(facts: &WaitFacts) -> Chosen<'_> {
    let live = || {
        facts
            .children
            .iter()
            .filter(|child| child.condition != Condition::Gone)
    };
    let mut several: Vec<_> = match facts.awaited {
        Awaited::Process(id) => {
            let wanted = u32::try_from(id).ok().map(NsPid);
            let child = live().find(|child| wanted.is_some() && child.ns_pid == wanted);
            return child.ok_or((None, Refusal::NotChild));
        }
        Awaited::PidFd(_) => {
            let child = live().find(|child| Some(child.key.pid) == facts.pidfd_child);
            return child.ok_or((None, Refusal::NotChild));
        }
        Awaited::Any => live().collect(),
        Awaited::Group(group) => {
            let group = if group == 0 {
                facts.own_group
            } else {
                Some(group)
            };
            live()
                .filter(|child| group.is_some() && child.group == group)
                .collect()
        }
    };
    match (several.pop(), several.is_empty()) {
        (Some(child), true) => Ok(child),
        (Some(_), false) => Err((None, Refusal::AmbiguousChild)),
        (None, _) => Err((None, Refusal::NotChild)),
    }
}

/// The engine to signal: the child itself, or the one behind a wrapper.
pub(super) fn engine_of<'a>(child: &'a ChildFacts, rules: &EngineRules) -> Chosen<'a> {
    if child.engine == Some(true) {
        return Ok(child);
    }
    match child.engines_below.as_slice() {
        [engine] if rules.through_wrapper => Ok(engine),
        [_] => Err((Some(child), Refusal::WaitsOnWrapper)),
        _ => Err((Some(child), Refusal::NotEngine)),
    }
}

/// Whether it was told to end by nobody knows whom.
pub(super) fn is_unknown(facts: &WaitFacts, chosen: &Chosen<'_>) -> bool {
    facts.older_than_agent || chosen.as_ref().is_ok_and(|engine| engine.told_unseen)
}

/// Whether the decision hangs on something that is being read: a young child's executable, or its container.
pub(super) fn is_unread(chosen: &Chosen<'_>) -> bool {
    match chosen {
        Ok(engine) => engine.place == Place::Unknown && engine.condition != Condition::Gone,
        Err((Some(child), Refusal::NotEngine)) => child.engine.is_none(),
        Err(_) => false,
    }
}

/// The child that the wait names, as a cause shows it.
#[must_use]
pub fn awaited_cause(facts: &WaitFacts, now: Mono) -> Option<ChildCause> {
    let child = awaited_child(facts).ok()?;
    Some(ChildCause {
        pid: child.key.pid,
        ns_pid: child.ns_pid.unwrap_or(NsPid(child.key.pid.0)),
        exe: child.exe.clone(),
        state: child.state.to_owned(),
        told_to_end_ms_ago: child
            .told
            .map(|told| now.since(told).as_secs_f64() * 1000.0),
        signalled: None,
    })
}
