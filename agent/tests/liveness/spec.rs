//! Which probe can end a container, at which time of its life.

use std::time::Duration;

use loopwarden::pipeline::Mono;
use loopwarden::pipeline::liveness::{
    Container, ContainerProbes, ContainerState, Handler, Probe, ProbeSpec, Rhythm, Threat,
    Unthreatened,
};

use crate::life::MS;

const MARGIN: Duration = Duration::from_secs(10);
const HTTP: Handler = Handler::HttpGet { port: 4000 };

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn threat(probes: &ContainerProbes, state: ContainerState) -> Threat {
    let probes = probes.clone();
    Container { probes, state }.threat(MARGIN)
}

fn started() -> ContainerState {
    ContainerState {
        started: Some(true),
        ..ContainerState::default()
    }
}

#[test]
fn the_defaults_are_those_of_kubernetes() {
    let probes = ContainerProbes {
        liveness: Some(Probe::new(HTTP)),
        ..ContainerProbes::default()
    };
    let spec = ProbeSpec {
        of_pod: true,
        ..ProbeSpec::new(seconds(10), seconds(1), 3)
    };
    let port = 4000;
    assert_eq!(threat(&probes, started()), Threat::Probe { spec, port });
    assert_eq!(spec.termination_grace, seconds(30));
}

#[test]
fn only_http_and_grpc_ask_the_loop() {
    let of = |handler| {
        let probes = ContainerProbes {
            liveness: Some(Probe::new(handler)),
            ..ContainerProbes::default()
        };
        threat(&probes, started())
    };
    let port = 9000;
    assert!(matches!(
        of(Handler::Grpc { port }),
        Threat::Probe { port: 9000, .. }
    ));
    assert_eq!(
        of(Handler::TcpSocket { port }),
        Threat::Nothing(Unthreatened::KernelAnswers)
    );
    assert_eq!(
        of(Handler::Exec),
        Threat::Nothing(Unthreatened::RunsCommand)
    );
    assert_eq!(
        threat(&ContainerProbes::default(), started()),
        Threat::Nothing(Unthreatened::NoProbe)
    );
}

#[test]
fn until_it_has_succeeded_the_startup_probe_is_the_only_one() {
    let startup = Probe {
        failure_threshold: 30,
        termination_grace: Some(seconds(5)),
        ..Probe::new(HTTP)
    };
    let probes = ContainerProbes {
        startup: Some(startup),
        liveness: Some(Probe {
            period: seconds(5),
            ..Probe::new(HTTP)
        }),
        readiness: Some(Probe {
            period: seconds(2),
            timeout: seconds(2),
            ..Probe::new(HTTP)
        }),
        termination_grace: seconds(60),
        pre_stop: true,
    };
    let before = ContainerState::default();
    let of = |state| match threat(&probes, state) {
        Threat::Probe { spec, .. } => spec,
        other => panic!("{other:?}"),
    };
    for told in [None, Some(false)] {
        let spec = of(ContainerState {
            started: told,
            ..before
        });
        assert_eq!((spec.failures, spec.period), (30, seconds(10)));
        assert_eq!(spec.termination_grace, seconds(5));
        assert_eq!(spec.readiness, None, "it is not made yet");
    }
    let spec = of(started());
    assert_eq!((spec.failures, spec.period), (3, seconds(5)));
    assert_eq!(spec.termination_grace, seconds(60), "the pod's");
    assert!(spec.pre_stop);
    let other = Rhythm {
        period: seconds(2),
        timeout: seconds(2),
    };
    assert_eq!(spec.readiness, Some(other));
    // A startup probe that does not ask the loop keeps the liveness probe from being made all the same.
    let probes = ContainerProbes {
        startup: Some(Probe::new(Handler::Exec)),
        ..probes
    };
    assert_eq!(
        threat(&probes, before),
        Threat::Nothing(Unthreatened::RunsCommand)
    );
}

#[test]
fn the_initial_delay_counts_from_the_start_of_the_container() {
    let probes = ContainerProbes {
        liveness: Some(Probe {
            initial_delay: seconds(15),
            ..Probe::new(HTTP)
        }),
        ..ContainerProbes::default()
    };
    let not_before = |running_since| {
        let state = ContainerState {
            running_since,
            ..started()
        };
        match threat(&probes, state) {
            Threat::Probe { spec, .. } => spec.not_before,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(not_before(Some(Mono(4000 * MS))), Some(Mono(19_000 * MS)));
    assert_eq!(not_before(None), None);
}

#[test]
fn no_container_gets_less_than_two_seconds_to_end() {
    let probes = ContainerProbes {
        liveness: Some(Probe {
            termination_grace: Some(seconds(1)),
            ..Probe::new(HTTP)
        }),
        ..ContainerProbes::default()
    };
    assert!(matches!(
        threat(&probes, started()),
        Threat::Probe { spec, .. } if spec.termination_grace == seconds(2)
    ));
}

#[test]
fn a_pod_that_is_deleted_is_not_probed_to_death() {
    let probes = ContainerProbes {
        liveness: Some(Probe::new(HTTP)),
        ..ContainerProbes::default()
    };
    let at = Mono(90_000 * MS);
    let state = ContainerState {
        killed_at: Some(at),
        ..started()
    };
    assert_eq!(threat(&probes, state), Threat::Deletion { at });
}
