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
