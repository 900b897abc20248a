//! Sums over all incidents.

use std::time::Duration;

use super::blocked::{Basis, Blocked};
use super::{Replayed, Side};
use crate::pipeline::story::Done;

/// What many incidents come to, on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Stalls that are told of.
    pub stalls: usize,
    /// Signals sent.
    pub sent: usize,
    /// Signals that were only told of.
    pub would_send: usize,
    /// Refusals.
    pub refused: usize,
    /// How long loops were blocked in all, in the stalls that are told of and those that would not be any more.
    pub blocked: Blocked,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            stalls: 0,
            sent: 0,
            would_send: 0,
            refused: 0,
            blocked: Blocked::exactly(Duration::ZERO),
        }
    }
}

impl Totals {
    /// Of the incidents that can be replayed: old and new.
    #[must_use]
    pub fn of(incidents: &[Replayed]) -> (Self, Self) {
        let (mut old, mut new) = (Self::default(), Self::default());
        for incident in incidents {
            if let Some(side) = &incident.new {
                old.add(&incident.old);
                new.add(side);
            }
        }
        (old, new)
    }

    fn add(&mut self, side: &Side) {
        self.stalls += usize::from(side.reported);
        for action in &side.actions {
            match action.outcome {
                Done::Sent => self.sent += 1,
                Done::WouldSend => self.would_send += 1,
                Done::Refused => self.refused += 1,
                Done::Failed | Done::Gone | Done::Ineffective => {}
            }
        }
        let (sum, one) = (self.blocked, side.blocked);
        self.blocked = Blocked {
            at_least: sum.at_least.saturating_add(one.at_least),
            at_most: sum
                .at_most
                .zip(one.at_most)
                .map(|(a, b)| a.saturating_add(b)),
            basis: Basis::max(sum.basis, one.basis),
        };
    }
}
