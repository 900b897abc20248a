//! The clocks and the agent's own use of the machine: the only place of this room that asks for them.

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::instruments::OwnUse;
use super::registry::Now;
use crate::pipeline::Mono;

/// This moment. The monotonic clock is the one of the kernel events, which `std::time::Instant` does not tell.
pub(super) fn now() -> Now {
    Now {
        mono: Mono(nanos(clock_gettime(ClockId::Monotonic))),
        unix_ns: nanos(clock_gettime(ClockId::Realtime)),
    }
}

/// CPU time and memory of this process; memory is 0 where procfs is not to be read.
pub(super) fn own_use() -> OwnUse {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of CPU time are exact for 200 years"
    )]
    let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    OwnUse {
        cpu_seconds,
        resident_bytes: pages * rustix::param::page_size() as u64,
    }
}

fn nanos(time: Timespec) -> u64 {
    let (seconds, nanos) = (
        u64::try_from(time.tv_sec).unwrap_or(0),
        u64::try_from(time.tv_nsec).unwrap_or(0),
    );
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
