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
const MOST_STREAMS: usize = 64;
/// A client of more streams than that is no kubelet, whatever the period.
const MOST_OF_A_CLIENT: usize = 48;
/// More often does not make a stream any surer, and one that is new must be able to take the place of an old one.
const MOST_AGAIN: u32 = 8;
/// A kubelet starts a probe that was due during the last one this soon after it, at the latest.
const AT_ONCE: Duration = Duration::from_millis(300);
/// What a real kubelet takes from one probe's end to the next one's start: some 40 ms.
const PAUSE: Duration = Duration::from_millis(40);
/// The kubelet's own clock starts before it connects.
const SOONER: Duration = Duration::from_millis(10);
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

/// What one process does in one phase of the period.
#[derive(Debug, Clone, Copy)]
struct Stream {
    client: Client,
    /// A moment at which it ticks.
    tick: Mono,
    /// How often it came again after one period, up to [`MOST_AGAIN`].
    again: u32,
    /// It was answered.
    answered: bool,
    /// It gave up exactly after the time-out.
    gave_up: bool,
    /// How often it gave up after another time, since it last did so after the time-out.
    contradictions: u32,
    /// It went on after it would have decided.
    refuted: bool,
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
    end: Option<(Mono, ProbeEnd)>,
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
    pub fn began(&mut self, client: Client, start: Mono) {
        self.news += 1;
        let spec = self.spec;
        self.streams
            .retain(|stream| !stream.is_over(&spec, start, Some(Mono(0))));
        let find = |is_its: &dyn Fn(&Stream) -> bool| {
            let its = |stream: &Stream| stream.client == client && is_its(stream);
            self.streams.iter().position(its)
        };
        let late = find(&|stream| stream.is_made_up_for(&spec, start));
        let in_phase = find(&|stream| stream.is_in_phase(&spec, start));
        if let Some(stream) = late.or(in_phase).and_then(|at| self.streams.get_mut(at)) {
            if late.is_none() {
                stream.ticked(&spec, start);
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
        let spec = self.spec;
        let own = |stream: &Stream| stream.client == client && stream.last.start == start;
        let Some(mut place) = self.streams.iter().position(own) else {
            return;
        };
        // A kubelet's probes of one container tick together, in any order. What the probe would not do was one of the others; what it
        // does when it gives up was not one of those that have contradicted it.
        let lasted = at.since(start);
        let others = if is_contradiction(&spec, lasted, how) {
            self.sibling(place, |other, own| other > own)
        } else if is_confirmation(&spec, lasted, how) {
            self.sibling(place, |other, own| other < own)
        } else {
            None
        };
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

    /// A stream of the same client in the same phase that has contradicted the probe more or less often.
    fn sibling(&self, place: usize, compares: fn(u32, u32) -> bool) -> Option<usize> {
        let own = self.streams.get(place)?;
        let is_sibling = |stream: &Stream| {
            let tick = stream.tick_near(&self.spec, own.last.start);
            let off = tick.since(own.last.start).max(own.last.start.since(tick));
            stream.client == own.client
                && off <= near(&self.spec) * 2
                && compares(stream.contradictions, own.contradictions)
        };
        self.streams.iter().position(is_sibling)
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
        // Who comes in another rhythm comes again after one period, too, now and then.
        let surest = seen.iter().map(|stream| stream.again).max();
        let half = surest.unwrap_or_default().div_ceil(2);
        seen.retain(|stream| stream.client.of_node == of_node && stream.again >= half);
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
                // Of several streams that may be the probe, the first to decide: who trusts a number must not be too late.
                expected: earliest,
            }),
            since: match (away, first) {
                (Some(away), Some(first)) => Some(away.min(first)),
                (away, first) => away.or(first),
            },
            seen: true,
        })
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

impl Stream {
    fn new(client: Client, start: Mono) -> Self {
        Self {
            client,
            tick: start,
            again: 0,
            answered: false,
            gave_up: false,
            contradictions: 0,
            refuted: false,
            last: Probe { start, end: None },
            failed: 0,
            failing_since: None,
            decided: None,
        }
    }

