//! Where they are, beside clients that are none.

use std::time::Duration;

use loopwarden::demo::kubelet::{self, Verdict, Worker};
use loopwarden::pipeline::event::ProbeEnd;
use loopwarden::pipeline::liveness::{Client, ProbeSpec, Probes, Seen};
use loopwarden::pipeline::{Mono, Pid};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use crate::life::{Life, MS, for_good, life, spec};

/// Something that is seen at the port.
#[derive(Debug, Clone, Copy)]
struct Sight {
    at: Mono,
    client: Client,
    start: Mono,
    /// How it ended, or nothing if it began.
    how: Option<ProbeEnd>,
}

const KUBELET: Client = Client {
    pid: Pid(10),
    of_node: true,
};
const OTHER: Client = Client {
    pid: Pid(20),
    of_node: true,
};

/// What a connection that was asked for at `start` shows, and when it is over.
fn shown(life: &Life, client: Client, start: Mono, timeout: Duration) -> ([Sight; 2], Mono, bool) {
    let answer = life.answers(start);
    let answered = answer < start.plus(timeout);
    let (at, how) = if answered {
        (answer.plus(Duration::from_millis(2)), ProbeEnd::Answered)
    } else {
        (start.plus(timeout), ProbeEnd::GivenUp)
    };
    let sight = |at, how| Sight {
        at,
        client,
        start,
        how,
    };
    ([sight(start, None), sight(at, Some(how))], at, answered)
}

/// All that the kubelet shows until it decides, and when it does. It is late now and then, more so after a time-out.
fn probes_of(life: &Life, end: Mono, late_ms: &[u64]) -> (Vec<Sight>, Option<Mono>) {
    let spec = kubelet::ProbeSpec {
        period: life.spec.period,
        timeout: life.spec.timeout,
        failures: life.spec.failures,
    };
    let mut worker = Worker::new(spec, Mono(life.phase_ms * MS));
    let mut sights = Vec::new();
    let mut late = late_ms.iter().cycle();
    let mut after_timeout = false;
    while let Some(due) = worker.due().filter(|due| *due < end) {
        let own = if after_timeout && spec.timeout >= spec.period {
            40
        } else {
            0
        };
        let delay = own + late.next().copied().unwrap_or(0);
        let start = due.plus(Duration::from_millis(delay));
        worker.started(start);
        let (shown, at, answered) = shown(life, KUBELET, start, spec.timeout);
        sights.extend(shown);
        after_timeout = !answered;
        if let Verdict::Kill(_) = worker.ended(at, answered) {
            return (sights, Some(at));
        }
    }
    (sights, None)
}

fn take(probes: &mut Probes, sight: &Sight) {
    match sight.how {
        None => probes.began(sight.client, sight.start),
        Some(how) => probes.ended(sight.client, sight.start, sight.at, how),
    }
}

/// What a client of another rhythm shows.
fn client_of(life: &Life, end: Mono, every_ms: u64, timeout_ms: u64) -> Vec<Sight> {
    let mut sights = Vec::new();
    let mut start = Mono(700 * MS);
    while start < end {
        let (shown, at, _) = shown(life, OTHER, start, Duration::from_millis(timeout_ms));
        sights.extend(shown);
        start = at.plus(Duration::from_millis(every_ms));
    }
    sights
}

/// One case: how far off the forecast was at worst, in seconds, in the stall in which the kubelet decides.
#[derive(Debug, Clone, Copy, Default)]
struct Off {
    early: f64,
    late: f64,
    told: u32,
}

/// Follows what is seen, and compares what is said with when the kubelet decides.
fn compare(life: &Life, sights: &[Sight], kill: Mono) -> Off {
    let mut probes = Probes::new(life.spec);
    let mut off = Off::default();
    let mut sights = sights.iter().peekable();
    let stalls = life.stalls();
    let mut now = Mono(0);
    while now < kill {
        while let Some(sight) = sights.next_if(|sight| sight.at <= now) {
            take(&mut probes, sight);
        }
        let away = stalls
            .iter()
            .find(|(begin, end)| *begin <= now && now < *end)
            .map(|(begin, _)| *begin);
        // What is forecast while the loop will be back in time is right too: it says what happens if the loop stays away.
        let fatal =
            away.is_some_and(|away| stalls.iter().any(|stall| stall.0 == away && stall.1 > kill));
        let window = probes
            .forecast(now, away)
            .failing()
            .and_then(|forecast| forecast.decision);
        if let (true, Some(window)) = (fatal, window) {
            let told = window.expected;
            off.told += 1;
            off.late = off.late.max(told.since(kill).as_secs_f64());
            off.early = off.early.max(kill.since(told).as_secs_f64());
        }
        now = now.plus(Duration::from_millis(50));
    }
    off
}

