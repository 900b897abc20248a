//! Putting what is followed together to one picture of the node, and passing it on when it has changed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

use super::follow::Change;
use super::health::{Feature, Health};
use super::read;
use crate::pipeline::pod::{Pod, Pods};
use crate::pipeline::stamp::Tied;

/// A change waits this long for others of the same moment.
const SETTLES: Duration = Duration::from_millis(100);
/// So often a new picture is passed on: each makes new rules.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Pods that the API has no more are remembered so long; their processes are to end within their grace.
const KEPT: Duration = Duration::from_mins(10);
/// So many of them.
const MOST_GONE: usize = 1024;

/// What is known.
#[derive(Debug, Default)]
struct State {
    /// By uid; `None` before the first list.
    pods: Option<HashMap<String, Arc<Pod>>>,
    /// Those that the API has no more, and since when.
    gone: VecDeque<(Instant, Arc<Pod>)>,
    namespaces: Option<BTreeMap<String, BTreeMap<String, String>>>,
    node: Option<BTreeMap<String, String>>,
}

impl State {
    fn take(&mut self, change: Change, clock: Tied) {
        match change {
            Change::Pods(pods) => {
                let read = pods.iter().filter_map(|pod| read::pod(pod, clock));
                let read = read.map(|pod| (pod.uid.clone(), Arc::new(pod)));
                let before = self.pods.replace(read.collect());
                let listed = self.pods.as_ref();
                let gone = before
                    .into_iter()
                    .flatten()
                    .filter(|(uid, _)| listed.is_some_and(|listed| !listed.contains_key(uid)));
                let gone: Vec<Arc<Pod>> = gone.map(|(_, pod)| pod).collect();
                for pod in gone {
                    self.leave(pod);
                }
            }
            Change::Pod(pod) => {
                if let Some(pod) = read::pod(&pod, clock) {
                    let pods = self.pods.get_or_insert_default();
                    pods.insert(pod.uid.clone(), Arc::new(pod));
                }
            }
            Change::PodGone(pod) => {
                let uid = pod.metadata.uid.as_ref();
                let known = self.pods.as_mut().zip(uid);
                if let Some(gone) = known.and_then(|(pods, uid)| pods.remove(uid)) {
                    self.leave(gone);
                }
            }
            Change::Namespaces(all) => self.namespaces = Some(all),
            Change::Namespace(name, ours) => {
                let namespaces = self.namespaces.get_or_insert_default();
                if ours.is_empty() {
                    namespaces.remove(&name);
                } else {
                    namespaces.insert(name, ours);
                }
            }
            Change::Node(ours) => self.node = Some(ours),
            // What was known before stays.
            Change::Unknown(Feature::Namespaces) => drop(self.namespaces.get_or_insert_default()),
            Change::Unknown(Feature::Node) => drop(self.node.get_or_insert_default()),
            Change::Unknown(_) => {}
        }
    }

    /// The API forgets a pod that is deleted by force while its processes still run: what it asked for holds until they are gone.
    fn leave(&mut self, pod: Arc<Pod>) {
        self.gone.push_back((Instant::now(), pod));
        if self.gone.len() > MOST_GONE {
            self.gone.pop_front();
        }
    }

    /// The picture, once all of it is known: a pod must not be given for a moment what its namespace withholds.
    fn picture(&self) -> Option<Pods> {
        let listed = self.pods.as_ref()?;
        // A static pod comes back under another uid, and is the same in cgroup paths.
        let is_back = |gone: &Pod| listed.values().any(|pod| pod.cgroup_uid == gone.cgroup_uid);
        let mut gone: HashMap<&str, &Arc<Pod>> = HashMap::new();
        for (since, pod) in &self.gone {
            if since.elapsed() < KEPT && !is_back(pod) {
                gone.insert(&pod.cgroup_uid, pod);
            }
        }
        let all = listed.values().chain(gone.into_values());
        let mut pods = Pods::new(all.cloned());
        pods.namespaces.clone_from(self.namespaces.as_ref()?);
        pods.node.clone_from(self.node.as_ref()?);
        Some(pods)
    }
}

