//! The readiness gate: what the pod condition `loopwarden.dev/engine-ready` is to say. Pure.

use std::time::Duration;

use super::engines::EngineReady;

/// The condition, as `readinessGates` names it.
pub const CONDITION: &str = "loopwarden.dev/engine-ready";
/// A pod of which nothing can be told is let in after this time: the gate is to keep a pod back while its engine starts, not because we
/// know nothing.
pub const UNKNOWN_AFTER: Duration = Duration::from_mins(1);

/// The condition as the API has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gate {
    /// `status`; nothing where the condition has not been set, or is `Unknown`.
    pub status: Option<bool>,
    /// `reason`
    pub reason: String,
}

/// What it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `status`
    pub status: bool,
    /// `reason`
    pub reason: &'static str,
    /// `message`
    pub message: String,
}

/// What the condition of a pod is to be, by what is known of the engines of its loops' processes; nothing if it is to stay as it is.
/// `waited` is for how long the pod is known to run.
#[must_use]
pub fn verdict(known: &[EngineReady], waited: Duration, gate: &Gate) -> Option<Verdict> {
    let starting = known.iter().filter_map(|ready| match ready {
        EngineReady::Starting { refused, .. } => Some(refused.unwrap_or(0)),
        _ => None,
    });
    let (mut count, mut refused) = (0, 0);
    for more in starting {
        count += 1;
        refused += more;
    }
    let verdict = if count > 0 {
        let refused = match refused {
            0 => String::new(),
            refused => format!("; {refused} connections were refused"),
        };
        Verdict {
            status: false,
            reason: "EngineStarting",
            message: format!(
                "the engine of {count} of {} processes does not accept yet{refused}",
                known.len()
            ),
        }
    } else if known.contains(&EngineReady::Accepts) {
        Verdict {
            status: true,
            reason: "EngineAccepts",
            message: "the engine has accepted a connection".into(),
        }
    } else if !known.is_empty() || (waited >= UNKNOWN_AFTER && gate.status != Some(true)) {
        Verdict {
            status: true,
            reason: "EngineUnknown",
            message: format!(
                "whether an engine accepts cannot be told; let in after {} s",
                UNKNOWN_AFTER.as_secs()
            ),
        }
    } else {
        return None;
    };
    let is_as_it_should = gate.status == Some(verdict.status) && gate.reason == verdict.reason;
    (!is_as_it_should).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Mono;

    const STARTING: EngineReady = EngineReady::Starting {
        since: Mono(1),
        refused: Some(3),
    };

    fn told(known: &[EngineReady], waited_s: u64, gate: &Gate) -> Option<(bool, &'static str)> {
        verdict(known, Duration::from_secs(waited_s), gate)
            .map(|verdict| (verdict.status, verdict.reason))
    }

    fn gate(status: bool, reason: &str) -> Gate {
        Gate {
            status: Some(status),
            reason: reason.into(),
        }
    }

    #[test]
    fn a_pod_is_kept_back_exactly_while_an_engine_starts() {
        use EngineReady::{Accepts, Unknown};
        let unset = Gate::default();
        for (known, expected) in [
            (&[STARTING][..], Some((false, "EngineStarting"))),
            (&[Accepts], Some((true, "EngineAccepts"))),
            (&[Unknown], Some((true, "EngineUnknown"))),
            // Several workers: all have to have one.
            (
                &[Accepts, STARTING, Unknown],
                Some((false, "EngineStarting")),
            ),
            (&[Accepts, Unknown], Some((true, "EngineAccepts"))),
            (&[], None),
        ] {
            assert_eq!(told(known, 10, &unset), expected, "{known:?}");
        }
    }

    #[test]
    fn a_pod_of_which_nothing_is_known_is_let_in_after_a_minute() {
        assert_eq!(told(&[], 59, &Gate::default()), None);
        assert_eq!(
            told(&[], 60, &Gate::default()),
            Some((true, "EngineUnknown"))
        );
        assert_eq!(
            told(&[], 60, &gate(false, "EngineStarting")),
            Some((true, "EngineUnknown"))
        );
        // The agent was started again: what it said before holds until it knows better.
        assert_eq!(told(&[], 600, &gate(true, "EngineAccepts")), None);
    }

    #[test]
    fn what_is_so_already_is_not_written_again() {
        assert_eq!(told(&[STARTING], 5, &gate(false, "EngineStarting")), None);
        assert_eq!(
            told(&[EngineReady::Accepts], 5, &gate(true, "EngineAccepts")),
            None
        );
        let opened = told(&[EngineReady::Accepts], 5, &gate(false, "EngineStarting"));
        assert_eq!(opened, Some((true, "EngineAccepts")));
    }

    #[test]
    fn the_message_tells_how_many_wait_and_what_it_costs() {
        let known = [STARTING, STARTING, EngineReady::Accepts];
        let verdict = verdict(&known, Duration::ZERO, &Gate::default()).unwrap();
        let expected =
            "the engine of 2 of 3 processes does not accept yet; 6 connections were refused";
        assert_eq!(verdict.message, expected);
    }
}
