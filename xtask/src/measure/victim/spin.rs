//! A loop that iterates very often and counts how often.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::super::sys::mono_ns;
use super::{Order, Poller, order, report};

/// What it counted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::measure) struct Spun {
    /// Entries to the poll after the one that `go` ended: so many iterations there were.
    pub(in crate::measure) iterations: u64,
    pub(in crate::measure) lasted_ns: u64,
}

pub(super) fn run(per_second: u64) -> Result<()> {
    let poller = Poller::start()?;
    if poller.order()? == Order::End {
        return report(&Spun {
            iterations: 0,
            lasted_ns: 0,
        });
    }
    let start = mono_ns();
    let mut iterations = 0u64;
    loop {
        // Ahead of its rate it waits a millisecond, in the poll like everything else.
        let due = u128::from(mono_ns() - start) * u128::from(per_second) / 1_000_000_000;
        let ahead = per_second > 0 && u128::from(iterations) > due;
        iterations += 1;
        if poller.wait(i32::from(ahead))? && order()? == Order::End {
            return report(&Spun {
                iterations,
                lasted_ns: mono_ns() - start,
            });
        }
    }
}
