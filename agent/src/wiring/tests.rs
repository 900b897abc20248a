//! Whose rules hold for whom, and that no pod reaches another's processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Rules;
use crate::config::Config;
use crate::pipeline::place::Seat;
use crate::pipeline::pod::{Pod, PodContainer, PodName, Pods};
use crate::pipeline::{LoopId, LoopInfo, Mode, Pid, PidKey, Tid};
use crate::target::scout::{Candidate, Matching};

fn map(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// A pod `shop/NAME` of that uid, with one container of the id `c-UID`.
fn pod(uid: &str, name: &str, annotations: &[(&str, &str)]) -> Pod {
    Pod {
        uid: uid.into(),
        cgroup_uid: uid.into(),
        namespace: "shop".into(),
        name: name.into(),
        labels: map(&[("app", name)]),
        annotations: map(annotations),
        gate: None,
        containers: vec![PodContainer {
            name: "main".into(),
            id: Some(format!("c-{uid}")),
            ..PodContainer::default()
        }],
    }
}

fn seat(uid: &str) -> Seat {
    Seat {
        uid: Some(uid.into()),
        container: format!("c-{uid}"),
    }
}

fn rules(config: &str, pods: Vec<Pod>) -> Rules {
    let config = Config::parse(config, "test", None).unwrap_or_else(|error| panic!("{error}"));
    Rules::new(config, Arc::new(Pods::new(pods.into_iter().map(Arc::new))))
}

fn target(rules: &Rules, exe: &str, command_line: &str, seat: Option<&Seat>) -> Option<usize> {
    rules.target(&Candidate {
        pid: Pid(7),
        exe,
        command_line,
        seat,
    })
}

const LITELLM: &str = "mode: enforce\n";
const GENEROUS: &str =
    "mode: observe\nannotations: { allow: [ enforce, engine, shorter-grace, stall-after ] }\n";

fn proxy(rules: &Rules, seat: Option<&Seat>) -> Option<usize> {
    target(rules, "python3.11", "python3 litellm --port 4000", seat)
}

#[test]
fn a_pod_that_asks_for_nothing_has_what_the_configuration_gives() {
    let rules = rules(LITELLM, vec![pod("u1", "a", &[])]);
    assert_eq!(proxy(&rules, None), Some(0));
    assert_eq!(proxy(&rules, Some(&seat("u1"))), Some(0));
    assert_eq!(proxy(&rules, Some(&seat("unknown"))), Some(0));
    assert_eq!(rules.settings(true).targets.len(), 1);
    assert_eq!(rules.complaints(), []);
}

#[test]
fn a_pod_that_asks_for_less_gets_it_and_nobody_else_does() {
    let pods = vec![
        pod("u1", "a", &[("mode", "off")]),
        pod("u2", "b", &[("mode", "observe"), ("grace", "5s")]),
        pod("u3", "c", &[]),
    ];
    let rules = rules(LITELLM, pods);
    let settings = rules.settings(true);
    assert_eq!(proxy(&rules, Some(&seat("u1"))), None);
    let observed = proxy(&rules, Some(&seat("u2"))).unwrap();
    assert_eq!(settings.mode(observed), Mode::Observe);
    let grace = settings.targets[observed].engine.unwrap().rules.grace;
    assert_eq!(grace, Duration::from_secs(5));
    for others in [None, Some(seat("u3"))] {
        let number = proxy(&rules, others.as_ref()).unwrap();
        assert_eq!(settings.mode(number), Mode::Enforce);
    }
    assert_eq!(rules.complaints(), []);
}

#[test]
fn a_pod_that_asks_for_more_needs_the_operators_leave() {
    let more = [
        ("mode", "enforce"),
        ("engine", "*"),
        ("grace", "0s"),
        ("stall-after", "1ms"),
    ];
    let refused = rules("mode: observe\n", vec![pod("u1", "a", &more)]);
    let number = proxy(&refused, Some(&seat("u1"))).unwrap();
    let (own, asked) = (
        &refused.settings(true).targets[0],
        &refused.settings(true).targets[number],
    );
    assert_eq!(own, asked);
    assert_eq!(refused.complaints().len(), 4);
    assert!(refused.complaints().iter().all(|complaint| {
        complaint.pod.as_ref().map(PodName::to_string) == Some("shop/a".into())
    }));

    let granted = rules(GENEROUS, vec![pod("u1", "a", &more), pod("u2", "b", &[])]);
    let settings = granted.settings(true);
    let number = proxy(&granted, Some(&seat("u1"))).unwrap();
    assert_eq!(settings.mode(number), Mode::Enforce);
    assert!(granted.is_engine(number, "anything", ""));
    // What one pod was granted is granted to no other, and to nothing outside of pods.
    for others in [None, Some(seat("u2"))] {
        let number = proxy(&granted, others.as_ref()).unwrap();
        assert_eq!(settings.mode(number), Mode::Observe);
        assert!(!granted.is_engine(number, "anything", ""));
    }
}

#[test]
fn a_namespace_and_the_node_ask_only_for_less() {
    let config = Config::parse(GENEROUS, "test", None).unwrap();
    let asks = [("mode", "enforce")];
    let mut pods = Pods::new([
        Arc::new(pod("u1", "a", &asks)),
        Arc::new(pod("u2", "b", &[])),
    ]);
    let mode = |pods: &Pods, uid| {
        let rules = Rules::new(config.clone(), Arc::new(pods.clone()));
        let number = proxy(&rules, Some(&seat(uid)))?;
        Some(rules.settings(true).mode(number))
    };
    assert_eq!(mode(&pods, "u1"), Some(Mode::Enforce));
    pods.namespaces.insert("shop".into(), map(&asks));
    assert_eq!(mode(&pods, "u2"), Some(Mode::Observe));
    pods.namespaces
        .insert("shop".into(), map(&[("mode", "observe")]));
    assert_eq!(mode(&pods, "u1"), Some(Mode::Observe));
    pods.node = map(&[("mode", "off")]);
    assert_eq!((mode(&pods, "u1"), mode(&pods, "u2")), (None, None));
}

#[test]
fn a_target_may_be_of_certain_pods() {
    let config = "
targets:
  - name: bff
    match: { kubernetes: { namespace: shop, labels: { app: bff } } }
";
    let rules = rules(config, vec![pod("u1", "bff", &[]), pod("u2", "other", &[])]);
    assert_eq!(target(&rules, "node", "", Some(&seat("u1"))), Some(0));
    assert_eq!(target(&rules, "node", "", Some(&seat("u2"))), None);
    // Nobody knows of which pod it is, or it has no name yet: the runtime is still setting the container up.
    assert_eq!(target(&rules, "node", "", None), None);
    assert_eq!(target(&rules, "node", "", Some(&seat("u3"))), None);
    assert_eq!(target(&rules, "", "", Some(&seat("u1"))), None);
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let before = pod("u1", "a", &[("mode", "enforce"), ("engine", "x")]);
    let after = pod("u2", "a", &[]);
    let rules = rules(GENEROUS, vec![before, after]);
    let number = proxy(&rules, Some(&seat("u2"))).unwrap();
    assert_eq!(rules.settings(true).mode(number), Mode::Observe);
}

#[test]
fn a_path_that_names_two_pods_gives_neither_ones_rules() {
    let asks = [("mode", "enforce")];
    let rules = rules(GENEROUS, vec![pod("u1", "a", &asks), pod("u2", "b", &[])]);
    let forged = Seat {
        uid: Some("u2".into()),
        container: "c-u1".into(),
    };
    assert_eq!(rules.pod(&forged), None);
    let number = proxy(&rules, Some(&forged)).unwrap();
    assert_eq!(rules.settings(true).mode(number), Mode::Observe);
}

#[test]
fn the_journal_keeps_what_held_for_the_loop() {
    let rules = rules(
        LITELLM,
        vec![pod("u1", "a", &[("mode", "observe"), ("grace", "9s")])],
    );
    let info = |pod: Option<&str>| LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(7),
                start_ns: 1,
            },
            tid: Tid(7),
        },
        slot: 0,
        target: "litellm".into(),
        exe: "python3".into(),
        poller: "epoll_wait".into(),
        plan: "fentry",
        pod: pod.map(|uid| PodName {
            uid: uid.into(),
            ..PodName::default()
        }),
    };
    let held = rules.in_force(&info(Some("u1")));
    assert_eq!(held.mode, Mode::Observe);
    assert_eq!(held.engine.unwrap().grace, Duration::from_secs(9));
    assert_eq!(rules.in_force(&info(None)).mode, Mode::Enforce);
}

#[test]
fn numbers_of_other_rules_are_told_apart() {
    let one = rules(LITELLM, vec![]);
    let other = rules(LITELLM, vec![]);
    assert_ne!(one.version(), other.version());
}

#[test]
fn a_target_keeps_its_name_in_every_pod() {
    let rules = rules(LITELLM, vec![pod("u1", "a", &[("grace", "9s")])]);
    let number = rules.number("litellm", Some(&seat("u1"))).unwrap();
    assert_ne!(number, 0);
    assert_eq!(rules.settings(true).name(number), Some("litellm"));
    assert_eq!(rules.number("litellm", None), Some(0));
    assert_eq!(rules.number("gone", None), None);
}