fn seen_life() -> impl Strategy<Value = (Life, Vec<u64>, (u64, u64))> {
    let late = prop::collection::vec(0..20_u64, 7);
    let client = (100..7000_u64, 100..9000_u64);
    (life(), late, client).prop_map(|(mut life, late, client)| {
        // The kubelet has come some times before the first stall, and the last stall is the end of it.
        let period = u64::try_from(life.spec.period.as_millis()).unwrap_or(1);
        life.first_ms += 4 * period;
        life.turns.push((400_000, 1));
        (life, late, client)
    })
}

/// The table's row: a thousand random cases.
#[test]
fn seen_probes_tell_the_decision() {
    const CASES: u32 = 1000;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = seen_life();
    let (mut exact, mut told, mut latest) = (0, 0, 0.0_f64);
    for _ in 0..CASES {
        let (life, late, (every_ms, timeout_ms)) =
            strategy.new_tree(&mut runner).expect("a case").current();
        let end = life.stalls().last().expect("a stall").1;
        let (mut sights, kill) = probes_of(&life, end, &late);
        let kill = kill.expect("the last stall is longer than any probe endures");
        sights.extend(client_of(&life, kill, every_ms, timeout_ms));
        sights.sort_by_key(|sight| sight.at);
        let off = compare(&life, &sights, kill);
        latest = latest.max(off.late);
        told += u32::from(off.told > 0);
        if off.told > 0 && off.early <= 0.3 && off.late <= 0.3 {
            exact += 1;
        }
    }
    println!(
        "within 0.3 s in {exact} of {told} cases; at most {latest:.3} s later than the decision"
    );
    assert_eq!(told, CASES, "a case without a forecast");
    assert!(exact * 100 >= CASES * 95, "{exact} of {CASES}");
    assert!(latest <= 0.1, "{latest} s later than the decision");
}

/// A readiness probe of the same period and time-out cannot be told from it: the forecast covers both.
#[test]
fn a_second_probe_of_the_same_period_widens_the_forecast() {
    let life = for_good(spec(10, 1, 3), 3000);
    let (mut sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0]);
    let readiness = Life {
        phase_ms: 7000,
        spec: spec(10, 1, 100),
        ..life.clone()
    };
    sights.extend(probes_of(&readiness, Mono(180_000 * MS), &[0]).0);
    sights.sort_by_key(|sight| sight.at);
    let kill = kill.expect("the stall does not end");
    let mut probes = Probes::new(life.spec);
    let away = Some(Mono(60_000 * MS));
    let mut told = 0;
    for sight in sights.iter().filter(|sight| sight.at < kill) {
        take(&mut probes, sight);
        if let Some(window) = probes
            .forecast(sight.at, away.filter(|away| *away <= sight.at))
            .failing()
            .and_then(|forecast| forecast.decision)
        {
            told += 1;
            assert!(
                window.earliest <= kill && kill <= window.latest,
                "{window:?}: {kill:?}"
            );
        }
    }
    assert!(told >= 3, "{told} forecasts");
    // Who probes on after the decision was the other one: what is left is what has decided.
    let now = kill.plus(Duration::from_secs(15));
    for sight in sights
        .iter()
        .filter(|sight| (kill..now).contains(&sight.at))
    {
        take(&mut probes, sight);
    }
    let decided = probes
        .forecast(now, away)
        .failing()
        .and_then(|forecast| forecast.decision);
    let sure = decided.is_some_and(|window| window.uncertainty() <= Duration::from_millis(60));
    assert!(sure, "{decided:?}");
}

/// A probe that only connects is none of a loop's.
#[test]
fn a_probe_that_only_connects_says_nothing() {
    let mut probes = Probes::new(spec(10, 1, 3));
    for tick in 0..5 {
        let start = Mono(tick * 10_000 * MS);
        probes.began(KUBELET, start);
        probes.ended(
            KUBELET,
            start,
            start.plus(Duration::from_millis(1)),
            ProbeEnd::GivenUp,
        );
    }
    assert_eq!(
        probes.forecast(Mono(45_000 * MS), Some(Mono(41_000 * MS))),
        Seen::Nothing
    );
}

