//! What one process does in one phase of the period: whether it may be the probe, and what a kubelet would make of it.

use std::time::Duration;

use super::Client;
use crate::pipeline::Mono;
use crate::pipeline::event::ProbeEnd;
use crate::pipeline::liveness::{Kubelet, ProbeSpec};

/// More often does not make a stream any surer, and one that is new must be able to take the place of an old one.
const MOST_AGAIN: u32 = 8;
/// A kubelet starts a probe that was due during the last one this soon after it, at the latest.
const AT_ONCE: Duration = Duration::from_millis(300);
/// The kubelet's own clock starts before it connects.
const SOONER: Duration = Duration::from_millis(10);
/// Later than this a probe counts as one that was not seen: the queue of the listening socket was full.
const UNSEEN_AFTER: Duration = Duration::from_millis(500);
/// What another container of the pod left behind is kept so long: its successor may be started late (`CrashLoopBackOff`, 5 minutes at
/// most) and listen late.
const STARTS_WITHIN: Duration = Duration::from_mins(15);
/// How exactly a kubelet keeps its times.
pub(super) const EXACT: Duration = Duration::from_millis(50);

/// What one process does in one phase of the period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) client: Client,
    /// A moment at which it ticks.
    tick: Mono,
    /// How often it came again after one period, up to [`MOST_AGAIN`].
    pub(super) again: u32,
    /// It was answered.
    answered: bool,
    /// It gave up exactly after the time-out.
    pub(super) gave_up: bool,
    /// How often it gave up after another time, since it last did so after the time-out.
    pub(super) contradictions: u32,
    /// It went on after it would have decided.
    pub(super) refuted: bool,
    pub(super) last: Probe,
    /// Failures in a row.
    failed: u32,
    /// Start of the first of them.
    pub(super) failing_since: Option<Mono>,
    pub(super) decided: Option<Mono>,
    /// What is known of it is from before then: from another container of the pod, or from another of its probes. It has not come since.
    pub(super) resumed: Option<Mono>,
}

/// One connection of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub(super) start: Mono,
    pub(super) end: Option<(Mono, ProbeEnd)>,
}

