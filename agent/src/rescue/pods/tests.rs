use std::time::Duration;

use super::*;
use crate::evidence::Collector;
use crate::kernel::{Plan, Sampler, Way, clock};
use crate::pipeline::liveness::{Handler, Probe};
use crate::pipeline::pod::{Pod, PodContainer, Pods};
use crate::pipeline::{Collect, LoopId, Mode, PidKey};
use crate::rescue::stats::Stats;
use crate::rescue::{EvidenceLimits, Limits, Settings, TargetSettings};
use crate::target::scout::{Candidate, Scout};

/// The rules of one target that is the same in all pods.
#[derive(Debug, Default)]
struct OfPods(Pods);

impl Matching for OfPods {
    fn version(&self) -> u64 {
        1
    }

    fn target(&self, _: &Candidate<'_>) -> Option<usize> {
        None
    }

    fn is_engine(&self, _: usize, _: &str, _: &str) -> bool {
        false
    }

    fn number(&self, _: &str, _: Option<&Seat>) -> Option<usize> {
        Some(0)
    }

    fn pod(&self, seat: &Seat) -> Option<Found> {
        self.0.find(seat)
    }
}

fn rules(pods: Vec<Pod>) -> Arc<dyn Matching> {
    Arc::new(OfPods(Pods::new(pods.into_iter().map(Arc::new))))
}

/// A pod with one container, which is probed every `period` seconds.
fn pod(uid: &str, period: u64) -> Pod {
    let mut life = liveness::Container::default();
    life.probes.liveness = Some(Probe {
        period: Duration::from_secs(period),
        ..Probe::new(Handler::HttpGet { port: 4000 })
    });
    Pod {
        uid: uid.into(),
        cgroup_uid: uid.into(),
        containers: vec![PodContainer {
            name: "proxy".into(),
            id: Some(format!("container-{uid}")),
            life,
        }],
        ..Pod::default()
    }
}

fn settings() -> Settings {
    Settings {
        targets: vec![TargetSettings {
            name: "proxy".into(),
            mode: Mode::Observe,
            stall_after: Duration::from_millis(100),
            engine: None,
            engines: Vec::new(),
            liveness: None,
            probed_port: None,
        }],
        limits: Limits::default(),
        evidence: EvidenceLimits {
            collect: Collect::Off,
            per_loop: Duration::from_secs(1),
            node_cpu_percent: 1,
        },
        match_all: false,
    }
}

fn sentinel() -> Sentinel {
    let plan = Plan {
        way: Way::Sampling,
        calls: Vec::new(),
        verdicts: std::collections::BTreeMap::default(),
    };
    let registers = Box::new(|_, _| Err("none here".to_owned()));
    Sentinel::new(
        Box::new(Sampler::new(plan)),
        settings(),
        rules(Vec::new()),
        Scout::start(rules(Vec::new()), |_| {}).unwrap(),
        Collector::start(clock::now, registers, 1, |_| {}).unwrap(),
        Box::new(|_| {}),
        Arc::new(Stats::default()),
    )
}

/// A loop of a process that is not there (no id is so high), in the container of that pod.
fn add_loop(sentinel: &mut Sentinel, number: u32, uid: &str) -> Tid {
    let process = PidKey {
        pid: Pid(number),
        start_ns: 1,
    };
    let tid = Tid(number);
    let id = LoopId { process, tid };
    let mut found = Process::found(process, Pid(1), 0, true);
    found.seat = Some(Seat {
        uid: Some(uid.into()),
        container: format!("container-{uid}"),
    });
    sentinel.family.insert(found);
    let mut watched = Loop::new(id, 0, 0, Duration::from_millis(100), Mono(1));
    watched.info = Some(Arc::new(LoopInfo {
        id,
        slot: 0,
        target: "proxy".into(),
        exe: "proxy".into(),
        poller: "epoll_wait".into(),
        plan: "sampling",
        pod: None,
    }));
    sentinel.loops.insert(tid, watched);
    tid
}

/// The period of the probe that the forecast of a loop goes by.
fn period(sentinel: &Sentinel, tid: Tid) -> Option<u64> {
    let liveness = sentinel.loops[&tid].liveness.as_ref()?;
    Some(liveness.spec().period.as_secs())
}

#[test]
fn what_a_pod_tells_of_its_container_holds_at_once() {
    let mut sentinel = sentinel();
    let tid = add_loop(&mut sentinel, 1 << 30, "u1");
    let mut told = |pods| {
        sentinel.reload(settings(), rules(pods));
        period(&sentinel, tid)
    };
    assert_eq!(told(vec![pod("u1", 5)]), Some(5));
    assert_eq!(told(vec![pod("u1", 7)]), Some(7));
    let mut deleted = pod("u1", 7);
    deleted.containers[0].life.state.killed_at = Some(Mono(5));
    assert_eq!(told(vec![deleted]), None);
    assert_eq!(told(vec![pod("u1", 7)]), Some(7));
    // Nobody tells of it any more.
    assert_eq!(told(Vec::new()), None);
}

#[test]
fn a_change_of_one_pod_is_no_work_for_the_loops_of_others() {
    let mut sentinel = sentinel();
    let of_changed = add_loop(&mut sentinel, 1 << 30, "u1");
    let of_other = add_loop(&mut sentinel, (1 << 30) + 1, "u2");
    sentinel.reload(settings(), rules(vec![pod("u1", 5), pod("u2", 5)]));
    assert_eq!(period(&sentinel, of_other), Some(5));
    // Whoever follows it makes it anew.
    sentinel.loops.get_mut(&of_other).unwrap().liveness = None;
    sentinel.reload(settings(), rules(vec![pod("u1", 7), pod("u2", 5)]));
    assert_eq!(period(&sentinel, of_changed), Some(7));
    assert_eq!(period(&sentinel, of_other), None);
}
