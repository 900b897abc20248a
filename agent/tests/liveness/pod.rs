//! A pod's whole life, with all its probes, as its spec and status tell it.

use std::time::Duration;

use loopwarden::pipeline::liveness::{
    Client, Container, ContainerProbes, ContainerState, Follower, Handler, Level, Port, Probe,
    Probes, RiskView, Situation, Threat,
};
use loopwarden::pipeline::{Mono, Pid};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::life::MS;
use crate::node::{Fate, Node, Sight};

const KUBELET: Client = Client {
    pid: Pid(10),
    of_node: true,
};
/// How long the API server takes to tell of a status.
const API: Duration = Duration::from_millis(300);
const MARGIN: Duration = Duration::from_secs(10);
const HTTP: Handler = Handler::HttpGet { port: 4000 };

/// What was told, and since when the loop was away then.
#[derive(Debug, Clone, Copy)]
struct Told {
    risk: RiskView,
    away: Option<Mono>,
}

/// The agent, as far as it follows one loop.
struct Agent {
    container: Container,
    follower: Option<Follower>,
    probes: Option<Probes>,
    told: Vec<Told>,
}

impl Agent {
    fn learn(&mut self, now: Mono, sight: Sight) {
        match sight {
            Sight::Began { start } => {
                if let Some(probes) = &mut self.probes {
                    probes.began(KUBELET, start);
                }
            }
            Sight::Ended { start, how } => {
                if let Some(probes) = &mut self.probes {
                    probes.ended(KUBELET, start, now, how);
                }
            }
            Sight::Listens => {
                if let Some(probes) = &mut self.probes {
                    probes.resumed(now);
                }
            }
            Sight::Gone { killed } => {
                self.follower = None;
                if let Some(probes) = &mut self.probes {
                    probes.paused(now, killed);
                }
            }
            Sight::Status(state) => self.container.state = state,
        }
    }

    /// `listens` is whether there is a loop to follow.
    fn look(&mut self, now: Mono, away: Option<Mono>, listens: bool) {
        let Threat::Probe { spec, .. } = self.container.threat(MARGIN) else {
            self.follower = None;
            return;
        };
        if !listens {
            return;
        }
        let probes = self.probes.get_or_insert_with(|| Probes::new(spec));
        probes.follow(spec, now);
        let follower = self
            .follower
            .take()
            .filter(|follower| *follower.spec() == spec);
        let follower = self
            .follower
            .insert(follower.unwrap_or_else(|| Follower::new(spec)));
        let situation = Situation {
            away,
            ports: &[Port { probes, away }],
        };
        if let Some(risk) = follower.look(now, situation) {
            self.told.push(Told { risk, away });
        }
    }
}

