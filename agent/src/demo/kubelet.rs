//! A model of the kubelet's liveness prober: when it probes, when it decides to kill. Pure: `now` is an argument.
//!
//! It must never do I/O or read a clock. The prober asks it when to probe and tells it how the probe ended; the show turns
//! its decision into signals. Faithful to `pkg/kubelet/prober` where it matters here: ticks every period from the worker's
//! start, kept across restarts of the container; one probe at a time; a tick missed meanwhile fires once, at once; a
//! time-out is one failure without retry; one success resets the run; not probed while the container is not running.

use std::str::FromStr;
use std::time::Duration;

use crate::config::{duration, probe};
use crate::pipeline::Mono;

/// What a pod's spec says about a liveness probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeSpec {
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `failureThreshold`.
    pub failures: u32,
}

impl ProbeSpec {
    /// The time from the start of the first unanswered probe to the decision to kill.
    #[must_use]
    pub fn decision_after(&self) -> Duration {
        self.period.max(self.timeout) * (self.failures - 1) + self.timeout
    }
}

impl FromStr for ProbeSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spans = Duration::from_millis(50)..=Duration::from_mins(2);
        let read = probe::parse(text, &spans, &(1..=20))?;
        if read.port.is_some() {
            return Err("the demonstration chooses its ports itself: leave @PORT out".into());
        }
        Ok(Self {
            period: read.period,
            timeout: read.timeout,
            failures: read.failures,
        })
    }
}

impl std::fmt::Display for ProbeSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let span = duration::format;
        write!(
            f,
            "{}/{}/{}",
            span(self.period),
            span(self.timeout),
            self.failures
        )
    }
}

/// What a finished probe means for the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answered; the run of failures starts anew.
    Alive,
    /// It did not, this many times in a row now; not yet enough.
    Failed(u32),
    /// It did not, and that was the last time: the container is to be killed.
    Kill(u32),
}

/// One probe worker: of one container and its liveness probe.
#[derive(Debug, Clone)]
pub struct Worker {
    spec: ProbeSpec,
    /// The ticker's first tick; later ones follow at multiples of the period.
    first_tick: Mono,
    state: State,
    failed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next probe starts then.
    Waiting(Mono),
    /// A probe is under way, started then.
    Probing(Mono),
    /// The container is being killed or is down: ticks pass without a probe.
    OnHold,
}

impl Worker {
    /// A worker whose first tick is at `start`.
    #[must_use]
    pub fn new(spec: ProbeSpec, start: Mono) -> Self {
        Self {
            spec,
            first_tick: start,
            state: State::Waiting(start),
            failed: 0,
        }
    }

    /// When the next probe is to start; none while one is under way or the container is down.
    #[must_use]
    pub fn due(&self) -> Option<Mono> {
        match self.state {
            State::Waiting(at) => Some(at),
            State::Probing(_) | State::OnHold => None,
        }
    }

    /// A probe was started.
    pub fn started(&mut self, now: Mono) {
        self.state = State::Probing(now);
    }

    /// The probe under way ended, answered or not.
    pub fn ended(&mut self, now: Mono, answered: bool) -> Verdict {
        let next = match self.state {
            // Go's ticker holds one missed tick back and drops the rest.
            State::Probing(start) => self.tick_after(start).max(now),
            State::Waiting(_) | State::OnHold => self.tick_after(now),
        };
        self.state = State::Waiting(next);
        if answered {
            self.failed = 0;
            return Verdict::Alive;
        }
        self.failed += 1;
        if self.failed < self.spec.failures {
            return Verdict::Failed(self.failed);
        }
        self.state = State::OnHold;
        Verdict::Kill(self.failed)
    }

    /// A new container runs: probing goes on at the next tick of the old ticker.
    pub fn restarted(&mut self, now: Mono) {
        self.failed = 0;
        self.state = State::Waiting(self.tick_after(now));
    }