    /// Its last connection is over.
    fn ended(&mut self, spec: &ProbeSpec, at: Mono, how: ProbeEnd) {
        self.last.end = Some((at, how));
        let lasted = at.since(self.last.start);
        // Something came, and the client still waited until its time-out: for the rest.
        let waited = lasted + SOONER >= spec.timeout;
        match how {
            ProbeEnd::Answered if !waited => {
                self.answered = true;
                self.failed = 0;
                self.failing_since = None;
                self.decided = None;
                self.refuted = false;
            }
            _ if is_contradiction(spec, lasted, how) => self.contradictions += 1,
            _ => {
                if is_confirmation(spec, lasted, how) {
                    self.gave_up = true;
                    self.contradictions = 0;
                }
                self.failures(spec, 1, at);
            }
        }
    }

    fn failures(&mut self, spec: &ProbeSpec, count: u32, at: Mono) {
        self.failed = self.failed.saturating_add(count);
        self.failing_since.get_or_insert(self.last.start);
        if self.failed >= spec.failures {
            self.decided.get_or_insert(at);
        }
    }

    /// It has come again, at one of its ticks.
    fn ticked(&mut self, spec: &ProbeSpec, start: Mono) {
        let due = self.tick_near(spec, start);
        let next = self.next_tick(spec);
        if due <= next.plus(near(spec)) {
            self.again = MOST_AGAIN.min(self.again + 1);
        } else {
            // Its period is a longer one, or it was not seen once: then it failed once more, if it did before and after.
            self.again = self.again.saturating_sub(1);
            if self.failed > 0 {
                let missed = due.since(next).as_nanos() / spec.period.as_nanos().max(1);
                self.failures(spec, u32::try_from(missed).unwrap_or(1), start);
            }
        }
        // A tick is late now and then, and never early.
        self.tick = if start < due {
            start
        } else {
            due.plus(start.since(due) / 8)
        };
    }

    /// The tick after the one of the last probe.
    fn next_tick(&self, spec: &ProbeSpec) -> Mono {
        // What is close before a tick was of that tick.
        let last = self.last.start.plus(near(spec));
        Kubelet::after(self.tick, last, last, spec).start()
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
        self.last.end.is_some_and(|(end, _)| {
            let next = self.next_tick(spec);
            let passed = next <= end.plus(near(spec));
            passed && start >= end && start.since(end) <= AT_ONCE
        })
    }

    fn may_be_the_probe(&self, spec: &ProbeSpec, now: Mono, away: Option<Mono>) -> bool {
        let contradicts = self.contradictions > u32::from(self.gave_up);
        let waits_too_long = self.last.end.is_none() && now.since(self.last.start) > longest(spec);
        self.again > 0
            && (self.answered || self.gave_up)
            && !(contradicts || self.refuted || waits_too_long)
            && !self.is_over(spec, now, away)
    }

    /// Whether it has not come for so long that it will not. In a stall it may be that nobody gets through any more, because too many
    /// wait to be accepted.
    fn is_over(&self, spec: &ProbeSpec, now: Mono, away: Option<Mono>) -> bool {
        let last = self.last.end.map_or(self.last.start, |(end, _)| end);
        let silent = spec.period * 2 + spec.timeout + Duration::from_secs(1);
        let wait = if self.decided.is_some() {
            // The container is being ended, and not probed meanwhile.
            silent.max(spec.termination_grace)
        } else if away.is_some_and(|away| away <= last.plus(silent)) {
            silent + spec.period.max(spec.timeout).saturating_mul(spec.failures)
        } else {
            silent
        };
        now.since(last) > wait
    }

    /// The kubelet whose probes these are, as it is now.
    fn kubelet(&self, spec: &ProbeSpec, now: Mono, away: Option<Mono>) -> Kubelet {
        let mut kubelet = match self.last.end {
            None => Kubelet::probing(self.tick, self.last.start),
            Some((end, _)) => {
                Kubelet::after(self.tick, self.last.start.plus(near(spec)), end, spec)
            }
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

/// Whether two probes are of the same tick.
fn are_near(spec: &ProbeSpec, a: Probe, b: Probe) -> bool {
    a.start.since(b.start).max(b.start.since(a.start)) <= near(spec) * 2
}

/// Whether the probe would not have ended so: it gives up after its time-out, and then alone.
fn is_contradiction(spec: &ProbeSpec, lasted: Duration, how: ProbeEnd) -> bool {
    how == ProbeEnd::GivenUp && !is_timeout(spec, lasted)
}

/// Whether it ended as the probe does when it gives up.
fn is_confirmation(spec: &ProbeSpec, lasted: Duration, how: ProbeEnd) -> bool {
    how == ProbeEnd::GivenUp && is_timeout(spec, lasted) && lasted <= spec.timeout + EXACT
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