impl Stream {
    pub(super) fn new(client: Client, start: Mono) -> Self {
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
            resumed: None,
        }
    }

    /// Of the same worker, or of one that began with it: it comes again at `next`, if it does.
    pub(super) fn expected(client: Client, spec: &ProbeSpec, next: Mono, now: Mono) -> Self {
        let before = Mono(next.0.saturating_sub(nanoseconds(spec.period)));
        let mut stream = Self::new(client, before);
        stream.last.end = Some((before, ProbeEnd::Answered));
        stream.resumed = Some(now);
        stream
    }

    /// The container ended, killed for want of answers or by itself.
    pub(super) fn paused(&mut self, spec: &ProbeSpec, at: Mono, killed: bool) {
        if self.last.end.is_none() {
            // The kernel has closed what was not answered.
            self.last.end = Some((at, ProbeEnd::Refused));
            self.failures(spec, 1, at);
        }
        if killed || self.decided.is_some() {
            // A worker that has decided begins anew; one whose container ended by itself counts on.
            self.failed = 0;
            self.failing_since = None;
            self.decided = None;
        }
        self.resumed = Some(at);
    }

    /// Its worker goes on, after another probe has been followed.
    pub(super) fn restored(&mut self, at: Mono) {
        self.resumed = Some(at);
    }

    /// Another container runs.
    pub(super) fn resumed(&mut self, at: Mono) {
        self.resumed = self.resumed.map(|before| before.max(at));
    }

    /// Its last connection is over.
    pub(super) fn ended(&mut self, spec: &ProbeSpec, at: Mono, how: ProbeEnd) {
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
            _ if is_contradiction(spec, lasted, how) => {
                self.contradictions = self.contradictions.saturating_add(1);
                // The machine may have held up a kubelet: whatever it was, it had no answer in time.
                if lasted >= spec.timeout {
                    self.failures(spec, 1, at);
                }
            }
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
    pub(super) fn ticked(&mut self, spec: &ProbeSpec, start: Mono) {
        let due = self.tick_near(spec, start);
        let next = self.next_tick(spec);
        if self.resumed.take().is_some() {
            // Nobody was there to be probed in between.
            self.again = MOST_AGAIN.min(self.again + 1);
        } else if due <= next.plus(near(spec)) {
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

    /// It has come again at once, because a tick passed during its last probe. Where that gave up after the time-out and not before,
    /// that is as good as a period.
    pub(super) fn followed(&mut self, spec: &ProbeSpec) {
        let last = self.last;
        let gave_up = last
            .end
            .is_some_and(|(at, how)| is_confirmation(spec, at.since(last.start), how));
        if gave_up {
            self.again = MOST_AGAIN.min(self.again + 1);
        }
        self.resumed = None;
    }

    /// The tick after the one of the last probe.
    fn next_tick(&self, spec: &ProbeSpec) -> Mono {
        // What is close before a tick was of that tick.
        let last = self.last.start.plus(near(spec));
        Kubelet::after(self.tick, last, last, spec).start()
    }

    /// The tick that is nearest to a moment.
    pub(super) fn tick_near(&self, spec: &ProbeSpec, at: Mono) -> Mono {
        let past = at.since(self.tick) + spec.period / 2;
        let periods = past.as_nanos() / spec.period.as_nanos().max(1);
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.tick.plus(spec.period.saturating_mul(periods))
    }

    /// Whether this start is its tick.
    pub(super) fn is_in_phase(&self, spec: &ProbeSpec, start: Mono) -> bool {
        let tick = self.tick_near(spec, start);
        let off = start.since(tick).max(tick.since(start));
        // One at a time: what comes while one still waits is another probe's.
        let waits =
            self.last.end.is_none() && start < self.last.start.plus(spec.timeout).plus(EXACT);
        !waits && off <= near(spec) && start.since(self.last.start) > near(spec) * 2
    }

    /// Whether this start makes up for a tick that passed during its last probe.
    pub(super) fn is_made_up_for(&self, spec: &ProbeSpec, start: Mono) -> bool {
        self.last.end.is_some_and(|(end, _)| {
            let next = self.next_tick(spec);
            let passed = next <= end.plus(near(spec));
            passed && start >= end && start.since(end) <= AT_ONCE
        })
    }

    /// What speaks against it. Once may have been the machine, which holds up a kubelet, too.
    pub(super) fn against(&self) -> u32 {
        self.contradictions.saturating_sub(u32::from(self.gave_up))
    }

    pub(super) fn may_be_the_probe(&self, spec: &ProbeSpec, now: Mono, away: Option<Mono>) -> bool {
        let waits_too_long = self.last.end.is_none() && now.since(self.last.start) > longest(spec);
        self.again > 0
            && (self.answered || self.gave_up)
            && !(self.against() > 0 || self.refuted || waits_too_long || self.stays_away(spec, now))
            && !self.is_over(spec, now, away)
    }

    /// Whether it has not come when it should have come again for the first time.
    fn stays_away(&self, spec: &ProbeSpec, now: Mono) -> bool {
        self.resumed.is_some_and(|_| {
            let due = self.next_start(spec);
            now.since(due) > UNSEEN_AFTER && now > due
        })
    }

    /// Whether it has not come for a whole period since it should have come again for the first time.
    pub(super) fn skipped(&self, spec: &ProbeSpec, now: Mono) -> bool {
        self.resumed.is_some()
            && now.since(self.next_start(spec)) > UNSEEN_AFTER + spec.period.max(spec.timeout)
    }

    /// Whether it fails as the probe does, and never did otherwise.
    pub(super) fn shows(&self) -> bool {
        self.failed > 0 && self.gave_up && self.contradictions == 0
    }

    /// Whether it has not come for so long that it will not. In a stall it may be that nobody gets through any more, because too many
    /// wait to be accepted.
    pub(super) fn is_over(&self, spec: &ProbeSpec, now: Mono, away: Option<Mono>) -> bool {
        let last = self.last.end.map_or(self.last.start, |(end, _)| end);
        let silent = spec.period * 2 + spec.timeout + Duration::from_secs(1);
        if let Some(resumed) = self.resumed {
            // It takes a container its time to listen.
            return now.since(resumed) > STARTS_WITHIN.max(silent);
        }
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
    pub(super) fn kubelet(&self, spec: &ProbeSpec, now: Mono, away: Option<Mono>) -> Kubelet {
        let mut kubelet = self.next(spec);
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

    /// The probe under way, or the next one.
    fn next(&self, spec: &ProbeSpec) -> Kubelet {
        let Some((end, _)) = self.last.end else {
            return Kubelet::probing(self.tick, self.last.start);
        };
        let mut kubelet = Kubelet::after(self.tick, self.last.start.plus(near(spec)), end, spec);
        let ready = self.resumed.max(spec.not_before);
        if let Some(ready) = ready.filter(|ready| kubelet.start() < *ready) {
            kubelet.pass_over(spec, ready);
        }
        kubelet
    }

    fn next_start(&self, spec: &ProbeSpec) -> Mono {
        self.next(spec).start()
    }
}

/// How far from its tick a probe may start: the kubelet has other work.
pub(super) fn near(spec: &ProbeSpec) -> Duration {
    (spec.period / 20).clamp(Duration::from_millis(30), Duration::from_millis(100))
}

/// Whether two probes are of the same tick.
pub(super) fn are_near(spec: &ProbeSpec, a: Probe, b: Probe) -> bool {
    a.start.since(b.start).max(b.start.since(a.start)) <= near(spec) * 2
}

/// Whether the probe would not have ended so: it gives up after its time-out, and then alone.
pub(super) fn is_contradiction(spec: &ProbeSpec, lasted: Duration, how: ProbeEnd) -> bool {
    how == ProbeEnd::GivenUp && !is_timeout(spec, lasted)
}

/// Whether it ended as the probe does when it gives up.
pub(super) fn is_confirmation(spec: &ProbeSpec, lasted: Duration, how: ProbeEnd) -> bool {
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

pub(super) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
