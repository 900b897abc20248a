//! One kubelet as it may be: the worker of one liveness probe, with a phase.
//!
//! From `pkg/kubelet/prober`: a worker ticks every period; one probe at a time; the next starts at the next tick or, if that has
//! passed, at the end of this one; a time-out is one failure, without a retry; one answer resets the count; at the threshold it
//! decides to kill.

use std::time::Duration;

use super::ProbeSpec;
use crate::pipeline::Mono;

/// What one worker has done so far, of a loop that answers at once while it polls and not at all while it is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kubelet {
    /// One of its ticks.
    tick: Mono,
    /// The start of the probe under way, or of the next one.
    start: Mono,
    /// Failures in a row.
    pub failed: u32,
    /// When it decided to kill.
    pub decided: Option<Mono>,
}

impl Kubelet {
    /// One that ticks and probes next at `start`, and has counted no failure.
    pub fn new(start: Mono) -> Self {
        Self {
            tick: start,
            start,
            failed: 0,
            decided: None,
        }
    }

    /// One that ticks at `tick` and has been waiting for an answer since `start`.
    pub fn probing(tick: Mono, start: Mono) -> Self {
        Self {
            start,
            ..Self::new(tick)
        }
    }

    /// One that ticks at `tick`; its last probe lasted from `start` to `end`.
    pub fn after(tick: Mono, start: Mono, end: Mono, spec: &ProbeSpec) -> Self {
        let mut kubelet = Self::new(tick);
        kubelet.start = kubelet.tick_after(start, spec.period).max(end);
        kubelet
    }

    /// The start of the probe under way, or of the next one.
    pub fn start(&self) -> Mono {
        self.start
    }

    /// Lets the time from `from` until `to` pass with a loop that answers, what is under way too.
    pub fn answered(&mut self, spec: &ProbeSpec, from: Mono, to: Mono) {
        while self.decided.is_none() && self.start < to {
            self.failed = 0;
            let answered = self.start.max(from);
            // All that are due until then at one stroke: a loop that answers can do so for days.
            let next = self.tick_after(self.start, spec.period).max(answered);
            self.start = if self.start < from {
                next
            } else {
                next.max(self.tick_from(to, spec.period))
            };
        }
    }

    /// Lets the time until `to` pass with a loop that is away.
    pub fn unanswered(&mut self, spec: &ProbeSpec, to: Mono) {
        while self.decided.is_none() && self.start.plus(spec.timeout) <= to {
            let given_up = self.start.plus(spec.timeout);
            self.failed += 1;
            if self.failed >= spec.failures {
                self.decided = Some(given_up);
            }
            self.start = self.tick_after(self.start, spec.period).max(given_up);
        }
    }

    /// Says nothing of the probes until `to`.
    pub fn pass_over(&mut self, spec: &ProbeSpec, to: Mono) {
        self.start = self.tick_from(to, spec.period);
    }

    /// When it decides if the loop stays away, or did.
    pub fn decides(&self, spec: &ProbeSpec) -> Mono {
        // In closed form, because it is asked of every phase: failing probes follow each other at one pace.
        self.decided.unwrap_or_else(|| {
            let more = spec.failures.saturating_sub(self.failed + 1);
            let pace = spec.period.max(spec.timeout);
            self.start
                .plus(pace.saturating_mul(more))
                .plus(spec.timeout)
        })
    }

    /// Whether a probe is under way, or due, at that moment.
    pub fn is_probing(&self, at: Mono) -> bool {
        self.decided.is_none() && self.start < at
    }

    fn tick_after(&self, at: Mono, period: Duration) -> Mono {
        let behind = at.since(self.tick).as_nanos() / period.as_nanos().max(1);
        let periods = u32::try_from(behind + 1).unwrap_or(u32::MAX);
        self.tick.plus(period.saturating_mul(periods))
    }

    /// The first tick at `at` or later.
    fn tick_from(&self, at: Mono, period: Duration) -> Mono {
        self.tick_after(Mono(at.0.saturating_sub(1)), period)
    }
}