/// A client that comes often has a connection in every phase: it hides nobody and is taken for nobody.
#[test]
fn a_client_that_comes_often_is_no_kubelet() {
    for every_ms in [100, 200, 250, 500] {
        let life = for_good(spec(2, 1, 3), 1000);
        let (mut sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0, 3]);
        let kill = kill.expect("the stall does not end");
        sights.extend(client_of(&life, kill, every_ms, 50));
        sights.sort_by_key(|sight| sight.at);
        let off = compare(&life, &sights, kill);
        assert!(
            off.told > 0 && off.late < 0.1 && off.early < 0.2,
            "{every_ms}: {off:?}"
        );
    }
}

/// Long without a probe, nothing is known of them any more.
#[test]
fn probes_that_stay_away_are_not_counted_on() {
    let life = for_good(spec(10, 1, 3), 0);
    let (sights, _) = probes_of(&life, Mono(50_000 * MS), &[0]);
    let mut probes = Probes::new(life.spec);
    for sight in &sights {
        take(&mut probes, sight);
    }
    assert_eq!(probes.forecast(Mono(55_000 * MS), None), Seen::Fine);
    assert_eq!(probes.forecast(Mono(75_000 * MS), None), Seen::Nothing);
}

/// Follows these sights in the stall of [`for_good`], and says how far off the last forecast was that was told before the decision.
fn last_told(spec: ProbeSpec, mut sights: Vec<Sight>, kill: Mono) -> Option<(f64, u32)> {
    sights.sort_by_key(|sight| sight.at);
    let mut probes = Probes::new(spec);
    let mut last = None;
    for sight in sights.iter().filter(|sight| sight.at < kill) {
        take(&mut probes, sight);
        let away = Some(Mono(60_000 * MS)).filter(|away| *away <= sight.at);
        let forecast = probes.forecast(sight.at, away).failing();
        last = forecast.and_then(|forecast| {
            let told = forecast.decision?.expected;
            let off = told.since(kill).max(kill.since(told)).as_secs_f64();
            Some((off, forecast.failed))
        });
    }
    last
}

/// A kubelet's probes of one container tick together, and come in any order.
#[test]
fn probes_that_tick_together_are_told_apart() {
    let life = for_good(spec(10, 1, 3), 3000);
    for (other, swapped) in [
        ("tcp", false),
        ("tcp", true),
        ("slower", false),
        ("slower", true),
    ] {
        let (mut sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0]);
        let kill = kill.expect("the stall does not end");
        let starts: Vec<Mono> = sights
            .iter()
            .filter(|sight| sight.how.is_none())
            .map(|sight| sight.start)
            .collect();
        for (place, start) in starts.into_iter().enumerate() {
            // Before or after the other in turns.
            let first = (place % 2 == 0) != swapped;
            let start = if first {
                Mono(start.0 - MS)
            } else {
                start.plus(Duration::from_millis(1))
            };
            let timeout = Duration::from_secs(4);
            let (mut shown, _, _) = shown(&life, KUBELET, start, timeout);
            if other == "tcp" {
                shown[1].at = start.plus(Duration::from_micros(300));
                shown[1].how = Some(ProbeEnd::GivenUp);
            }
            sights.extend(shown);
        }
        let last = last_told(life.spec, sights, kill);
        assert!(
            last.is_some_and(|(off, failed)| off < 0.1 && failed == 2),
            "{other} {swapped}: {last:?}"
        );
    }
}

/// A probe that waits for longer than its period ticks only when it is over: what the kubelet asks meanwhile in its phase is another probe.
#[test]
fn a_probe_that_still_waits_is_not_taken_for_over() {
    let mut wrong = Vec::new();
    for phase_ms in (0..3000).step_by(10) {
        let life = for_good(spec(2, 3, 4), 900);
        let (mut sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0]);
        let kill = kill.expect("the stall does not end");
        let readiness = Life {
            phase_ms,
            spec: spec(3, 1, 1000),
            ..life.clone()
        };
        sights.extend(probes_of(&readiness, kill, &[0]).0);
        let last = last_told(life.spec, sights, kill);
        if !last.is_some_and(|(off, failed)| off < 0.2 && failed == 3) {
            wrong.push((phase_ms, last));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Where each probe follows its predecessor a kubelet takes a moment between them, some 40 ms: half of that is expected.
#[test]
fn what_a_kubelet_takes_between_probes_does_not_add_up() {
    let life = for_good(spec(1, 1, 9), 300);
    let (sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0]);
    let off = compare(&life, &sights, kill.expect("the stall does not end"));
    assert!(
        off.told > 0 && off.early < 0.25 && off.late < 0.05,
        "{off:?}"
    );
}

/// A probe that nobody saw has failed like those before and after it.
#[test]
fn a_probe_that_was_not_seen_is_counted() {
    let life = for_good(spec(10, 1, 4), 3000);
    let (mut sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0]);
    let kill = kill.expect("the stall does not end");
    let missed = Mono(73_000 * MS);
    sights.retain(|sight| sight.start != missed);
    let last = last_told(life.spec, sights, kill);
    assert!(
        last.is_some_and(|(off, failed)| off < 0.1 && failed == 3),
        "{last:?}"
    );
}

