//! Where the probes are not seen.

use std::time::Duration;

use loopwarden::demo::kubelet::{self, Verdict, Worker};
use loopwarden::pipeline::Mono;
use loopwarden::pipeline::liveness::{Forecast, Forecaster, Level, ProbeSpec, Risk};
use proptest::prelude::*;

use crate::life::{Life, MS, for_good, life, spec};

/// Something the kubelet did.
#[derive(Debug, Clone, Copy)]
struct Done {
    at: Mono,
    failed: u32,
    decided: bool,
}

/// All that the kubelet does until `end`, or until it decides.
fn truth(life: &Life, end: Mono) -> Vec<Done> {
    let spec = kubelet::ProbeSpec {
        period: life.spec.period,
        timeout: life.spec.timeout,
        failures: life.spec.failures,
    };
    let mut worker = Worker::new(spec, Mono(life.phase_ms * MS));
    let mut done = Vec::new();
    while let Some(start) = worker.due().filter(|start| *start < end) {
        worker.started(start);
        let answer = life.answers(start);
        let answered = answer < start.plus(spec.timeout);
        let at = if answered {
            answer
        } else {
            start.plus(spec.timeout)
        };
        let (failed, decided) = match worker.ended(at, answered) {
            Verdict::Alive => (0, false),
            Verdict::Failed(count) => (count, false),
            Verdict::Kill(count) => (count, true),
        };
        done.push(Done {
            at,
            failed,
            decided,
        });
        if decided {
            break;
        }
    }
    done
}

/// What the forecaster says at a moment.
#[derive(Debug, Clone, Copy)]
struct Said {
    at: Mono,
    away: Option<Mono>,
    forecast: Option<Forecast>,
    level: Level,
}

/// Follows a life as the agent would: looks every so often, and is told at once when the loop is back.
fn follow(life: &Life, end: Mono, step_ms: u64) -> Vec<Said> {
    let stalls = life.stalls();
    let mut forecaster = Forecaster::new(life.spec);
    let mut risk = Risk::default();
    let mut said = Vec::new();
    let mut over = stalls.iter().copied().peekable();
    let mut now = Mono(0);
    while now < end {
        while let Some((begin, at)) = over.next_if(|(_, at)| *at <= now) {
            // Seen while it lasted, as any stall of that length is.
            forecaster.seen(at, Some(begin));
            forecaster.back(at);
        }
        let away = stalls
            .iter()
            .find(|(begin, end)| *begin <= now && now < *end)
            .map(|(begin, _)| *begin);
        forecaster.seen(now, away);
        let forecast = forecaster.forecast();
        risk.update(forecast.as_ref(), &life.spec, now);
        said.push(Said {
            at: now,
            away,
            forecast,
            level: risk.level(),
        });
        now = now.plus(Duration::from_millis(step_ms));
    }
    said
}

fn close(spec: &ProbeSpec) -> Duration {
    // As coarse as the phases that are followed.
    spec.period / 100 + Duration::from_millis(2)
}