/// Takes changes until nobody makes any.
pub(super) async fn gather(
    mut changes: Receiver<Change>,
    clock: Tied,
    health: &Health,
    changed: impl Fn(Arc<Pods>),
) {
    let mut state = State::default();
    let mut told: Option<Arc<Pods>> = None;
    let mut not_before = Instant::now();
    while let Some(change) = changes.recv().await {
        state.take(change, clock);
        let until = not_before.max(Instant::now() + SETTLES);
        while let Ok(Some(change)) = timeout_at(until, changes.recv()).await {
            state.take(change, clock);
        }
        let Some(picture) = state.picture() else {
            continue;
        };
        health.knows(state.pods.as_ref().map_or(0, HashMap::len));
        if told.as_deref() != Some(&picture) {
            let picture = Arc::new(picture);
            told = Some(picture.clone());
            changed(picture);
        }
        not_before = Instant::now() + AT_MOST_EVERY;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pipeline::Mono;
    use crate::pipeline::stamp::Stamp;

    const CLOCK: Tied = Tied {
        mono: Mono(0),
        wall: Stamp(0),
    };

    fn pod(uid: &str, name: &str) -> k8s_openapi::api::core::v1::Pod {
        let pod = json!({
            "metadata": { "uid": uid, "namespace": "shop", "name": name },
            "spec": { "containers": [] },
        });
        serde_json::from_value(pod).unwrap()
    }

    fn state(changes: Vec<Change>) -> State {
        let mut state = State::default();
        for change in changes {
            state.take(change, CLOCK);
        }
        state
    }

    fn names(state: &State) -> Option<Vec<String>> {
        let picture = state.picture()?;
        let mut names: Vec<_> = picture.iter().map(|pod| pod.name.clone()).collect();
        names.sort();
        Some(names)
    }

    #[test]
    fn nothing_is_granted_before_it_is_known_what_is_withheld() {
        let mut state = state(vec![Change::Pods(vec![pod("u1", "a")])]);
        assert_eq!(names(&state), None);
        state.take(Change::Node(BTreeMap::new()), CLOCK);
        assert_eq!(names(&state), None);
        state.take(Change::Namespaces(BTreeMap::new()), CLOCK);
        assert_eq!(names(&state), Some(vec!["a".into()]));
    }

    #[test]
    fn what_may_not_be_asked_for_keeps_nothing_back() {
        let state = state(vec![
            Change::Unknown(Feature::Namespaces),
            Change::Unknown(Feature::Node),
            Change::Pods(vec![pod("u1", "a")]),
        ]);
        assert_eq!(names(&state), Some(vec!["a".into()]));
    }

    #[test]
    fn what_was_heard_stays_when_no_more_is_heard() {
        let off = BTreeMap::from([("mode".to_owned(), "off".to_owned())]);
        let state = state(vec![
            Change::Pods(vec![pod("u1", "a")]),
            Change::Namespace("shop".into(), off.clone()),
            Change::Node(off.clone()),
            Change::Unknown(Feature::Namespaces),
            Change::Unknown(Feature::Node),
            Change::Unknown(Feature::Pods),
        ]);
        let picture = state.picture().unwrap();
        assert_eq!(
            (picture.namespaces["shop"].clone(), picture.node),
            (off.clone(), off)
        );
        assert_eq!(names(&state), Some(vec!["a".into()]));
    }

    fn listed(state: &State) -> Vec<String> {
        let mut names: Vec<_> = state
            .pods
            .iter()
            .flatten()
            .map(|(_, pod)| pod.name.clone())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_list_forgets_what_is_not_in_it() {
        let mut state = state(vec![
            Change::Pods(vec![pod("u1", "a"), pod("u2", "b")]),
            Change::Pod(Box::new(pod("u3", "c"))),
            Change::PodGone(Box::new(pod("u1", "a"))),
        ]);
        assert_eq!(listed(&state), ["b", "c"]);
        // Deleted and made anew meanwhile: the late news of the old one's end is not the new one's.
        state.take(Change::Pods(vec![pod("u4", "b")]), CLOCK);
        state.take(Change::PodGone(Box::new(pod("u2", "b"))), CLOCK);
        assert_eq!(listed(&state), ["b"]);
    }

    #[test]
    fn what_a_pod_asked_for_outlives_it() {
        let mut asks = pod("u1", "a");
        asks.metadata.annotations = Some(BTreeMap::from([(
            "loopwarden.dev/mode".to_owned(),
            "observe".to_owned(),
        )]));
        let of = |uid: &str| crate::pipeline::place::Seat {
            uid: Some(uid.into()),
            container: "c".into(),
        };
        for gone in [
            Change::PodGone(Box::new(asks.clone())),
            Change::Pods(Vec::new()),
        ] {
            let state = state(vec![
                Change::Unknown(Feature::Namespaces),
                Change::Unknown(Feature::Node),
                Change::Pods(vec![asks.clone()]),
                gone,
            ]);
            let found = state.picture().unwrap().find(&of("u1")).unwrap();
            assert_eq!(found.pod.annotations["mode"], "observe");
        }
    }

    #[test]
    fn a_static_pod_that_comes_back_is_not_two() {
        let hash = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
        let mirror = |uid: &str| {
            let mut pod = pod(uid, "static");
            let annotations = ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"];
            let annotations = annotations.map(|key| (key.to_owned(), hash.to_owned()));
            pod.metadata.annotations = Some(annotations.into());
            pod
        };
        let state = state(vec![
            Change::Unknown(Feature::Namespaces),
            Change::Unknown(Feature::Node),
            Change::Pods(vec![mirror("u1")]),
            Change::PodGone(Box::new(mirror("u1"))),
            Change::Pod(Box::new(mirror("u2"))),
        ]);
        let seat = crate::pipeline::place::Seat {
            uid: Some(hash.into()),
            container: "c".into(),
        };
        let found = state.picture().unwrap().find(&seat).unwrap();
        assert_eq!(found.pod.uid, "u2");
    }
}
