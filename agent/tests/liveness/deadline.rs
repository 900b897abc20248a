//! Until when a loop has to be free: held against the node, whose kubelet must not decide to kill where the loop was.

use std::time::Duration;

use loopwarden::pipeline::Mono;
use loopwarden::pipeline::Pid;
use loopwarden::pipeline::liveness::{
    Client, Container, ContainerProbes, ContainerState, Follower, Handler, Port, Probe, ProbeSpec,
    Probes, Situation, Threat,
};
use proptest::prelude::*;

use crate::life::MS;
use crate::node::{Fate, Node, Sight};

const KUBELET: Client = Client {
    pid: Pid(10),
    of_node: true,
};
/// What an engine's end and its loop's way back take.
const WAY_BACK: Duration = Duration::from_millis(100);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn fate(liveness: Probe, stall: (u64, u64), jitter_ms: u64) -> Fate {
    Fate {
        probes: ContainerProbes {
            liveness: Some(liveness),
            ..ContainerProbes::default()
        },
        runs_ms: 3_400,
        boots_ms: 100,
        down_ms: 1_000,
        crash_ms: None,
        stalls_ms: vec![stall],
        jitter_ms: [jitter_ms, 0, 0],
    }
}

fn spec_of(fate: &Fate) -> ProbeSpec {
    let container = Container {
        probes: fate.probes.clone(),
        state: ContainerState {
            started: Some(true),
            ..ContainerState::default()
        },
    };
    match container.threat(seconds(10)) {
        Threat::Probe { spec, .. } => spec,
        other => panic!("{other:?}"),
    }
}

/// What the port has shown until `now`, if it is looked at.
fn probes(node: &Node, spec: ProbeSpec, now: Mono, seen: bool) -> Probes {
    let mut probes = Probes::new(spec);
    for (at, sight) in node.sights.iter().filter(|(at, _)| *at <= now && seen) {
        match sight {
            Sight::Began { start } => probes.began(KUBELET, *start),
            Sight::Ended { start, how } => probes.ended(KUBELET, *start, *at, *how),
            _ => {}
        }
    }
    probes
}

/// As the rescue thread asks when a wait begins.
fn free_by(fate: &Fate, spec: ProbeSpec, seen: bool) -> Option<Mono> {
    let begin = Mono(fate.stalls_ms[0].0 * MS);
    let now = begin.plus(Duration::from_millis(1));
    let node = Node::play(fate.clone(), 400_000);
    let probes = probes(&node, spec, now, seen);
    let situation = Situation {
        away: Some(begin),
        ports: &[Port {
            probes: &probes,
            away: Some(begin),
        }],
    };
    Follower::new(spec).free_by(now, situation)
}

/// The kills if the loop is free a moment after the deadline.
fn kills(mut fate: Fate, by: Mono) -> Vec<Mono> {
    let free = by.plus(WAY_BACK).0 / MS;
    fate.stalls_ms[0].1 = free.max(fate.stalls_ms[0].0 + 1);
    Node::play(fate, 400_000).kills
}

fn random() -> impl Strategy<Value = Fate> {
    let probe = (1..12_u64, 1..12_u64, 2..6_u32);
    (probe, 0..12_000_u64, 0..12_000_u64).prop_map(
        |((period, timeout, failures), begin, jitter)| {
            let liveness = Probe {
                period: seconds(period),
                timeout: seconds(timeout),
                failure_threshold: failures,
                ..Probe::new(Handler::HttpGet { port: 4000 })
            };
            fate(liveness, (60_000 + begin, 399_000), jitter)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_loop_that_is_free_by_then_is_not_killed(fate in random(), seen in any::<bool>()) {
        let spec = spec_of(&fate);
        let by = free_by(&fate, spec, seen).expect("the pod's spec is known");
        let kills = kills(fate.clone(), by);
        prop_assert!(kills.is_empty(), "free by {:?}, and killed: {:?}", by, kills);
        // And no sooner than need be: half a second, and where no probe is seen a period.
        let decided = Node::play(fate, 400_000).kills[0];
        let sooner = if seen { seconds(1) } else { seconds(1) + spec.period };
        prop_assert!(decided.since(by) <= sooner, "{:?} before {:?}", by, decided);
    }
}

/// A time-out shorter than the margin would be keeps half of itself.
#[test]
fn half_of_the_last_probe_is_enough() {
    let short = ProbeSpec {
        of_pod: true,
        ..ProbeSpec::new(Duration::from_millis(500), Duration::from_millis(200), 3)
    };
    let away = Mono(60_000 * MS);
    let situation = Situation {
        away: Some(away),
        ports: &[],
    };
    assert_eq!(
        Follower::new(short).free_by(away, situation),
        Some(away.plus(Duration::from_millis(2 * 500 + 200 - 100)))
    );
}

/// What is configured alone steers nothing; the first probe seen does.
#[test]
fn a_configured_probe_is_no_deadline_until_it_is_seen() {
    let liveness = Probe::new(Handler::HttpGet { port: 4000 });
    let fate = fate(liveness, (60_000, 399_000), 0);
    let of_pod = spec_of(&fate);
    let configured = ProbeSpec {
        of_pod: false,
        ..of_pod
    };
    assert_eq!(free_by(&fate, configured, false), None);
    assert!(free_by(&fate, of_pod, false).is_some());
    assert_eq!(
        free_by(&fate, configured, true),
        free_by(&fate, of_pod, true)
    );
    // A stall in which nothing is probed yet has its time from the first probe on.
    let delayed = ProbeSpec {
        not_before: Some(Mono(90_000 * MS)),
        ..of_pod
    };
    let by = free_by(&fate, delayed, false);
    assert_eq!(by, Some(Mono((90_000 + 21_000 - 500) * MS)));
}
