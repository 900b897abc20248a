//! Whether to signal the child a loop waits for: one pure function over the facts of one wait episode.
//!
//! The rules are those of `docs/principles.md`, "When a signal is sent", in the order in which a person would ask them.
//! Whatever is not proven by the facts is refused, with the guard that refused.

use std::time::Duration;

use super::cause::ChildCause;
use super::event::{Awaited, WaitOptions};
use super::ids::{Mono, NsPid, Pid, PidKey};
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

/// A grace is never cut below this for the kubelet's sake.
const LEAST_GRACE: Duration = Duration::from_millis(100);

/// How engines of a target are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineRules {
    /// Time a told engine has to end.
    pub grace: Duration,
    /// The same where it is unknown who told it, before our SIGTERM.
    pub unknown_grace: Duration,
    /// The same where nobody told it; `None` is never.
    pub untold_grace: Option<Duration>,
    /// Signal the engine behind a wrapper.
    pub through_wrapper: bool,
}

impl Default for EngineRules {
    fn default() -> Self {
        Self {
            grace: Duration::from_millis(500),
            unknown_grace: Duration::from_secs(10),
            untold_grace: None,
            through_wrapper: false,
        }
    }
}

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It runs or sleeps.
    Free,
    /// Stopped by a signal, or its cgroup is frozen.
    Held,
    /// A debugger traces it.
    Traced,
    /// It has ended (a zombie, or not there).
    Gone,
    /// It could not be read.
    Unreadable,
}

/// Whether a child runs in its loop's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It does.
    Same,
    /// It does not.
    Other,
    /// Not read yet, or not readable.
    Unknown,
}

/// A child of the loop's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildFacts {
    /// Identity.
    pub key: PidKey,
    /// Its number as the loop's process sees it, if known.
    pub ns_pid: Option<NsPid>,
    /// Its process group as the loop's process numbers it, if known.
    pub group: Option<i32>,
    /// Basename of its executable.
    pub exe: String,
    /// Whether it is an engine; `None` if that could not be told.
    pub engine: Option<bool>,
    /// First time its parent told it to end.
    pub told: Option<Mono>,
    /// Its birth was seen.
    pub seen_born: bool,
    /// A signal that tells it to end is pending, and nobody was seen to send it: it was told before the agent came.
    pub told_unseen: bool,
    /// Where it runs.
    pub place: Place,
    /// Whether it runs.
    pub condition: Condition,
    /// Its state in words.
    pub state: &'static str,
    /// Engines below it.
    pub engines_below: Vec<ChildFacts>,
}

/// Everything the decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitFacts {
    /// First entry of the episode.
    pub start: Mono,
    /// When the agent first saw it.
    pub first_seen: Mono,
    /// It is older than the agent, which therefore does not know who told whom.
    pub older_than_agent: bool,
    /// What is awaited.
    pub awaited: Awaited,
    /// How.
    pub options: WaitOptions,
    /// The thread is in the wait at this moment, and not only before in the same iteration.
    pub waits: bool,
    /// The child behind an awaited pidfd.
    pub pidfd_child: Option<Pid>,
    /// The loop's own process group, as its process numbers it.
    pub own_group: Option<i32>,
    /// The thread is shown to be a loop thread.
    pub loop_thread: bool,
    /// The loop's process.
    pub loop_condition: Condition,
    /// Last time anybody told the loop's process to end.
    pub target_ending: Option<Mono>,
    /// Until when its pod gives it for that, where the pod is known.
    pub ends_by: Option<Mono>,
    /// The loop's live children.
    pub children: Vec<ChildFacts>,
    /// The loop or the child was seen stopped, frozen or throttled until then.
    pub held_until: Option<Mono>,
    /// How long the loop's cgroup was throttled in this episode, or the engine's own, which does not count either.
    pub throttled: Duration,
    /// When we sent SIGTERM in this episode.
    pub termed: Option<Mono>,
    /// Until when the loop has to be free, so that the kubelet does not decide to kill its container. From probes that were seen or a
    /// pod's spec, never from the configuration alone.
    pub free_by: Option<Mono>,
    /// The guards that do not depend on the episode.
    pub guards: Guards,
}

/// Budget, pause and lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guards {
    /// No action before then.
    pub paused_until: Option<Mono>,
    /// The budget is used up.
    pub budget_spent: bool,
    /// Another agent enforces on this process.
    pub other_enforcer: bool,
    /// Ids cannot be told apart.
    pub no_pid_namespace: bool,
}

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

/// When which signal is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    from: Mono,
    signal: Signal,
    grace: Duration,
    reason: Option<GraceReason>,
}

impl Due {
    /// After a grace that nothing cuts.
    const fn whole(from: Mono, signal: Signal, grace: Duration) -> Self {
        Self {
            from,
            signal,
            grace,
            reason: None,
        }
    }

    /// After the grace of an engine that was told to end: cut to what still lets the loop answer a probe, where it is longer.
    fn kill(facts: &WaitFacts, rules: &EngineRules, from: Mono) -> Self {
        let whole = Self::whole(from, Signal::Kill, rules.grace);
        let Some(left) = facts.free_by.map(|by| by.since(from)) else {
            return whole;
        };
        let grace = left.max(LEAST_GRACE);
        if grace >= rules.grace {
            return whole;
        }
        Self {
            grace,
            reason: Some(GraceReason::Deadline),
            ..whole
        }
    }