fn check(life: &Life) -> Result<(), TestCaseError> {
    let last = life.stalls().last().map_or(Mono(0), |(_, end)| *end);
    let end = last.plus(Duration::from_mins(1));
    let done = truth(life, end);
    let kill = done.iter().find(|done| done.decided).map(|done| done.at);
    for said in follow(life, kill.unwrap_or(end), 1000) {
        let before = done.iter().take_while(|done| done.at <= said.at);
        let failed = before.last().map_or(0, |done| done.failed);
        let told = said.forecast.map_or(0, |forecast| forecast.failed);
        prop_assert!(
            told <= failed,
            "{told} failures are certain, and it were {failed}: {said:?}"
        );
        if said.forecast.is_none() && said.away.is_none() {
            prop_assert_eq!(failed, 0, "all is fine, and it is not: {:?}", said);
        }
        // In the stall in which the kubelet does decide, the decision lies in what is told.
        let last = kill.and_then(|kill| {
            let stall = |(begin, end): &(Mono, Mono)| *begin <= kill && kill <= *end;
            life.stalls().into_iter().find(stall)
        });
        if let (Some(kill), Some((begin, _))) = (kill, last)
            && said.away == Some(begin)
            && let Some(window) = said.forecast.and_then(|forecast| forecast.decision)
        {
            let slack = close(&life.spec);
            prop_assert!(
                window.earliest <= kill.plus(slack) && kill <= window.latest.plus(slack),
                "decided at {kill:?}: {said:?}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_forecast_holds_for_every_phase(life in life()) {
        check(&life)?;
    }
}

#[test]
fn the_windows_of_the_incidents() {
    for (period, timeout, failures, least, most) in
        [(10, 1, 3, 21, 31), (10, 5, 5, 45, 55), (15, 10, 6, 85, 100)]
    {
        let life = for_good(spec(period, timeout, failures), 0);
        let said = follow(&life, Mono(80_000 * MS), 250);
        let first = said.iter().find_map(|said| said.forecast).unwrap();
        let window = first.decision.unwrap();
        let from = Mono(60_000 * MS);
        assert_eq!(window.earliest, from.plus(Duration::from_secs(least)));
        assert_eq!(window.latest, from.plus(Duration::from_secs(most)));
    }
}

#[test]
fn the_levels_rise_in_time_whatever_the_phase() {
    for (probe, imminent_before) in [((10, 1, 3), 10), ((5, 2, 4), 8), ((10, 5, 5), 10)] {
        for phase_ms in (0..10_000).step_by(700) {
            let life = for_good(spec(probe.0, probe.1, probe.2), phase_ms % (probe.0 * 1000));
            let done = truth(&life, Mono(200_000 * MS));
            let kill = done.iter().find(|done| done.decided).unwrap().at;
            let first_failed = done.iter().find(|done| done.failed == 1).unwrap().at;
            let said = follow(&life, kill, 100);
            let reached = |level| said.iter().find(|said| said.level >= level).unwrap().at;
            let (elevated, imminent) = (reached(Level::Elevated), reached(Level::Imminent));
            assert!(
                elevated <= first_failed.plus(Duration::from_millis(100)),
                "{probe:?}: elevated at {elevated:?}, and the first failure at {first_failed:?}"
            );
            assert!(
                kill.since(imminent) >= Duration::from_secs(imminent_before),
                "{probe:?}: imminent {:?} before",
                kill.since(imminent)
            );
            assert!(kill.since(elevated) >= Duration::from_secs(15), "{probe:?}");
            assert!(imminent > elevated);
        }
    }
}

#[test]
fn a_stall_shorter_than_the_timeout_is_no_risk() {
    let life = Life {
        turns: vec![(950, 500); 40],
        ..for_good(spec(10, 1, 3), 3000)
    };
    let said = follow(&life, Mono(130_000 * MS), 50);
    assert!(said.iter().all(|said| said.level == Level::None));
}

#[test]
fn the_level_is_none_again_within_one_period_of_an_answer() {
    let life = Life {
        turns: vec![(12_000, 60_000)],
        ..for_good(spec(10, 1, 3), 3000)
    };
    let said = follow(&life, Mono(130_000 * MS), 100);
    let back = Mono(72_000 * MS);
    let worst = said.iter().map(|said| said.level).max();
    assert_eq!(worst, Some(Level::Imminent));
    let risky = said.iter().rev().find(|said| said.level > Level::None);
    let until = risky.unwrap().at;
    assert!(
        until <= back.plus(Duration::from_millis(10_200)),
        "{until:?}"
    );
    let free = said.iter().filter(|said| said.at >= back);
    assert!(free.clone().all(|said| said.level < Level::Imminent));
}

/// A stall that outlives every kubelet that could be: there is none, and the countdown does not stay at its end for ever.
#[test]
fn a_container_that_lives_on_had_no_such_kubelet() {
    let life = Life {
        turns: vec![(90_000, 5_000), (20_000, 1_000)],
        ..for_good(spec(2, 1, 3), 0)
    };
    let said = follow(&life, Mono(170_000 * MS), 100);
    let at = |seconds: u64| {
        let moment = Mono(seconds * 1000 * MS);
        said.iter()
            .find(|said| said.at >= moment)
            .expect("it is followed until then")
    };
    // Decided 5 to 7 s in, and SIGKILL would have come 30 s later.
    let due = at(60 + 10);
    assert_eq!(due.level, Level::Imminent);
    let decision = due
        .forecast
        .and_then(|forecast| forecast.decision)
        .expect("it was decided");
    assert!(decision.latest < due.at);
    assert_eq!(at(60 + 41).level, Level::None);
    assert_eq!(at(60 + 89).level, Level::None);
    // The next stall is another matter.
    assert_eq!(at(60 + 97).level, Level::Elevated);
    assert_eq!(at(60 + 105).level, Level::Imminent);
}
