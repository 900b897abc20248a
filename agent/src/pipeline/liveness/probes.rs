//! The kubelet's probes among the connections to a port.
//!
//! A probe is known by what it does, not by who makes it: one process connects every period, and gives up after the time-out. What a
//! process does in one phase of the period is a stream; one that has come again after exactly one period, and has not been seen to
//! wait for another time than the time-out, may be the probe. Where there are several (a readiness probe of the same period), the
//! forecast covers all of them.

use std::time::Duration;

use super::{Forecast, Kubelet, ProbeSpec, Window};
use crate::pipeline::event::ProbeEnd;
use crate::pipeline::{Mono, Pid};

/// Streams that are followed.
const MOST_STREAMS: usize = 256;
/// A client of more streams than that is no kubelet, whatever the period.
const MOST_OF_A_CLIENT: usize = 48;
/// More often does not make a stream any surer, and one that is new must be able to take the place of an old one.
const MOST_AGAIN: u32 = 8;
/// A kubelet starts a probe that was due during the last one this soon after it, at the latest.
const AT_ONCE: Duration = Duration::from_millis(300);
/// What a real kubelet takes from one probe's end to the next one's start: some 40 ms.
const PAUSE: Duration = Duration::from_millis(40);
/// How exactly a kubelet keeps its times.
const EXACT: Duration = Duration::from_millis(50);
/// Later than this a probe counts as one that was not seen: the queue of the listening socket was full.
const UNSEEN_AFTER: Duration = Duration::from_millis(500);
/// A kubelet that has decided probes no more until it sees another container.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// What is known of the probes of one port.
#[derive(Debug, Clone)]
pub struct Probes {
    spec: ProbeSpec,
    streams: Vec<Stream>,
    /// Rises with everything that is seen.
    news: u64,
}

/// What one process does in one phase of the period.
#[derive(Debug, Clone, Copy)]
struct Stream {
    client: Pid,
    /// A moment at which it ticks.
    tick: Mono,
    /// How often it came again after one period, up to [`MOST_AGAIN`].
    again: u32,
    /// It cannot be this probe.
    other: bool,
    /// It was seen to give up exactly after the time-out.
    gave_up: bool,
    last: Probe,
    /// Failures in a row.
    failed: u32,
    /// Start of the first of them.
    failing_since: Option<Mono>,
    decided: Option<Mono>,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    start: Mono,
    end: Option<Mono>,
}

