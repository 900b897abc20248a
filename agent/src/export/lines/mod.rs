//! The lines of `watch`: one JSON object a line for programs (a contract, see `docs/lines.md`), sentences for people.

mod json;
mod text;
mod wall;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pipeline::stamp::millis;
use crate::pipeline::{CauseKind, LoopId, LoopTotals, Notice, Outcome};

pub(super) use text::{action_text, printable, process};
pub use wall::WallClock;

/// What a loop's last line adds up.
#[derive(Debug, Clone, Default)]
struct Tally {
    stalls: BTreeMap<CauseKind, u64>,
    stalled: Duration,
    actions: u64,
}

/// Turns notices into lines, and adds up what the summaries need.
#[derive(Debug, Default)]
pub struct Lines {
    tallies: BTreeMap<LoopId, Tally>,
}

impl Lines {
    /// Takes a notice into the summaries. Call it once for each, before or after writing its line.
    pub fn count(&mut self, notice: &Notice) {
        match notice {
            Notice::StallClosed { info, view, .. } => {
                let tally = self.tallies.entry(info.id).or_default();
                *tally.stalls.entry(view.cause.kind).or_default() += 1;
                tally.stalled += view.busy;
            }
            Notice::Action { info, action }
                if matches!(action.outcome, Outcome::Sent | Outcome::WouldSend) =>
            {
                self.tallies.entry(info.id).or_default().actions += 1;
            }
            _ => {}
        }
    }
}

/// Milliseconds that a part of a loop's iterations stayed below.
fn quantile(totals: &LoopTotals, part: f64) -> f64 {
    let found = totals.histogram.quantile(part, totals.max);
    found.map_or(0.0, millis::of)
}
