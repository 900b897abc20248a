//! The series a process has from the moment its first loop is recognised: every attribute value of every metric, at zero.
//!
//! `increase()` sees no first event of a series that begins with it, and the first refusal or stall is often the only
//! one. All values are created, not only those of today's alerts: the sets are small and closed.

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
        Outcome::Gone,
        Outcome::Ineffective,
    ];
    let observe = [Outcome::WouldSend, Outcome::Gone];
    for signal in [Signal::Term, Signal::Kill] {
        for (mode, outcomes) in [(Mode::Enforce, &enforce[..]), (Mode::Observe, &observe[..])] {
            let refused = Refusal::ALL.into_iter().map(Outcome::Refused);
            for outcome in outcomes.iter().copied().chain(refused) {
                series.push((Metric::ActionSignals, action(signal, mode, outcome)));
            }
        }
    }
    series
}
