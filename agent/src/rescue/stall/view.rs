//! A stall as it is told: its cause with the ages of that moment, and when that is news.

use crate::pipeline::{Cause, Mono, StallView};
use crate::rescue::loops::Stall;

/// The cause with the ages of the moment a line is about, not of the look that found it.
pub(super) fn aged(stall: &Stall, at: Mono) -> Cause {
    let mut cause = stall.cause.clone();
    if let Some(child) = &mut cause.child {
        let older = at.since(stall.cause_at).as_secs_f64() * 1000.0;
        child.told_to_end_ms_ago = child.told_to_end_ms_ago.map(|age| age + older);
        if let Some(signalled) = &mut child.signalled {
            signalled.ms_ago += older;
        }
    }
    cause
}

pub(in crate::rescue) fn view_of(stall: &Stall, at: Mono) -> StallView {
    StallView {
        incident: stall.incident,
        at,
        busy: at.since(stall.since),
        busy_is_lower_bound: stall.lower_bound,
        cause: aged(stall, at),
        evidence: stall.evidence.clone(),
        shares: Vec::new(),
    }
}

/// Whether a person would call it another cause: the age of a signal is no news, nor is the place in the kernel.
pub(in crate::rescue) fn differs(before: &Cause, after: &Cause) -> bool {
    let plain = |cause: &Cause| {
        let mut plain = cause.clone();
        if let Some(child) = &mut plain.child {
            child.told_to_end_ms_ago = child.told_to_end_ms_ago.map(|_| 0.0);
            if let Some(signalled) = &mut child.signalled {
                signalled.ms_ago = 0.0;
            }
        }
        plain.kernel_function = None;
        plain
    };
    plain(before) != plain(after)
}
