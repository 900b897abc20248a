//! Putting what is followed together to one picture of the node, and passing it on when it has changed.

use std::collections::{BTreeMap, HashMap};
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

/// What is known.
#[derive(Debug, Default)]
struct State {
    /// By uid; `None` before the first list.
    pods: Option<HashMap<String, Arc<Pod>>>,
    namespaces: Option<BTreeMap<String, BTreeMap<String, String>>>,
    node: Option<BTreeMap<String, String>>,
}

impl State {
    fn take(&mut self, change: Change, clock: Tied) {
        match change {
            Change::Pods(pods) => {
                let read = pods.iter().filter_map(|pod| read::pod(pod, clock));
                let read = read.map(|pod| (pod.uid.clone(), Arc::new(pod)));
                self.pods = Some(read.collect());
            }
            Change::Pod(pod) => {
                if let Some(pod) = read::pod(&pod, clock) {
                    let pods = self.pods.get_or_insert_default();
                    pods.insert(pod.uid.clone(), Arc::new(pod));
                }
            }
            Change::PodGone(pod) => {
                let uid = pod.metadata.uid.as_ref();
                if let Some((pods, uid)) = self.pods.as_mut().zip(uid) {
                    pods.remove(uid);
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

    /// The picture, once all of it is known: a pod must not be given for a moment what its namespace withholds.
    fn picture(&self) -> Option<Pods> {
        let mut pods = Pods::new(self.pods.as_ref()?.values().cloned());
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
        health.knows(picture.len());
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

    #[test]
    fn a_new_list_forgets_what_is_not_in_it() {
        let mut state = state(vec![
            Change::Unknown(Feature::Namespaces),
            Change::Unknown(Feature::Node),
            Change::Pods(vec![pod("u1", "a"), pod("u2", "b")]),
            Change::Pod(Box::new(pod("u3", "c"))),
            Change::PodGone(Box::new(pod("u1", "a"))),
        ]);
        assert_eq!(names(&state), Some(vec!["b".into(), "c".into()]));
        // Deleted and made anew meanwhile: the late news of the old one's end is not the new one's.
        state.take(Change::Pods(vec![pod("u4", "b")]), CLOCK);
        state.take(Change::PodGone(Box::new(pod("u2", "b"))), CLOCK);
        assert_eq!(names(&state), Some(vec!["b".into()]));
    }
}
