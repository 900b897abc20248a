//! The series a process has from the moment its first loop is recognised, at zero: every attribute value an alert reads.
//!
//! `increase()` sees no first event of a series that begins with it, and the first stall or signal is often the only one.
//! Of the refusals only those that an operator has to act on are created ahead: all 17, for each signal and mode, were
//! three quarters of a process's series.

use std::sync::LazyLock;

use crate::export::metric::Metric;
use crate::export::registry::{Attributes, word};
use crate::pipeline::{CauseKind, Mode, Outcome, Refusal, Signal};

static SERIES: LazyLock<Vec<(Metric, Attributes)>> = LazyLock::new(build);

/// The series.
pub(super) fn series() -> &'static [(Metric, Attributes)] {
    &SERIES
}

/// The attributes of an action.
pub(super) fn action(signal: Signal, mode: Mode, outcome: Outcome) -> Attributes {
    let mut own = vec![
        word("signal", signal.name()),
        word("mode", mode.name()),
        word("outcome", outcome.name()),
    ];
    if let Some(refusal) = outcome.refusal() {
        own.push(word("refused_by", refusal.name()));
    }
    own
}

fn build() -> Vec<(Metric, Attributes)> {
    let mut series = vec![
        (Metric::LoopTime, vec![word("state", "idle")]),
        (Metric::LoopTime, vec![word("state", "active")]),
        (Metric::LoopIteration, vec![]),
        (Metric::LoopStalled, vec![]),
        (Metric::EngineWait, vec![]),
        (Metric::RescueDuration, vec![]),
    ];
    for cause in CauseKind::ALL {
        series.push((Metric::StallDuration, vec![word("cause", cause.name())]));
        series.push((Metric::StallOpen, vec![word("cause", cause.name())]));
    }
    let enforce = [
        Outcome::Sent,
        Outcome::Failed,
        Outcome::Ineffective,
        Outcome::Refused(Refusal::Budget),
        Outcome::Refused(Refusal::NoPermission),
        Outcome::Refused(Refusal::AnotherEnforcer),
    ];
    let observe = [Outcome::WouldSend];
    for signal in [Signal::Term, Signal::Kill] {
        for (mode, outcomes) in [(Mode::Enforce, &enforce[..]), (Mode::Observe, &observe[..])] {
            for outcome in outcomes {
                series.push((Metric::ActionSignals, action(signal, mode, *outcome)));
            }
        }
    }
    series
}
