//! When which signal is due: graces, and what makes them longer or cuts them.

use std::time::Duration;

use super::{EngineRules, WaitFacts};
use crate::pipeline::ids::Mono;
use crate::pipeline::notice::{GraceReason, Signal};

/// A grace is never cut below this for the kubelet's sake.
const LEAST_GRACE: Duration = Duration::from_millis(100);

/// When which signal is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) from: Mono,
    pub(super) signal: Signal,
    pub(super) grace: Duration,
    pub(super) reason: Option<GraceReason>,
}

impl Due {
    /// After a grace that nothing cuts.
    pub(super) const fn whole(from: Mono, signal: Signal, grace: Duration) -> Self {
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

    pub(super) fn at(&self) -> Mono {
        self.from.plus(self.grace)
    }
}

/// When which signal is due, and after which grace; `None` if never. Only the grace of who was told to end is cut.
pub(super) fn due(
    facts: &WaitFacts,
    rules: &EngineRules,
    told: Option<Mono>,
    unknown: bool,
) -> Option<Due> {
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
pub(super) fn held(facts: &WaitFacts, from: Mono) -> Mono {
    facts
        .held_until
        .map_or(from, |until| until.max(from))
        .plus(facts.throttled)
}
