//! The kubelet's probes among the connections to a port.
//!
//! A probe is known by what it does, not by who makes it: one process connects every period, and gives up after the time-out. What a
//! process does in one phase of the period is a stream; one that has come again after exactly one period, and has not been seen to
//! wait for another time than the time-out, may be the probe. Where there are several (a readiness probe of the same period), the
//! forecast covers all of them.

mod life;
mod rhythm;
mod stream;
mod tick;

use std::collections::VecDeque;
use std::time::Duration;

use super::{Forecast, Kubelet, ProbeSpec, Rhythm, Window};
use crate::pipeline::event::ProbeEnd;
use crate::pipeline::{Mono, Pid};
use stream::{EXACT, Probe, Stream, are_near, is_contradiction, nanoseconds};

/// Streams that are followed.
const MOST_STREAMS: usize = 64;
/// Connections that are remembered.
const MOST_RECENT: usize = 16;
/// A client of more streams than that is no kubelet, whatever the period.
const MOST_OF_A_CLIENT: usize = 48;
/// What a real kubelet takes from one probe's end to the next one's start: some 40 ms.
const PAUSE: Duration = Duration::from_millis(40);
/// A kubelet that has decided probes no more until it sees another container.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// What is known of the probes of one port.
#[derive(Debug, Clone)]
pub struct Probes {
    spec: ProbeSpec,
    streams: Vec<Stream>,
    /// What the probe was before the last change of its spec, and what was known of it then.
    former: Option<(ProbeSpec, Vec<Stream>)>,
    /// The last connections of all.
    recent: VecDeque<(Client, Probe)>,
    /// Rises with everything that is seen.
    news: u64,
}

/// What the probes of a port say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// None is seen.
    Nothing,
    /// None has failed, and none is failing.
    Fine,
    /// One has failed or is failing.
    Failing(Forecast),
}

impl Seen {
    /// What is to be expected, if a probe has failed or is failing.
    #[must_use]
    pub fn failing(self) -> Option<Forecast> {
        match self {
            Self::Failing(forecast) => Some(forecast),
            Self::Nothing | Self::Fine => None,
        }
    }

    /// The same of two ports together: what decides first counts.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let earliest = |forecast: &Forecast| forecast.decision.map(|window| window.earliest);
        match (self, other) {
            (Self::Failing(a), Self::Failing(b)) if earliest(&b) < earliest(&a) => other,
            (Self::Failing(_), _) | (_, Self::Nothing) => self,
            _ => other,
        }
    }
}

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its process.
    pub pid: Pid,
    /// It does so from the node's own network, as a kubelet does.
    pub of_node: bool,
}

impl Probes {
    /// Of a port that is probed in this way.
    #[must_use]
    pub fn new(spec: ProbeSpec) -> Self {
        Self {
            spec,
            streams: Vec::new(),
            former: None,
            recent: VecDeque::new(),
            news: 0,
        }
    }

    /// How the port is probed.
    #[must_use]
    pub fn spec(&self) -> &ProbeSpec {
        &self.spec
    }

    /// A number that changes with everything that is seen.
    #[must_use]
    pub fn news(&self) -> u64 {
        self.news
    }

    /// A process has a connection that it asked for at `start`.
    pub fn began(&mut self, client: Client, start: Mono) {
        self.news += 1;
        self.recent.truncate(MOST_RECENT - 1);
        self.recent.push_front((client, Probe { start, end: None }));
        let spec = self.spec;
        self.streams.retain(|stream| {
            let comes_no_more = stream.client == client && stream.skipped(&spec, start);
            !comes_no_more && !stream.is_over(&spec, start, Some(Mono(0)))
        });
        let find = |is_its: &dyn Fn(&Stream) -> bool| {
            let streams = self.streams.iter().enumerate();
            let its = streams.filter(|(_, stream)| stream.client == client && is_its(stream));
            // Who still waits, for longer than the probe would, is another probe, and comes again later.
            its.min_by_key(|(_, stream)| stream.last.end.is_none())
                .map(|(place, _)| place)
        };
        let late = find(&|stream| stream.is_made_up_for(&spec, start));
        let in_phase = find(&|stream| stream.is_in_phase(&spec, start));
        if let Some(place) = late.or(in_phase) {
            self.settle(place, start);
        }
        if let Some(stream) = late.or(in_phase).and_then(|at| self.streams.get_mut(at)) {
            if late.is_none() {
                stream.ticked(&spec, start);
            } else {
                stream.followed(&spec);
            }
            let stops = stream.decided.map(|at| at.plus(STOPS_WITHIN));
            // Who would have decided and probes on is another probe.
            stream.refuted |= stops.is_some_and(|at| start > at);
            stream.last = Probe { start, end: None };
            return;
        }
        self.make_room(client);
        self.streams.push(Stream::new(client, start));
    }