    fn at(&self) -> Mono {
        self.from.plus(self.grace)
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
    let (due, signal) = (wanted.at(), wanted.signal);
    if now < due {
        // Held, it would be due by now but for that: say so, and look again.
        let at_once = WaitFacts {
            held_until: None,
            ..facts.clone()
        };
        let free_due = self::due(&at_once, rules, told, unknown).map(|due| due.at());
        return match chosen {
            Ok(engine) if is_held(facts, engine) && free_due.is_some_and(|due| now >= due) => {
                Decision::Refuse {
                    child: Some(engine.key.pid),
                    exe: engine.exe.clone(),
                    signal,
                    refusal: Refusal::Frozen,
                    again: Some(now.plus(AGAIN)),
                }
            }
            _ => Decision::Later(due),
        };
    }
    if !facts.waits {
        // It may come back to it: a signal interrupted the call. It may also never: then there is nothing to end.
        return Decision::Later(now.plus(BACK_IN_IT));
    }
    if now < due.plus(READING) && is_unread(&chosen) {
        return Decision::Later(now.plus(READ_AGAIN));
    }
    let engine = match chosen {
        Ok(engine) => engine,
        Err((child, refusal)) => {
            let (child, exe) = child.map_or((None, String::new()), |child| {
                (Some(child.key.pid), child.exe.clone())
            });
            // A child may be added, or its facts may be read, while the loop waits.
            return Decision::Refuse {
                child,
                exe,
                signal,
                refusal,
                again: Some(now.plus(AGAIN)),
            };
        }
    };
    let refuse = |refusal, again| Decision::Refuse {
        child: Some(engine.key.pid),
        exe: engine.exe.clone(),
        signal,
        refusal,
        again,
    };
    let told_somehow = told.is_some() || facts.termed.is_some() || unknown;
    if let Some((refusal, again)) = guard(facts, rules, engine, told_somehow, now) {
        return refuse(refusal, again);
    }
    Decision::Strike {
        child: engine.key,
        exe: engine.exe.clone(),
        signal,
        // The news of the deadline may have come when more had passed already.
        grace: match wanted.reason {
            Some(_) => now.since(wanted.from).min(rules.grace),
            None => wanted.grace,
        },
        grace_reason: wanted.reason,
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
        Some(due) if now >= due.at() => Decision::Refuse {
            child: Some(engine.key.pid),
            exe: engine.exe.clone(),
            signal: due.signal,
            refusal: Refusal::NotLoopThread,
            again: None,
        },
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

/// Whether it was told to end by nobody knows whom.
fn is_unknown(facts: &WaitFacts, chosen: &Chosen<'_>) -> bool {
    facts.older_than_agent || chosen.as_ref().is_ok_and(|engine| engine.told_unseen)
}

/// The child the call names, or the guard that says it names none.
fn awaited_child(facts: &WaitFacts) -> Result<&ChildFacts, (Option<&ChildFacts>, Refusal)> {
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
fn engine_of<'a>(
    child: &'a ChildFacts,
    rules: &EngineRules,
) -> Result<&'a ChildFacts, (Option<&'a ChildFacts>, Refusal)> {
    if child.engine == Some(true) {
        return Ok(child);
    }
    match child.engines_below.as_slice() {
        [engine] if rules.through_wrapper => Ok(engine),
        [_] => Err((Some(child), Refusal::WaitsOnWrapper)),
        _ => Err((Some(child), Refusal::NotEngine)),
    }
}

/// When which signal is due, and after which grace; `None` if never. Only the grace of who was told to end is cut.
fn due(facts: &WaitFacts, rules: &EngineRules, told: Option<Mono>, unknown: bool) -> Option<Due> {
    if let Some(termed) = facts.termed {
        // Our own SIGTERM stands for the parent's: one grace after it, SIGKILL.
        return Some(Due::kill(facts, rules, held(facts, termed)));
    }
    if let Some(told) = told {
        let from = held(facts, told.max(facts.start));
        return Some(Due::kill(facts, rules, from));
    }
    if unknown {
        let from = held(facts, facts.first_seen);
        return Some(Due::whole(from, Signal::Term, rules.unknown_grace));
    }
    let untold = rules.untold_grace?;
    let from = held(facts, facts.start);
    Some(Due::whole(from, Signal::Term, untold))
}

/// Time in which loop or child was held does not count: the grace starts when it was last seen held, and is longer by what
/// was throttled.
fn held(facts: &WaitFacts, from: Mono) -> Mono {
    facts
        .held_until
        .map_or(from, |until| until.max(from))
        .plus(facts.throttled)
}

type Chosen<'a> = Result<&'a ChildFacts, (Option<&'a ChildFacts>, Refusal)>;

/// Whether the decision hangs on something that is being read: a young child's executable, or its container.
fn is_unread(chosen: &Chosen<'_>) -> bool {
    match chosen {
        Ok(engine) => engine.place == Place::Unknown && engine.condition != Condition::Gone,
        Err((Some(child), Refusal::NotEngine)) => child.engine.is_none(),
        Err(_) => false,
    }
}

fn is_held(facts: &WaitFacts, engine: &ChildFacts) -> bool {
    engine.condition == Condition::Held || facts.loop_condition == Condition::Held
}

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

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "policy_deadline_tests.rs"]
mod deadline_tests;
