//! Whether to signal the child a loop waits for: one pure function over the facts of one wait episode.
//!
//! The rules are those of `docs/principles.md`, "When a signal is sent", in the order in which a person would ask them.
//! Whatever is not proven by the facts is refused, with the guard that refused. The facts are in `facts`; `chosen` names the engine,
//! `due` the moment, and the guards are here.

mod chosen;
mod due;
mod facts;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chosen::{Chosen, awaited_child, engine_of, is_unknown, is_unread};
use due::{Due, due, held};

pub use chosen::awaited_cause;
pub use facts::{ChildFacts, Condition, EngineRules, Guards, Place, WaitFacts};

use super::ids::{Mono, Pid, PidKey};
use super::notice::{GraceReason, Signal};
use super::refusal::Refusal;

/// How long after a termination signal a process counts as ending itself (Kubernetes' default grace period), where its pod
/// gives it no longer.
pub const ENDING: Duration = Duration::from_secs(30);
/// How often a refusal that can heal is looked at again.
const AGAIN: Duration = Duration::from_millis(50);
/// How often a thread that has left a wait is looked at again.
const BACK_IN_IT: Duration = Duration::from_millis(20);

/// How long the reader of procfs gets, past the grace, before what it has not read counts as not shown.
const READING: Duration = Duration::from_secs(1);
/// How often its answer is looked for.
const READ_AGAIN: Duration = Duration::from_millis(5);

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This wait is not ours to end.
    Leave,
    /// Look again then.
    Later(Mono),
    /// A guard refuses; look again then, if it can heal.
    Refuse {
        /// The child it is about, if one can be named.
        child: Option<Pid>,
        /// Its executable.
        exe: String,
        /// The signal that was due.
        signal: Signal,
        /// Which guard.
        refusal: Refusal,
        /// When to look again.
        again: Option<Mono>,
    },
    /// Send the signal.
    Strike {
        /// To whom.
        child: PidKey,
        /// Its executable.
        exe: String,
        /// Which.
        signal: Signal,
        /// The grace that has passed.
        grace: Duration,
        /// Why it was not the one that is configured.
        grace_reason: Option<GraceReason>,
    },
}

impl Decision {
    fn refused(
        child: Option<&ChildFacts>,
        signal: Signal,
        refusal: Refusal,
        again: Option<Mono>,
    ) -> Self {
        Self::Refuse {
            child: child.map(|child| child.key.pid),
            exe: child.map_or_else(String::new, |child| child.exe.clone()),
            signal,
            refusal,
            again,
        }
    }
}

/// Decides on one wait episode.
#[must_use]
pub fn decide(facts: &WaitFacts, rules: &EngineRules, now: Mono) -> Decision {
    if !facts.options.awaits_exit() {
        return Decision::Leave;
    }
    let child = awaited_child(facts);
    // Behind a wrapper it is the wrapper that the loop's process tells.
    let told_wrapper = child.as_ref().ok().and_then(|child| child.told);
    let chosen = child.and_then(|child| engine_of(child, rules));
    let told = chosen
        .as_ref()
        .ok()
        .and_then(|engine| engine.told)
        .or(told_wrapper);
    if !facts.loop_thread {
        return judge_unshown(facts, rules, &chosen, told, now);
    }
    let unknown = is_unknown(facts, &chosen);
    // Nobody told it and that is never enough: say so once the grace would have passed.
    let never = Due::whole(held(facts, facts.start), Signal::Kill, rules.grace);
    let wanted = due(facts, rules, told, unknown).unwrap_or(never);
    if now < wanted.at() {
        return judge_early(facts, rules, &chosen, told, (wanted, now));
    }
    if !facts.waits {
        // It may come back to it: a signal interrupted the call. It may also never: then there is nothing to end.
        return Decision::Later(now.plus(BACK_IN_IT));
    }
    if now < wanted.at().plus(READING) && is_unread(&chosen) {
        return Decision::Later(now.plus(READ_AGAIN));
    }
    let engine = match chosen {
        Ok(engine) => engine,
        Err((child, refusal)) => {
            // A child may be added, or its facts may be read, while the loop waits.
            let again = Some(now.plus(AGAIN));
            return Decision::refused(child, wanted.signal, refusal, again);
        }
    };
    let told_somehow = told.is_some() || facts.termed.is_some() || unknown;
    if let Some((refusal, again)) = guard(facts, rules, engine, told_somehow, now) {
        return Decision::refused(Some(engine), wanted.signal, refusal, again);
    }
    Decision::Strike {
        child: engine.key,
        exe: engine.exe.clone(),
        signal: wanted.signal,
        // The news of the deadline may have come when more had passed already.
        grace: match wanted.reason {
            Some(_) => now.since(wanted.from).min(rules.grace),
            None => wanted.grace,
        },
        grace_reason: wanted.reason,
    }
}

