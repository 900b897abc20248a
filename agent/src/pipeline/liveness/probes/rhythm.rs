//! Telling the readiness probe from the liveness probe where both ask one port: by its period, if that is known.

use std::time::Duration;

use super::stream::{Stream, near};
use super::{Client, Probes};
use crate::pipeline::Mono;

impl Probes {
    /// A readiness probe of half the period comes in two phases of it, one of a third in three. Who cannot be missed in that is not
    /// the liveness probe. Of the same period, or while it moves (the kubelet makes one out of turn, and ticks from there on, when
    /// it looks at a pod that is not ready), it is not told apart.
    pub(super) fn leave_out_readiness(&self, seen: &mut Vec<&Stream>, now: Mono) {
        let Some(readiness) = self.spec.readiness else {
            return;
        };
        let (long, short) = (self.spec.period, readiness.period);
        let is_part = !short.is_zero() && long.as_nanos().is_multiple_of(short.as_nanos());
        let phases = long.as_nanos() / short.as_nanos().max(1);
        if !is_part || phases < 2 {
            return;
        }
        let own_phases = |client: Client| -> Vec<Mono> {
            let own = self.streams.iter().filter(|stream| {
                let comes = stream.again > 0 && !stream.is_over(&self.spec, now, None);
                stream.client == client && comes
            });
            own.map(|stream| stream.tick_near(&self.spec, now))
                .collect()
        };
        let clients: Vec<Client> = seen.iter().map(|stream| stream.client).collect();
        for client in clients {
            let ticks = own_phases(client);
            let can_be = |stream: &Stream| {
                let without = without(&ticks, stream.tick_near(&self.spec, now));
                self.has_all_phases(&without, short)
            };
            let own = |stream: &&Stream| stream.client == client;
            if seen
                .iter()
                .filter(|stream| own(stream))
                .any(|stream| can_be(stream))
            {
                seen.retain(|stream| !own(stream) || can_be(stream));
            }
        }
    }

    /// Whether somebody among these comes in every phase of a shorter period.
    fn has_all_phases(&self, ticks: &[Mono], short: Duration) -> bool {
        let spec = &self.spec;
        let close = near(spec) * 2;
        ticks.iter().any(|first| {
            let mut ahead = Duration::ZERO;
            let mut all = true;
            while all && ahead < spec.period {
                let due = first.plus(ahead);
                all = ticks
                    .iter()
                    .any(|tick| off(*tick, due, spec.period) <= close);
                ahead += short;
            }
            all
        })
    }
}

/// All of them but one that is at that moment.
fn without(ticks: &[Mono], one: Mono) -> Vec<Mono> {
    let place = ticks.iter().position(|tick| *tick == one);
    let others = ticks.iter().enumerate();
    others
        .filter(|(at, _)| Some(*at) != place)
        .map(|(_, tick)| *tick)
        .collect()
}

/// How far two moments are from each other in a rhythm.
fn off(a: Mono, b: Mono, period: Duration) -> Duration {
    let apart = a.since(b).max(b.since(a)).as_nanos() % period.as_nanos().max(1);
    let apart = Duration::from_nanos(u64::try_from(apart).unwrap_or(u64::MAX));
    apart.min(period.saturating_sub(apart))
}