impl Probes {
    /// Of a port that is probed in this way.
    #[must_use]
    pub fn new(spec: ProbeSpec) -> Self {
        Self {
            spec,
            streams: Vec::new(),
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
    pub fn began(&mut self, client: Pid, start: Mono) {
        self.news += 1;
        let spec = self.spec;
        self.streams.retain(|stream| !stream.is_over(&spec, start));
        let own = || 0..self.streams.len();
        let late = own().find(|place| {
            let stream = &self.streams[*place];
            stream.client == client && stream.is_made_up_for(&spec, start)
        });
        let in_phase = own().find(|place| {
            let stream = &self.streams[*place];
            stream.client == client && stream.is_in_phase(&spec, start)
        });
        if let Some(place) = late.or(in_phase) {
            let Some(stream) = self.streams.get_mut(place) else {
                return;
            };
            if late.is_none() {
                stream.ticked(&spec, start);
            }
            let stops = stream.decided.map(|at| at.plus(STOPS_WITHIN));
            // Who would have decided and probes on is another probe.
            stream.other |= stops.is_some_and(|at| start > at);
            stream.last = Probe { start, end: None };
            return;
        }
        let of_client = own().filter(|place| self.streams[*place].client == client);
        let too_many = of_client.clone().count() > most_of_a_client(&spec);
        let oldest = if too_many {
            of_client.min_by_key(|place| self.streams[*place].last.start)
        } else {
            own()
                .filter(|_| self.streams.len() >= MOST_STREAMS)
                .min_by_key(|place| (self.streams[*place].again, self.streams[*place].last.start))
        };
        if let Some(oldest) = oldest {
            self.streams.remove(oldest);
        }
        self.streams.push(Stream {
            client,
            tick: start,
            again: 0,
            other: false,
            gave_up: false,
            last: Probe { start, end: None },
            failed: 0,
            failing_since: None,
            decided: None,
        });
    }

    /// The connection that was asked for at `start` is over.
    pub fn ended(&mut self, client: Pid, start: Mono, at: Mono, how: ProbeEnd) {
        self.news += 1;
        let spec = self.spec;
        let stream = self
            .streams
            .iter_mut()
            .find(|stream| stream.client == client && stream.last.start == start);
        let Some(stream) = stream else {
            return;
        };
        stream.last.end = Some(at);
        match how {
            ProbeEnd::Answered => {
                stream.failed = 0;
                stream.failing_since = None;
            }
            // A probe of another kind, such as one that only connects; or of another time-out.
            ProbeEnd::GivenUp if !is_timeout(&spec, at.since(start)) => stream.other = true,
            ProbeEnd::GivenUp | ProbeEnd::Refused => {
                let exactly = at.since(start) <= spec.timeout + EXACT;
                stream.gave_up |= how == ProbeEnd::GivenUp && exactly;
                stream.failed = stream.failed.saturating_add(1);
                stream.failing_since.get_or_insert(start);
                if stream.failed >= spec.failures {
                    stream.decided.get_or_insert(at);
                }
            }
        }
    }

    /// Whether what may be the probe is seen.
    #[must_use]
    pub fn are_seen(&self, now: Mono) -> bool {
        self.seen(now).next().is_some()
    }

    /// The streams that may be the probe.
    fn seen(&self, now: Mono) -> impl Iterator<Item = &Stream> {
        let may_be = move |stream: &&Stream| {
            stream.may_be_the_probe(&self.spec, now) && !self.is_crowd(stream.client, now)
        };
        let candidates = self.streams.iter().filter(may_be);
        // Who comes in another rhythm comes again after one period, too, now and then.
        let surest = candidates.clone().map(|stream| stream.again).max();
        let half = surest.unwrap_or_default().div_ceil(2);
        // Whose time-out is the probe's is likelier than who has shown none; one kubelet may have other probes.
        let shown = candidates
            .clone()
            .find(|stream| stream.gave_up)
            .map(|stream| stream.client);
        candidates.filter(move |stream| {
            let likely = stream.gave_up || shown.is_none_or(|client| stream.client == client);
            likely && stream.again >= half
        })
    }

    /// Whether a client comes too often for a kubelet.
    fn is_crowd(&self, client: Pid, now: Mono) -> bool {
        let recent = self.streams.iter().filter(|stream| {
            stream.client == client && now.since(stream.last.start) <= self.spec.period
        });
        recent.count() > most_of_a_client(&self.spec)
    }

    /// What is to be expected of a loop that is away since then, or is not. Nothing if the probe is not seen; the forecast is nothing
    /// if no probe has failed or is failing.
    #[must_use]
    pub fn forecast(&self, now: Mono, away: Option<Mono>) -> Option<Option<Forecast>> {
        let spec = &self.spec;
        let followed: Vec<(Kubelet, Mono)> = self
            .seen(now)
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
        let failed = followed.iter().map(|(kubelet, _)| kubelet.failed).min()?;
        if !followed.iter().any(|(kubelet, _)| threatens(kubelet)) {
            return Some(None);
        }
        let decisions = || followed.iter().map(|(kubelet, _)| kubelet.decides(spec));
        let threatened = followed.iter().filter(|(kubelet, _)| threatens(kubelet));
        let first = threatened.map(|(_, since)| *since).min();
        let window = decisions().min().zip(decisions().max());
        Some(Some(Forecast {
            failed,
            decision: window.map(|(earliest, latest)| Window {
                earliest: Mono(earliest.0.saturating_sub(nanoseconds(EXACT))),
                latest: latest.plus(EXACT).plus(pauses(spec, failed)),
                // Of several streams that may be the probe, the first to decide: who trusts a number must not be too late.
                expected: earliest,
            }),
            since: match (away, first) {
                (Some(away), Some(first)) => Some(away.min(first)),
                (away, first) => away.or(first),
            },
            seen: true,
        }))
    }

    /// When the forecast changes though nothing is seen.
    #[must_use]
    pub fn changes(&self, now: Mono, away: Option<Mono>) -> Option<Mono> {
        let half = self.spec.timeout / 2;
        let starts = self.seen(now).filter_map(|stream| {
            let kubelet = stream.kubelet(&self.spec, now, away);
            let start = kubelet.start();
            // Without a stall, only a probe that is under way.
            (stream.last.end.is_none() || away.is_some()).then(|| start.plus(half))
        });
        starts.filter(|at| *at > now).min()
    }
}

impl Stream {
    /// It has come again, at one of its ticks.
    fn ticked(&mut self, spec: &ProbeSpec, start: Mono) {
        let due = self.tick_near(spec, start);
        let next = Kubelet::after(self.tick, self.last.start, self.last.start, spec).start();
        if due <= next.plus(near(spec)) {
            self.again = MOST_AGAIN.min(self.again + 1);
        } else {
            // Its period is a longer one, or it was not seen once.
            self.again = self.again.saturating_sub(1);
        }
        // A tick is late now and then, and never early.
        self.tick = if start < due {
            start
        } else {
            due.plus(start.since(due) / 8)
        };
    }

    /// The tick that is nearest to a moment.
    fn tick_near(&self, spec: &ProbeSpec, at: Mono) -> Mono {
        let past = at.since(self.tick) + spec.period / 2;
        let periods = past.as_nanos() / spec.period.as_nanos().max(1);
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.tick.plus(spec.period.saturating_mul(periods))
    }

    /// Whether this start is its tick.
    fn is_in_phase(&self, spec: &ProbeSpec, start: Mono) -> bool {
        let tick = self.tick_near(spec, start);
        let off = start.since(tick).max(tick.since(start));
        off <= near(spec) && start.since(self.last.start) > near(spec) * 2
    }

    /// Whether this start makes up for a tick that passed during its last probe.
    fn is_made_up_for(&self, spec: &ProbeSpec, start: Mono) -> bool {
        self.last.end.is_some_and(|end| {
            let passed = end.since(self.last.start) + near(spec) > spec.period;
            passed && start >= end && start.since(end) <= AT_ONCE
        })
    }

    fn may_be_the_probe(&self, spec: &ProbeSpec, now: Mono) -> bool {
        let waits_too_long = self.last.end.is_none() && now.since(self.last.start) > longest(spec);
        self.again > 0 && !self.other && !waits_too_long && !self.is_over(spec, now)
    }

    /// Whether it has not come for so long that it will not.
    fn is_over(&self, spec: &ProbeSpec, now: Mono) -> bool {
        let last = self.last.end.unwrap_or(self.last.start);
        let wait = match self.decided {
            // The container is being ended, and not probed meanwhile.
            Some(_) => spec.termination_grace.max(spec.period * 2),
            None => spec.period * 2,
        };
        now.since(last) > wait + spec.timeout + Duration::from_secs(1)
    }

    /// The kubelet whose probes these are, as it is now.
    fn kubelet(&self, spec: &ProbeSpec, now: Mono, away: Option<Mono>) -> Kubelet {
        let mut kubelet = match self.last.end {
            None => Kubelet::probing(self.tick, self.last.start),
            Some(end) => Kubelet::after(self.tick, self.last.start, end, spec),
        };
        kubelet.failed = self.failed;
        kubelet.decided = self.decided;
        let seen = Mono(now.0.saturating_sub(nanoseconds(UNSEEN_AFTER)));
        if self.last.end.is_none() || away.is_some_and(|since| since < kubelet.start()) {
            kubelet.unanswered(spec, seen);
        } else if kubelet.start() < now {
            // It is late, or was not seen.
            kubelet.pass_over(spec, now);
        }
        kubelet
    }
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

/// How far from its tick a probe may start: the kubelet has other work.
fn near(spec: &ProbeSpec) -> Duration {
    (spec.period / 20).clamp(Duration::from_millis(30), Duration::from_millis(100))
}

/// Whether a client that waited so long for an answer has waited for the time-out.
fn is_timeout(spec: &ProbeSpec, lasted: Duration) -> bool {
    let least = spec.timeout.saturating_sub(EXACT.max(spec.timeout / 20));
    (least..=longest(spec)).contains(&lasted)
}

/// How long a probe waits at most, on a busy machine.
fn longest(spec: &ProbeSpec) -> Duration {
    spec.timeout + spec.timeout / 10 + AT_ONCE
}

/// What comes between the failing probes that are still to come, where each follows its predecessor.
fn pauses(spec: &ProbeSpec, failed: u32) -> Duration {
    if spec.timeout < spec.period {
        return Duration::ZERO;
    }
    PAUSE * spec.failures.saturating_sub(failed + 1)
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