/// When too many wait to be accepted, no probe gets through any more: those that would have come are counted on.
#[test]
fn probes_that_do_not_get_through_are_counted_on() {
    let life = for_good(spec(10, 1, 4), 3000);
    let (sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0]);
    let kill = kill.expect("the stall does not end");
    let mut probes = Probes::new(life.spec);
    for sight in sights.iter().filter(|sight| sight.at < Mono(70_000 * MS)) {
        take(&mut probes, sight);
    }
    let now = Mono(kill.0 - 500 * MS);
    let forecast = probes
        .forecast(now, Some(Mono(60_000 * MS)))
        .failing()
        .expect("a forecast");
    let told = forecast.decision.expect("a decision").expected;
    assert!(
        told.since(kill).max(kill.since(told)) < Duration::from_millis(100),
        "{forecast:?}"
    );
}

/// One that the machine held up is not the end of its stream.
#[test]
fn a_probe_that_gave_up_late_once_stays_the_probe() {
    let life = for_good(spec(10, 1, 4), 3000);
    let (mut sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0]);
    let kill = kill.expect("the stall does not end");
    for sight in &mut sights {
        if sight.start == Mono(73_000 * MS) && sight.how.is_some() {
            sight.at = sight.at.plus(Duration::from_millis(900));
        }
    }
    let last = last_told(life.spec, sights, kill);
    assert!(
        last.is_some_and(|(off, failed)| off < 0.1 && failed == 3),
        "{last:?}"
    );
}

/// What the kubelet takes for a failure and what it does not.
#[test]
fn an_end_without_an_answer_is_a_failure_and_an_answer_undoes_it() {
    let mut probes = Probes::new(spec(10, 1, 3));
    let mut tick = 0;
    let mut probe = |probes: &mut Probes, lasted_ms: u64, how| {
        let start = Mono(tick * 10_000 * MS);
        tick += 1;
        probes.began(KUBELET, start);
        let at = start.plus(Duration::from_millis(lasted_ms));
        probes.ended(KUBELET, start, at, how);
        probes
            .forecast(at, None)
            .failing()
            .map(|forecast| forecast.failed)
    };
    for _ in 0..3 {
        assert_eq!(probe(&mut probes, 2, ProbeEnd::Answered), None);
    }
    assert_eq!(probe(&mut probes, 3, ProbeEnd::Refused), Some(1));
    // Part of an answer is none.
    assert_eq!(probe(&mut probes, 1000, ProbeEnd::Answered), Some(2));
    assert_eq!(probe(&mut probes, 1001, ProbeEnd::GivenUp), Some(3));
    assert_eq!(probe(&mut probes, 2, ProbeEnd::Answered), None);
}

/// Who comes from elsewhere in the same rhythm does not stand for the kubelet of the node.
#[test]
fn a_neighbour_is_not_taken_for_the_kubelet() {
    // The kubelet has come once before the stall, the neighbour often.
    let life = for_good(spec(10, 1, 3), 53_000);
    let (mut sights, kill) = probes_of(&life, Mono(180_000 * MS), &[0]);
    let kill = kill.expect("the stall does not end");
    let neighbour = Client {
        pid: Pid(30),
        of_node: false,
    };
    for tick in 0..12 {
        let start = Mono((500 + tick * 10_000) * MS);
        sights.extend(shown(&life, neighbour, start, life.spec.timeout).0);
    }
    let last = last_told(life.spec, sights, kill);
    assert!(
        last.is_some_and(|(off, failed)| off < 0.1 && failed == 2),
        "{last:?}"
    );
}
