//! Which connection of one tick is whose: a kubelet's probes of one container tick together, in any order, and only their ends tell them
//! apart.

use std::time::Duration;

use super::Probes;
use super::stream::{EXACT, Stream, are_near, is_confirmation, is_contradiction};
use crate::pipeline::Mono;
use crate::pipeline::event::ProbeEnd;

impl Probes {
    /// The stream to which a connection belongs that ended so, if it is not the one at that place. What the probe would not do was one
    /// of the others; what it does when it gives up was not one of those that have contradicted it.
    pub(super) fn whose(&self, place: usize, lasted: Duration, how: ProbeEnd) -> Option<usize> {
        if is_contradiction(&self.spec, lasted, how) {
            let other = self.sibling(place, |other, own| other > own);
            other.or_else(|| self.open_sibling(place))
        } else if is_confirmation(&self.spec, lasted, how) {
            let clean = self.sibling(place, |other, own| other < own);
            clean.or_else(|| self.mistaken(place))
        } else {
            None
        }
    }

    /// A stream of the same client with a connection of this tick that has contradicted the probe more or less often.
    fn sibling(&self, place: usize, compares: fn(u32, u32) -> bool) -> Option<usize> {
        let own = self.streams.get(place)?;
        let is_sibling = |stream: &Stream| {
            stream.client == own.client
                && are_near(&self.spec, stream.last, own.last)
                && compares(stream.against(), own.against())
        };
        self.streams.iter().position(is_sibling)
    }

    /// A stream of the same client whose connection of this tick is not over.
    fn open_sibling(&self, place: usize) -> Option<usize> {
        let own = self.streams.get(place)?;
        let is_open = |stream: &Stream| {
            stream.client == own.client
                && stream.last.end.is_none()
                && stream.last.start != own.last.start
                && stream.again < own.again
                && stream.against() >= own.against()
                && are_near(&self.spec, stream.last, own.last)
        };
        self.streams.iter().position(is_open)
    }

    /// A surer stream of the same client, whose connection of this tick has just shown that it was another probe's: by how it ended,
    /// or because it began before this one and is not over.
    fn mistaken(&self, place: usize) -> Option<usize> {
        let own = self.streams.get(place)?;
        let is_mistaken = |stream: &Stream| {
            let contradicted = match stream.last.end {
                Some((at, how)) => is_contradiction(&self.spec, at.since(stream.last.start), how),
                None => stream.last.start < own.last.start,
            };
            // This time, and never before.
            let ended = u32::from(stream.last.end.is_some());
            let otherwise = stream.contradictions.saturating_sub(ended);
            contradicted
                && stream.client == own.client
                && stream.again > own.again
                && otherwise <= own.contradictions
                && (stream.gave_up || !own.gave_up)
                && are_near(&self.spec, stream.last, own.last)
        };
        self.streams.iter().position(is_mistaken)
    }

    /// A stream whose connection has waited for longer than the probe would has another probe's, if one of the same tick gave up like
    /// the probe: the two change places. The answer is the place of the other.
    pub(super) fn settle(&mut self, place: usize, now: Mono) -> Option<usize> {
        let spec = self.spec;
        let own = *self.streams.get(place)?;
        let is_late = own.last.end.is_none() && own.last.start.plus(spec.timeout + EXACT) < now;
        let other = self.streams.iter().position(|stream| {
            let gave_up = stream
                .last
                .end
                .is_some_and(|(at, how)| is_confirmation(&spec, at.since(stream.last.start), how));
            gave_up
                && stream.client == own.client
                && stream.again < own.again
                && are_near(&spec, stream.last, own.last)
        });
        let other = other.filter(|_| is_late)?;
        let theirs = self.streams[other].last;
        let (at, how) = theirs.end?;
        self.streams[other] = Stream::new(own.client, own.last.start);
        self.streams[place].last = theirs;
        self.streams[place].ended(&spec, at, how);
        Some(other)
    }
}