/// Lets an agent follow what a node shows until `end`.
fn follow(fate: &Fate, node: &Node, end: Mono) -> Vec<Told> {
    let mut agent = Agent {
        container: Container {
            probes: fate.probes.clone(),
            state: ContainerState::default(),
        },
        follower: None,
        probes: None,
        told: Vec::new(),
    };
    let seen_at = |(at, sight): &(Mono, Sight)| match sight {
        Sight::Status(_) => at.plus(API),
        _ => *at,
    };
    let mut sights = node.sights.clone();
    sights.sort_by_key(seen_at);
    let mut sights = sights.into_iter().peekable();
    let mut listens: Option<Mono> = None;
    let mut now = Mono(0);
    while now < end {
        while let Some((at, sight)) = sights.next_if(|sight| seen_at(sight) <= now) {
            match sight {
                Sight::Listens => listens = Some(at),
                Sight::Gone { .. } => listens = None,
                _ => {}
            }
            agent.learn(at, sight);
        }
        let stall = fate
            .stalls_ms
            .iter()
            .find(|(begin, end)| *begin * MS <= now.0 && now.0 < *end * MS);
        let away = stall
            .zip(listens)
            .map(|((begin, _), listens)| Mono(begin * MS).max(listens));
        agent.look(now, away, listens.is_some());
        now = now.plus(Duration::from_millis(40));
    }
    agent.told
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Told of a decision that came, in the stall in which it came, as offsets in seconds: positive where it was told too late.
fn offs(fate: &Fate, node: &Node, told: &[Told]) -> Vec<(Told, f64)> {
    let told = told.iter().filter_map(|told| {
        let away = told.away?;
        let kill = node.kills.iter().find(|kill| **kill >= told.risk.at)?;
        let lasts = fate
            .stalls_ms
            .iter()
            .any(|(begin, end)| *begin * MS <= away.0 && kill.0 <= end * MS && away.0 < end * MS);
        let decision = told.risk.at.plus(told.risk.outlook.to_decision?);
        #[expect(clippy::cast_precision_loss, reason = "seconds of a test")]
        let off = (decision.0 as f64 - kill.0 as f64) / 1e9;
        lasts.then_some((*told, off))
    });
    told.collect()
}

fn fate(probes: ContainerProbes, stalls_ms: Vec<(u64, u64)>) -> Fate {
    Fate {
        probes,
        runs_ms: 3_400,
        boots_ms: 700,
        down_ms: 1_500,
        crash_ms: None,
        stalls_ms,
        jitter_ms: [0; 3],
    }
}

fn liveness(period: u64, timeout: u64, failures: u32) -> Probe {
    Probe {
        period: seconds(period),
        timeout: seconds(timeout),
        failure_threshold: failures,
        ..Probe::new(HTTP)
    }
}

/// Worst offset of what was told from the first counted failure on, with probes seen.
fn worst(offs: &[(Told, f64)]) -> Option<f64> {
    let certain = offs
        .iter()
        .filter(|(told, _)| told.risk.outlook.probes_seen && told.risk.outlook.failed_probes > 0);
    certain.map(|(_, off)| off.abs()).max_by(f64::total_cmp)
}

fn random_probe(failures: impl Strategy<Value = u32>) -> impl Strategy<Value = Probe> {
    (1..12_u64, 1..12_u64, failures, 0..20_u64).prop_map(|(period, timeout, failures, delay)| {
        Probe {
            initial_delay: seconds(delay.saturating_sub(10)),
            ..liveness(period, timeout, failures)
        }
    })
}

fn random_fate() -> impl Strategy<Value = Fate> {
    let probes = (
        // One refused while it does not listen yet must not be the end of it.
        random_probe(2..6_u32),
        prop::option::of(random_probe(1..6_u32)),
        prop::option::of(random_probe(20..40_u32)),
        prop::option::of(2..40_u64),
    );
    let life = (
        3_000..20_000_u64,
        100..900_u64,
        500..20_000_u64,
        any::<bool>(),
        prop::collection::vec((100..30_000_u64, 1_000..40_000_u64), 0..4),
        prop::option::of(prop::array::uniform3(0..10_000_u64)),
    );
    (probes, life).prop_map(
        |(
            (liveness, readiness, startup, grace),
            (runs_ms, boots_ms, down_ms, crash, turns, jitter),
        )| {
            // In each container the kubelet has had answers of every probe before the first stall.
            let settled = 60_000;
            let mut at = runs_ms + settled;
            let mut stalls_ms = Vec::new();
            for (away, back) in turns {
                stalls_ms.push((at, at + away));
                at += away + back;
            }
            at += settled;
            let crash_ms = crash.then_some(at);
            at += down_ms + boots_ms + settled;
            stalls_ms.push((at, at + 600_000));
            let probes = ContainerProbes {
                liveness: Some(Probe {
                    termination_grace: grace.map(seconds),
                    ..liveness
                }),
                readiness,
                startup,
                ..ContainerProbes::default()
            };
            Fate {
                probes,
                runs_ms,
                boots_ms,
                down_ms,
                crash_ms,
                stalls_ms,
                jitter_ms: jitter.unwrap_or_default(),
            }
        },
    )
}

/// The same thousand each time; `LOOPWARDEN_PODS` names others, by any number.
fn runner() -> TestRunner {
    let Some(seed) = std::env::var("LOOPWARDEN_PODS").ok() else {
        return TestRunner::deterministic();
    };
    let seed: u64 = seed.parse().expect("LOOPWARDEN_PODS is a number");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(proptest::test_runner::Config::default(), rng)
}

/// The table's row, with every kind of probe, restarts and all: a thousand random pods.
#[test]
fn the_decision_about_a_pod_is_told() {
    const CASES: u32 = 1000;
    let mut runner = runner();
    let strategy = random_fate();
    let (mut exact, mut told_of, mut latest, mut bounds) = (0, 0, f64::MIN, 0);
    for case in 0..CASES {
        let fate = strategy.new_tree(&mut runner).expect("a case").current();
        let last = fate.stalls_ms.last().expect("a stall");
        let node = Node::play(fate.clone(), last.0 + 400_000);
        let kill = node.kills.iter().find(|kill| kill.0 >= last.0 * MS);
        let kill = *kill.expect("the last stall does not end");
        let told = follow(&fate, &node, kill);
        let offs = offs(&fate, &node, &told);
        // What was refused while nobody listened yet is not seen: one answer undoes it.
        let answered = |away: Mono| {
            let listens = node.sights.iter().rev().find_map(|(at, sight)| {
                matches!(sight, Sight::Listens if *at <= away).then_some(*at)
            });
            let mut answers = node.answers.iter();
            listens.is_some_and(|from| answers.any(|at| from < *at && *at <= away))
        };
        for (told, off) in &offs {
            if !told.away.is_some_and(answered) {
                continue;
            }
            let outlook = told.risk.outlook;
            if outlook.probes_seen {
                latest = latest.max(*off);
                assert!(
                    *off <= 1.0,
                    "case {case}: {off} s too late: {told:?} {fate:?}"
                );
            } else {
                bounds += 1;
                let within = outlook.uncertainty.unwrap_or_default().as_secs_f64() + 0.15;
                assert!(
                    off.abs() <= within,
                    "case {case}: {off} s off: {told:?} {fate:?}"
                );
            }
        }
        if let Some(worst) = worst(&offs) {
            told_of += 1;
            exact += u32::from(worst <= 0.3);
        } else if fate
            .probes
            .liveness
            .is_some_and(|probe| probe.failure_threshold > 1)
        {
            panic!("case {case}: nothing was told from the first failure on: {fate:?}");
        }
    }
    println!(
        "within 0.3 s in {exact} of {told_of} pods; at most {latest:.3} s later; {bounds} bounds held"
    );
    assert!(exact * 100 >= told_of * 95, "{exact} of {told_of}");
}

/// The kubelet keeps its workers through all containers of a pod: what was seen of one tells the phase of the next at once.
#[test]
fn the_next_container_is_probed_in_the_same_phase() {
    for crash_ms in [None, Some(50_000)] {
        let probes = ContainerProbes {
            liveness: Some(liveness(10, 1, 3)),
            ..ContainerProbes::default()
        };
        // Without a crash the first stall ends the first container. The second stalls before it was probed twice.
        let first = if crash_ms.is_some() {
            vec![]
        } else {
            vec![(25_000, 200_000)]
        };
        let mut fate = fate(probes, first);
        fate.crash_ms = crash_ms;
        let ended = Node::play(fate.clone(), 300_000);
        let gone = ended.sights.iter().find_map(|(at, sight)| match sight {
            Sight::Gone { .. } => Some(at.0 / MS),
            _ => None,
        });
        let again = gone.expect("it ends") + fate.down_ms + fate.boots_ms;
        fate.stalls_ms.retain_mut(|stall| {
            stall.1 = stall.1.min(again - 1);
            true
        });
        fate.stalls_ms.push((again + 11_000, again + 200_000));
        let node = Node::play(fate.clone(), again + 100_000);
        let kill = *node.kills.last().expect("it is killed");
        let told = follow(&fate, &node, kill);
        let offs = offs(&fate, &node, &told);
        let of_second = |(told, _): &&(Told, f64)| told.risk.at.0 > again * MS;
        let first = offs.iter().find(of_second).expect("something is told");
        assert!(first.0.risk.outlook.probes_seen, "{first:?}");
        assert!(first.1.abs() <= 0.3, "{first:?}");
    }
}

/// Three failures end a container, and one that ended by itself after two leaves them to its successor.
#[test]
fn a_crash_does_not_undo_failures_and_a_kill_does() {
    let probes = ContainerProbes {
        liveness: Some(liveness(10, 1, 3)),
        ..ContainerProbes::default()
    };
    // Ticks at 1 s: 41 and 51 fail, the container crashes at 53, and the next one stalls at once.
    let mut fate = fate(probes, vec![(40_000, 53_000), (55_700, 200_000)]);
    fate.crash_ms = Some(53_000);
    let node = Node::play(fate.clone(), 150_000);
    assert_eq!(node.kills[0], Mono(62_000 * MS), "the third in a row");
    let told = follow(&fate, &node, node.kills[0]);
    let offs = offs(&fate, &node, &told);
    let last = offs.last().expect("something is told");
    assert_eq!(last.0.risk.outlook.failed_probes, 2, "{last:?}");
    assert!(last.1.abs() <= 0.3, "{last:?}");
    // What decided begins anew: three more for the next container.
    assert!(
        node.kills
            .get(1)
            .is_some_and(|kill| kill.since(node.kills[0]) > seconds(30))
    );
}

/// A startup probe has rules of its own, and the others wait for it.
#[test]
fn a_startup_probe_decides_until_it_has_succeeded() {
    let probes = ContainerProbes {
        startup: Some(Probe {
            termination_grace: Some(seconds(4)),
            ..liveness(2, 1, 20)
        }),
        liveness: Some(liveness(10, 1, 3)),
        readiness: Some(liveness(5, 1, 3)),
        ..ContainerProbes::default()
    };
    // It listens at 4.1 s and stalls from then on: the probe at 5 s is the first.
    let stalled = fate(probes.clone(), vec![(4_150, 300_000)]);
    let node = Node::play(stalled.clone(), 100_000);
    // The first at 3 s was refused before it runs: counted by nobody.
    let kill = node.kills[0];
    let told = follow(&stalled, &node, kill);
    let offs = offs(&stalled, &node, &told);
    let last = offs.last().expect("something is told");
    assert!(last.1.abs() <= 0.3, "{last:?}");
    let outlook = last.0.risk.outlook;
    assert_eq!(
        outlook
            .to_sigkill
            .zip(outlook.to_decision)
            .map(|(kill, decision)| kill.saturating_sub(decision)),
        Some(seconds(4))
    );
    // Once it has succeeded, 2/1/20 is over, and 10/1/3 begins.
    let later = fate(probes, vec![(60_000, 300_000)]);
    let node = Node::play(later.clone(), 200_000);
    let told = follow(&later, &node, node.kills[0]);
    let offs = self::offs(&later, &node, &told);
    assert!(worst(&offs).is_some_and(|off| off <= 0.3), "{offs:?}");
    assert!(node.kills[0].since(Mono(60_000 * MS)) >= seconds(21));
}

/// Before its initial delay is over no stall costs a probe, and none is warned of.
#[test]
fn nothing_is_at_risk_before_the_first_probe() {
    let probes = ContainerProbes {
        liveness: Some(Probe {
            initial_delay: seconds(60),
            ..liveness(10, 1, 3)
        }),
        ..ContainerProbes::default()
    };
    let fate = fate(probes, vec![(10_000, 55_000), (58_000, 300_000)]);
    let node = Node::play(fate.clone(), 200_000);
    let told = follow(&fate, &node, node.kills[0]);
    let first = told.first().expect("the second stall is a risk");
    // It runs since 3 s; ticks at 1 s: the first probe at 71 s, or so it may be from 63 s on.
    assert!(first.risk.at >= Mono(63_000 * MS), "{first:?}");
    let offs = offs(&fate, &node, &told);
    assert!(
        offs.iter().all(|(told, off)| {
            off.abs()
                <= told
                    .risk
                    .outlook
                    .uncertainty
                    .unwrap_or_default()
                    .as_secs_f64()
                    + 0.15
        }),
        "{offs:?}"
    );
}

/// A readiness probe of another period in the same port is not taken for it.
#[test]
fn a_readiness_probe_is_told_by_its_period() {
    let probes = ContainerProbes {
        liveness: Some(liveness(10, 1, 3)),
        readiness: Some(liveness(5, 1, 100)),
        ..ContainerProbes::default()
    };
    for jitter_ms in [[0, 0, 0], [0, 1300, 0], [0, 4000, 9000]] {
        let mut fate = fate(probes.clone(), vec![(60_000, 300_000)]);
        fate.jitter_ms = jitter_ms;
        let node = Node::play(fate.clone(), 200_000);
        let told = follow(&fate, &node, node.kills[0]);
        let offs = offs(&fate, &node, &told);
        assert!(!offs.is_empty());
        for (told, off) in offs {
            assert!(off.abs() <= 0.1, "{jitter_ms:?}: {off} {told:?}");
        }
    }
}

/// With a liveness probe of Kubernetes' defaults somebody has 15 s and more, whatever else the pod has.
#[test]
fn the_defaults_leave_time_to_act() {
    for begins in (60_000..70_000).step_by(500) {
        let probes = ContainerProbes {
            liveness: Some(Probe::new(HTTP)),
            readiness: Some(liveness(3, 1, 3)),
            ..ContainerProbes::default()
        };
        let fate = fate(probes, vec![(begins, 300_000)]);
        let node = Node::play(fate.clone(), 200_000);
        let kill = node.kills[0];
        let told = follow(&fate, &node, kill);
        let first = |level| {
            let first = told.iter().find(|told| told.risk.level >= level);
            first.map(|told| kill.since(told.risk.at))
        };
        assert!(
            first(Level::Elevated) >= Some(seconds(15)),
            "{begins}: {told:?}"
        );
        assert!(
            first(Level::Imminent) >= Some(seconds(9)),
            "{begins}: {told:?}"
        );
    }
}

/// R2: stalls of 30 s under 10/5/5, with moments of air between them. One answered probe undoes the failures, a stall that
/// swallows the next one does not.
#[test]
fn stalls_back_to_back_are_forecast_rightly() {
    let mut kills = 0;
    for air_ms in [50, 400, 2_000, 8_000, 11_000] {
        for begins in (60_000..70_000).step_by(1_700) {
            let probes = ContainerProbes {
                liveness: Some(liveness(10, 5, 5)),
                ..ContainerProbes::default()
            };
            let stalls = (0..12).map(|turn| {
                let begin = begins + turn * (30_000 + air_ms);
                (begin, begin + 30_000)
            });
            let fate = fate(probes, stalls.collect());
            let over = begins + 12 * (30_000 + air_ms) + 15_000;
            let node = Node::play(fate.clone(), over);
            let end = node.kills.first().copied().unwrap_or(Mono(over * MS));
            let told = follow(&fate, &node, end);
            let offs = offs(&fate, &node, &told);
            if let Some(kill) = node.kills.first() {
                kills += 1;
                assert!(worst(&offs).is_some_and(|off| off <= 0.3), "{offs:?}");
                let imminent = told
                    .iter()
                    .rev()
                    .take_while(|told| told.risk.level == Level::Imminent);
                let first = imminent.last().expect("imminent at the end");
                assert!(
                    kill.since(first.risk.at) >= seconds(8),
                    "{first:?} {kill:?}"
                );
            }
            // After the last stall it is over with the next answer.
            if node.kills.is_empty() {
                assert_eq!(told.last().map(|told| told.risk.level), Some(Level::None));
            }
        }
    }
    assert!(kills >= 5, "{kills}");
}