    /// Of a client that comes in many phases the least sure stream goes, else of all.
    fn make_room(&mut self, client: Client) {
        let own = |stream: &Stream| stream.client == client;
        let of_client = self.streams.iter().filter(|stream| own(stream)).count();
        let is_crowd = of_client > most_of_a_client(&self.spec);
        if !is_crowd && self.streams.len() < MOST_STREAMS {
            return;
        }
        let streams = self.streams.iter().enumerate();
        let least = streams
            .filter(|(_, stream)| !is_crowd || own(stream))
            .min_by_key(|(_, stream)| (stream.client.of_node, stream.again, stream.last.start));
        if let Some((place, _)) = least {
            self.streams.remove(place);
        }
    }

    /// The connection that was asked for at `start` is over.
    pub fn ended(&mut self, client: Client, start: Mono, at: Mono, how: ProbeEnd) {
        self.news += 1;
        let mut recent = self.recent.iter_mut();
        if let Some((_, probe)) = recent.find(|(of, probe)| *of == client && probe.start == start) {
            probe.end = Some((at, how));
        }
        let spec = self.spec;
        let own = |stream: &Stream| stream.client == client && stream.last.start == start;
        let open = |stream: &Stream| own(stream) && stream.last.end.is_none();
        let place = self.streams.iter().position(open);
        let Some(mut place) = place.or_else(|| self.streams.iter().position(own)) else {
            return;
        };
        let lasted = at.since(start);
        if is_contradiction(&spec, lasted, how)
            && let Some(other) = self.settle(place, at)
        {
            place = other;
        }
        let others = self.whose(place, lasted, how);
        if let Some(other) = others {
            let (mine, theirs) = (self.streams[place].last, self.streams[other].last);
            self.streams[other].last = mine;
            self.streams[place].last = theirs;
            if let Some((at, how)) = theirs.end.filter(|_| are_near(&spec, mine, theirs)) {
                self.streams[place].ended(&spec, at, how);
            }
            place = other;
        }
        self.streams[place].ended(&spec, at, how);
    }

    /// Whether what may be the probe is seen.
    #[must_use]
    pub fn are_seen(&self, now: Mono) -> bool {
        !self.seen(now, None).is_empty()
    }

    /// The streams that may be the probe.
    fn seen(&self, now: Mono, away: Option<Mono>) -> Vec<&Stream> {
        let mut seen: Vec<&Stream> = self
            .streams
            .iter()
            .filter(|stream| stream.may_be_the_probe(&self.spec, now, away))
            .filter(|stream| !self.is_crowd(stream.client, now))
            .collect();
        // A kubelet connects from the node's own network.
        let of_node = seen.iter().any(|stream| stream.client.of_node);
        seen.retain(|stream| stream.client.of_node == of_node);
        let shows = |stream: &&Stream| gives_up_alone(&self.spec) && stream.shows();
        if seen.iter().any(shows) {
            seen.retain(shows);
            return seen;
        }
        self.leave_out_readiness(&mut seen, now);
        // Who comes in another rhythm comes again after one period, too, now and then.
        let surest = seen.iter().map(|stream| stream.again).max();
        let half = surest.unwrap_or_default().div_ceil(2);
        seen.retain(|stream| stream.again >= half);
        // Whose time-out is the probe's is likelier than who has shown none; one kubelet may have other probes.
        let shown = seen.iter().find(|stream| stream.gave_up);
        if let Some(shown) = shown.map(|stream| stream.client) {
            seen.retain(|stream| stream.gave_up || stream.client == shown);
        }
        seen
    }

    /// Whether a client comes too often for a kubelet.
    fn is_crowd(&self, client: Client, now: Mono) -> bool {
        let recent = self.streams.iter().filter(|stream| {
            stream.client == client
                && stream.again > 0
                && now.since(stream.last.start) <= self.spec.period
        });
        recent.count() > most_of_a_client(&self.spec)
    }