    /// The first tick after `now`.
    #[must_use]
    pub fn tick_after(&self, now: Mono) -> Mono {
        if now < self.first_tick {
            return self.first_tick;
        }
        let period = u64::try_from(self.spec.period.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let ticks = now.since(self.first_tick).as_nanos() / u128::from(period) + 1;
        let span = ticks.saturating_mul(u128::from(period));
        Mono(
            self.first_tick
                .0
                .saturating_add(u64::try_from(span).unwrap_or(u64::MAX)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn spec(period_ms: u64, timeout_ms: u64, failures: u32) -> ProbeSpec {
        ProbeSpec {
            period: Duration::from_millis(period_ms),
            timeout: Duration::from_millis(timeout_ms),
            failures,
        }
    }

    /// Runs a worker against a loop that answers after `slow` and stalls for good at `stall`: the start of the first
    /// unanswered probe, and the decision.
    fn play(spec: ProbeSpec, start: Mono, stall: Mono, slow: Duration) -> (Mono, Mono) {
        let mut worker = Worker::new(spec, start);
        let mut first_unanswered = None;
        loop {
            let begin = worker
                .due()
                .expect("a worker that has not decided has a next probe");
            worker.started(begin);
            let answered = begin.plus(slow) <= stall && slow < spec.timeout;
            let end = begin.plus(if answered { slow } else { spec.timeout });
            if !answered {
                first_unanswered.get_or_insert(begin);
            }
            if let Verdict::Kill(count) = worker.ended(end, answered) {
                assert_eq!(count, spec.failures);
                return (
                    first_unanswered.expect("a kill follows a failed probe"),
                    end,
                );
            }
        }
    }

    #[test]
    fn the_settings_of_the_incidents_take_as_long_as_they_did() {
        // period, timeout, failures, then the window from stall to decision that was observed or computed elsewhere.
        for (p, t, f, least, most) in [
            (10, 1, 3, 21, 31),
            (10, 5, 5, 45, 55),
            (15, 10, 6, 85, 100),
            (2, 1, 3, 5, 7),
        ] {
            let spec = spec(p * 1000, t * 1000, f);
            for phase in 0..p * 10 {
                let stall = Mono((1000 * p + 100 * phase) * MS);
                let (_, kill) = play(spec, Mono(0), stall, Duration::from_millis(1));
                let took = kill.since(stall);
                assert!(took >= Duration::from_secs(least), "{spec}: {took:?}");
                assert!(took <= Duration::from_secs(most), "{spec}: {took:?}");
            }
        }
    }

    #[test]
    fn a_longer_timeout_than_period_probes_back_to_back() {
        let mut worker = Worker::new(spec(1000, 2500, 4), Mono(0));
        let mut starts = Vec::new();
        while let Some(begin) = worker.due() {
            starts.push(begin.0 / MS);
            worker.started(begin);
            worker.ended(begin.plus(Duration::from_millis(2500)), false);
        }
        assert_eq!(starts, [0, 2500, 5000, 7500]);
    }

    #[test]
    fn a_missed_tick_fires_once_and_the_ticker_keeps_its_phase() {
        let mut worker = Worker::new(spec(1000, 2500, 4), Mono(0));
        worker.started(Mono(0));
        assert_eq!(worker.ended(Mono(2300 * MS), true), Verdict::Alive);
        assert_eq!(
            worker.due(),
            Some(Mono(2300 * MS)),
            "the missed tick, at once"
        );
        worker.started(Mono(2300 * MS));
        worker.ended(Mono(2301 * MS), true);
        assert_eq!(worker.due(), Some(Mono(3000 * MS)), "then the ticker's own");
    }

    #[test]
    fn one_success_resets_the_run() {
        let mut worker = Worker::new(spec(1000, 500, 2), Mono(0));
        for (answered, verdict) in [
            (false, Verdict::Failed(1)),
            (true, Verdict::Alive),
            (false, Verdict::Failed(1)),
            (false, Verdict::Kill(2)),
        ] {
            let begin = worker.due().expect("still probing");
            worker.started(begin);
            assert_eq!(
                worker.ended(begin.plus(Duration::from_millis(10)), answered),
                verdict
            );
        }
        assert_eq!(
            worker.due(),
            None,
            "a container that is being killed is not probed"
        );
        worker.restarted(Mono(7100 * MS));
        assert_eq!(
            worker.due(),
            Some(Mono(8000 * MS)),
            "ticks are kept across restarts"
        );
        worker.started(Mono(8000 * MS));
        assert_eq!(
            worker.ended(Mono(8500 * MS), false),
            Verdict::Failed(1),
            "failures are not"
        );
    }

    #[test]
    fn specifications_are_read_or_refused_with_a_reason() {
        assert_eq!("2s/1s/3".parse(), Ok(spec(2000, 1000, 3)));
        assert_eq!("500ms/250ms/2".parse(), Ok(spec(500, 250, 2)));
        assert_eq!(
            "2/1/3".parse(),
            Ok(spec(2000, 1000, 3)),
            "seconds, as pods write them"
        );
        for (text, why) in [
            ("2s/1s", "expected PERIOD/TIMEOUT/FAILURES"),
            ("2s/1s/0", "allowed are 1 to 20"),
            ("2s/1s/many", "allowed are 1 to 20"),
            ("1h/1s/3", "allowed are 50ms to 2m"),
            ("2x/1s/3", "period \"2x\": \"x\" is no unit"),
            ("2s/1s/3@80", "leave @PORT out"),
        ] {
            let error = text.parse::<ProbeSpec>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert_eq!(spec(2000, 1000, 3).to_string(), "2s/1s/3");
    }

    proptest! {
        /// `K = s1 + (F - 1) * max(P, T) + T`, the closed form that a simulation of the kubelet and a real one bore out.
        #[test]
        fn the_decision_follows_the_closed_form(
            period in 1u64..20_000, timeout in 1u64..20_000, failures in 1u32..12,
            start in 0u64..30_000, before in 0u64..120_000, slow in 0u64..30_000,
        ) {
            let spec = spec(period, timeout, failures);
            let start = Mono(start * MS);
            let stall = start.plus(Duration::from_millis(before));
            let (s1, kill) = play(spec, start, stall, Duration::from_millis(slow % timeout));
            prop_assert_eq!(kill, s1.plus(spec.decision_after()));
            // Counted from the stall: that much, and at most a period (or the probe that is under way) more.
            let longest = spec.decision_after() + spec.period.max(spec.timeout);
            prop_assert!(kill.since(stall) <= longest);
            prop_assert!(kill.plus(spec.timeout) > stall.plus(spec.decision_after()));
        }
    }
}
