//! A loop that sleeps now and then: for how long, and how long it idles in between, is random.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::super::stats::Random;
use super::super::sys::mono_ns;
use super::{Order, Poller, order, report};

/// Milliseconds between two stalls.
const IDLE_MS: (u64, u64) = (300, 1500);
/// Milliseconds that a stall lasts: all above the threshold of the measurement.
const STALL_MS: (u64, u64) = (150, 400);

/// One stall.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::measure) struct Stall {
    /// When its iteration began: the poll had just returned.
    pub(in crate::measure) begin_ns: u64,
    pub(in crate::measure) end_ns: u64,
}

pub(super) fn run(seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let poller = Poller::start()?;
    let mut stalls = Vec::<Stall>::new();
    let mut going = false;
    loop {
        let idle_ms = random.between(IDLE_MS.0, IDLE_MS.1);
        let timeout_ms = if going {
            i32::try_from(idle_ms).unwrap_or(1000)
        } else {
            -1
        };
        let ready = poller.wait(timeout_ms)?;
        let begin_ns = mono_ns();
        if ready {
            match order()? {
                Order::Go => going = !going,
                Order::End => return report(&stalls),
            }
        } else if going {
            stalls.push(sleep(
                begin_ns,
                Duration::from_millis(random.between(STALL_MS.0, STALL_MS.1)),
            ));
        }
    }
}

/// Idles without time-out and sleeps at each `go`.
pub(super) fn when_told(span: Duration) -> Result<()> {
    let poller = Poller::start()?;
    let mut stalls = Vec::new();
    loop {
        while !poller.wait(-1)? {}
        let begin_ns = mono_ns();
        match order()? {
            Order::Go => stalls.push(sleep(begin_ns, span)),
            Order::End => return report(&stalls),
        }
    }
}

fn sleep(begin_ns: u64, span: Duration) -> Stall {
    std::thread::sleep(span);
    Stall {
        begin_ns,
        end_ns: mono_ns(),
    }
}