/// Before the grace is over. Held, it would be by now but for that: say so, and look again.
fn judge_early(
    facts: &WaitFacts,
    rules: &EngineRules,
    chosen: &Chosen<'_>,
    told: Option<Mono>,
    (wanted, now): (Due, Mono),
) -> Decision {
    let at_once = WaitFacts {
        held_until: None,
        ..facts.clone()
    };
    let free = due(&at_once, rules, told, is_unknown(facts, chosen));
    match chosen {
        Ok(engine) if is_held(facts, engine) && free.is_some_and(|due| now >= due.at()) => {
            let again = Some(now.plus(AGAIN));
            Decision::refused(Some(engine), wanted.signal, Refusal::Frozen, again)
        }
        _ => Decision::Later(wanted.at()),
    }
}

/// A thread that is not shown to be a loop is never acted for, and most of its waits are its own affair: only a wait that
/// would be ended if it were one is worth a word.
fn judge_unshown(
    facts: &WaitFacts,
    rules: &EngineRules,
    chosen: &Chosen<'_>,
    told: Option<Mono>,
    now: Mono,
) -> Decision {
    let unknown = is_unknown(facts, chosen);
    let (Ok(engine), true) = (chosen, told.is_some() || unknown) else {
        return Decision::Leave;
    };
    match due(facts, rules, told, unknown) {
        Some(due) if now >= due.at() => {
            Decision::refused(Some(engine), due.signal, Refusal::NotLoopThread, None)
        }
        Some(due) => Decision::Later(due.at()),
        None => Decision::Leave,
    }
}

/// What a person should know beside the guard's own sentence.
#[must_use]
pub fn remark(facts: &WaitFacts, child: Option<Pid>, refusal: Refusal) -> Option<&'static str> {
    let child = facts
        .children
        .iter()
        .find(|known| Some(known.key.pid) == child)?;
    match refusal {
        Refusal::NotToldToEnd if !child.seen_born => {
            Some("it is older than the agent, and may have been told before")
        }
        Refusal::OtherContainer if child.place == Place::Unknown => {
            Some("where it runs has not been read yet, or could not be")
        }
        Refusal::NotEngine if child.engine.is_none() => {
            Some("what it runs has not been read yet, or could not be")
        }
        _ => None,
    }
}

/// Whether one of the two is stopped or frozen.
fn is_held(facts: &WaitFacts, engine: &ChildFacts) -> bool {
    engine.condition == Condition::Held || facts.loop_condition == Condition::Held
}

/// The first guard that refuses, and when to look again.
fn guard(
    facts: &WaitFacts,
    rules: &EngineRules,
    engine: &ChildFacts,
    told_somehow: bool,
    now: Mono,
) -> Option<(Refusal, Option<Mono>)> {
    let soon = Some(now.plus(AGAIN));
    if facts.guards.no_pid_namespace {
        return Some((Refusal::NoPidNamespace, None));
    }
    if engine.place != Place::Same {
        return Some((Refusal::OtherContainer, soon));
    }
    if !told_somehow && rules.untold_grace.is_none() {
        return Some((Refusal::NotToldToEnd, soon));
    }
    if let Some(ending) = facts.target_ending {
        let until = ending.plus(ENDING).max(facts.ends_by.unwrap_or_default());
        if now < until {
            return Some((Refusal::TargetEnding, Some(until)));
        }
    }
    match (engine.condition, facts.loop_condition) {
        (Condition::Traced, _) => return Some((Refusal::Traced, soon)),
        _ if is_held(facts, engine) => return Some((Refusal::Frozen, soon)),
        (Condition::Gone | Condition::Unreadable, _)
        | (_, Condition::Gone | Condition::Unreadable) => {
            return Some((Refusal::IdentityChanged, soon));
        }
        _ => {}
    }
    if facts.guards.other_enforcer {
        return Some((Refusal::AnotherEnforcer, soon));
    }
    if facts.guards.budget_spent {
        return Some((Refusal::Budget, Some(now.plus(Duration::from_secs(1)))));
    }
    match facts.guards.paused_until {
        Some(until) if now < until => Some((Refusal::Paused, Some(until))),
        _ => None,
    }
}
