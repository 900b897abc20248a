//! The one place of the demo that reads a clock: `CLOCK_MONOTONIC`, which the guard's lines use too.

use rustix::time::{ClockId, clock_gettime};

use crate::pipeline::Mono;

/// The present moment. Comparable across the processes of the demo.
pub(super) fn now() -> Mono {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (
        u64::try_from(time.tv_sec).unwrap_or(0),
        u64::try_from(time.tv_nsec).unwrap_or(0),
    );
    Mono(seconds * 1_000_000_000 + nanos)
}
