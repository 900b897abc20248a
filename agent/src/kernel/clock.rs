//! The clock of the kernel events.

use rustix::time::{ClockId, clock_gettime};

use crate::pipeline::Mono;

/// `CLOCK_MONOTONIC`, as the kernel half reads it too.
#[must_use]
pub fn now() -> Mono {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Mono(
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds),
    )
}
