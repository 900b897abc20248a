//! What outlives a container: the kubelet keeps the workers of a pod, and their ticks, through all its containers.

use std::time::Duration;

use super::{Probes, Stream};
use crate::pipeline::Mono;
use crate::pipeline::liveness::ProbeSpec;

/// A period that is so many times another one gives so many phases, and more tell nothing.
const MOST_PHASES: u128 = 8;

impl Probes {
    /// It is another probe that decides from now on: the liveness probe after the startup probe, or one with other numbers.
    pub fn follow(&mut self, spec: ProbeSpec, now: Mono) {
        let before = std::mem::replace(&mut self.spec, spec);
        if (before.period, before.timeout) == (spec.period, spec.timeout) {
            return;
        }
        self.news += 1;
        let streams = std::mem::take(&mut self.streams);
        let seen = streams
            .iter()
            .filter(|stream| stream.may_be_the_probe(&before, now, None));
        // The workers of a container begin together, unless the kubelet itself has just been started.
        for stream in seen {
            let tick = stream.tick_near(&before, now);
            for ahead in phases(before.period, spec.period) {
                let next = tick.plus(ahead);
                let expected = Stream::expected(stream.client, &spec, next, now);
                self.streams.push(expected);
            }
        }
    }

    /// Nobody listens there any more: the container has ended, because somebody told it to or by itself.
    pub fn paused(&mut self, at: Mono, killed: bool) {
        self.news += 1;
        for stream in &mut self.streams {
            stream.paused(&self.spec, at, killed);
        }
    }

    /// Somebody listens there again.
    pub fn resumed(&mut self, at: Mono) {
        self.news += 1;
        for stream in &mut self.streams {
            stream.resumed(at);
        }
    }
}

/// How far after a tick of one worker another one ticks that began with it.
fn phases(period: Duration, of_other: Duration) -> Vec<Duration> {
    let (own, other) = (period.as_nanos().max(1), of_other.as_nanos().max(1));
    let count = if other.is_multiple_of(own) {
        other / own
    } else {
        u128::from(own.is_multiple_of(other))
    };
    if count > MOST_PHASES {
        return Vec::new();
    }
    (0..count)
        .map(|phase| period.saturating_mul(u32::try_from(phase).unwrap_or(0)))
        .collect()
}
