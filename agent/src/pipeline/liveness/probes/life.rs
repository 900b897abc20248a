//! What outlives a container: the kubelet keeps the workers of a pod, and their ticks, through all its containers.

use std::time::Duration;

use super::{Probes, Stream};
use crate::pipeline::Mono;
use crate::pipeline::liveness::ProbeSpec;

/// A period that is so many times another one gives so many phases, and more tell nothing.
const MOST_PHASES: u128 = 8;

/// So late the API server may tell of a container that has started.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

impl Probes {
    /// It is another probe that decides from now on: the liveness probe after the startup probe, or one with other numbers.
    pub fn follow(&mut self, spec: ProbeSpec, now: Mono) {
        let before = std::mem::replace(&mut self.spec, spec);
        if is_same(&before, &spec) {
            return;
        }
        self.news += 1;
        let streams = std::mem::take(&mut self.streams);
        let former = self.former.replace((before, streams.clone()));
        let known = former.filter(|(former, _)| is_same(former, &spec));
        let known = known.map(|(_, known)| known).unwrap_or_default();
        if known.iter().any(|stream| stream.again > 0) {
            // The kubelet's workers last as long as the pod: the liveness probe's ticks go on beside those of the startup probe.
            self.streams = known;
            for stream in &mut self.streams {
                stream.restored(now);
            }
            self.catch_up(now);
            return;
        }
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

    /// The news of a change come late: what was seen meanwhile was of the probe that decides now.
    fn catch_up(&mut self, now: Mono) {
        let recent = std::mem::take(&mut self.recent);
        for (client, probe) in recent.into_iter().rev() {
            if now.since(probe.start) > TOLD_WITHIN {
                continue;
            }
            self.began(client, probe.start);
            if let Some((at, how)) = probe.end {
                self.ended(client, probe.start, at, how);
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

fn is_same(one: &ProbeSpec, other: &ProbeSpec) -> bool {
    (one.period, one.timeout) == (other.period, other.timeout)
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
