//! A loop's life: when it answers and when it is away.

use std::time::Duration;

use loopwarden::pipeline::Mono;
use loopwarden::pipeline::liveness::ProbeSpec;
use proptest::prelude::*;

pub(crate) const MS: u64 = 1_000_000;

/// What a loop does, from the start on: it answers until `first_ms`, and then is away and back in turns.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) spec: ProbeSpec,
    /// When the kubelet's ticks began.
    pub(crate) phase_ms: u64,
    pub(crate) first_ms: u64,
    /// Away, and then in the poll, for so many milliseconds each.
    pub(crate) turns: Vec<(u64, u64)>,
}

impl Life {
    /// The stalls, as moments.
    pub(crate) fn stalls(&self) -> Vec<(Mono, Mono)> {
        let mut at = self.first_ms;
        let spans = self.turns.iter().map(|(away, back)| {
            let begin = at;
            at += away + back;
            (Mono(begin * MS), Mono((begin + away) * MS))
        });
        spans.collect()
    }

    /// When the loop next answers a request that comes at `at`.
    pub(crate) fn answers(&self, at: Mono) -> Mono {
        let stalls = self.stalls();
        let inside = stalls.iter().find(|(begin, end)| *begin <= at && at < *end);
        inside.map_or(at, |(_, end)| *end)
    }
}

pub(crate) fn life() -> impl Strategy<Value = Life> {
    let spec = (1..40_u64, 1..40_u64, 1..6_u32).prop_map(|(period, timeout, failures)| {
        let (period, timeout) = (period * 500, timeout * 250);
        ProbeSpec::new(
            Duration::from_millis(period),
            Duration::from_millis(timeout),
            failures,
        )
    });
    let turns = prop::collection::vec((10..40_000_u64, 1..8_000_u64), 1..6);
    (spec, 0..20_000_u64, 0..20_000_u64, turns).prop_map(|(spec, phase_ms, first_ms, turns)| Life {
        spec,
        phase_ms: phase_ms % u64::try_from(spec.period.as_millis()).unwrap_or(1),
        first_ms: first_ms + 20_000,
        turns,
    })
}

pub(crate) fn spec(period: u64, timeout: u64, failures: u32) -> ProbeSpec {
    ProbeSpec::new(
        Duration::from_secs(period),
        Duration::from_secs(timeout),
        failures,
    )
}

/// One stall that does not end, from 60 s on.
pub(crate) fn for_good(spec: ProbeSpec, phase_ms: u64) -> Life {
    Life {
        spec,
        phase_ms,
        first_ms: 60_000,
        turns: vec![(120_000, 1)],
    }
}
