//! Until when a loop must be free, so that the kubelet does not decide to kill its container.
//!
//! One probe has to be answered *before* the decision. The last one that counts has waited in the accept queue since its start, and is
//! answered when the loop polls again, if that is within its time-out, which ends at the decision.

use std::time::Duration;

use super::ProbeSpec;
use crate::pipeline::Mono;

/// So long before the earliest decision: an engine's end and its loop's way back were measured at 5 to 100 ms, requests that came before
/// the probe are answered first, and the kubelet's clock starts some ms before its connection.
const MARGIN: Duration = Duration::from_millis(500);

/// When the loop must be free, given the earliest decision.
pub(super) fn free_by(spec: &ProbeSpec, decision: Mono) -> Mono {
    // Never more than half of what the last probe waits.
    let margin = MARGIN.min(spec.timeout / 2);
    Mono(
        decision
            .0
            .saturating_sub(u64::try_from(margin.as_nanos()).unwrap_or(u64::MAX)),
    )
}

/// The earliest decision where nothing is known but that the loop is away: a probe began when it left.
pub(super) fn earliest(spec: &ProbeSpec, away: Mono) -> Mono {
    let pace = spec.period.max(spec.timeout);
    spec.probed_from(away)
        .plus(pace.saturating_mul(spec.failures.saturating_sub(1)))
        .plus(spec.timeout)
}