    /// What is to be expected of a loop that is away since then, or is not.
    #[must_use]
    pub fn forecast(&self, now: Mono, away: Option<Mono>) -> Seen {
        let spec = &self.spec;
        let followed: Vec<(Kubelet, Mono)> = self
            .seen(now, away)
            .into_iter()
            .map(|stream| {
                let kubelet = stream.kubelet(spec, now, away);
                let since = stream.failing_since.unwrap_or(kubelet.start());
                (kubelet, since)
            })
            .collect();
        let half = spec.timeout / 2;
        let threatens = |kubelet: &Kubelet| {
            kubelet.failed > 0 || kubelet.decided.is_some() || kubelet.start().plus(half) <= now
        };
        let failed = followed.iter().map(|(kubelet, _)| kubelet.failed).min();
        let Some(failed) = failed else {
            return Seen::Nothing;
        };
        if !followed.iter().any(|(kubelet, _)| threatens(kubelet)) {
            return Seen::Fine;
        }
        let decisions = || followed.iter().map(|(kubelet, _)| kubelet.decides(spec));
        let threatened = followed.iter().filter(|(kubelet, _)| threatens(kubelet));
        let first = threatened.map(|(_, since)| *since).min();
        let window = decisions().min().zip(decisions().max());
        Seen::Failing(Forecast {
            failed,
            decision: window.map(|(earliest, latest)| Window {
                earliest: Mono(earliest.0.saturating_sub(nanoseconds(EXACT))),
                latest: latest.plus(EXACT).plus(pauses(spec, failed)),
                // Of several streams that may be the probe, the first to decide: who trusts a number must not be too late. So only half
                // of the pauses counts, which machines differ in.
                expected: earliest.plus(pauses(spec, failed) / 2),
            }),
            since: match (away, first) {
                (Some(away), Some(first)) => Some(away.min(first)),
                (away, first) => away.or(first),
            },
            seen: true,
        })
    }

    /// The earliest decision there may be if no probe is answered any more; nothing if none is seen.
    #[must_use]
    pub fn earliest(&self, now: Mono, away: Option<Mono>) -> Option<Mono> {
        let seen = self.seen(now, away).into_iter();
        let decisions = seen.map(|stream| {
            let kubelet = stream.kubelet(&self.spec, now, away);
            kubelet.decides(&self.spec)
        });
        let first = decisions.min()?;
        Some(Mono(first.0.saturating_sub(nanoseconds(EXACT))))
    }

    /// When the forecast changes though nothing is seen.
    #[must_use]
    pub fn changes(&self, now: Mono, away: Option<Mono>) -> Option<Mono> {
        let half = self.spec.timeout / 2;
        let seen = self.seen(now, away).into_iter();
        let starts = seen.filter_map(|stream| {
            let kubelet = stream.kubelet(&self.spec, now, away);
            let start = kubelet.start();
            // Without a stall, only a probe that is under way.
            (stream.last.end.is_none() || away.is_some()).then(|| start.plus(half))
        });
        starts.filter(|at| *at > now).min()
    }
}

/// Whether nothing else of the pod gives up after the same time: who does is the probe.
fn gives_up_alone(spec: &ProbeSpec) -> bool {
    let apart = |other: Rhythm| other.timeout.abs_diff(spec.timeout);
    let least = spec.timeout / 20 + EXACT * 2;
    spec.readiness.is_some_and(|other| apart(other) > least)
}

/// How many phases of the period a kubelet may come in: its other probes of the same port come once a second at most, two at once.
fn most_of_a_client(spec: &ProbeSpec) -> usize {
    let seconds = usize::try_from(spec.period.as_secs()).unwrap_or(usize::MAX);
    seconds
        .max(1)
        .saturating_mul(2)
        .saturating_add(1)
        .min(MOST_OF_A_CLIENT)
}

/// What comes between the failing probes that are still to come, where each follows its predecessor.
fn pauses(spec: &ProbeSpec, failed: u32) -> Duration {
    if spec.timeout < spec.period {
        return Duration::ZERO;
    }
    PAUSE * spec.failures.saturating_sub(failed + 1)
}
