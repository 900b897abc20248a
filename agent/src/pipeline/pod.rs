//! The pods of this node, as the Kubernetes API has them.
//!
//! Filled by `kube/`, asked by those who know only a process's cgroups. A pod is found by the ids that the kubelet and the runtime gave
//! it and that stand in its cgroup path, never by its name: names come back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::gate::Gate;
use super::liveness;
use super::place::Seat;

/// One pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: String,
    /// What stands for it in cgroup paths: its uid, or the hash of a static pod's manifest.
    pub cgroup_uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations that begin with [`ANNOTATIONS`], without that.
    pub annotations: BTreeMap<String, String>,
    /// The condition of ours that it names among its readiness gates.
    pub gate: Option<Gate>,
    /// Its containers, init containers and sidecars among them.
    pub containers: Vec<PodContainer>,
}

/// The prefix of our annotations.
pub const ANNOTATIONS: &str = "loopwarden.dev/";

/// Those that mean something, without it.
pub const KEYS: [&str; 4] = ["mode", "stall-after", "engine", "grace"];

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodContainer {
    /// Name.
    pub name: String,
    /// Id of the runtime, without its scheme; missing until the kubelet has told it.
    pub id: Option<String>,
    /// What can end it.
    pub life: liveness::Container,
}

/// A pod's name and what else tells it from others: for labels and messages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PodName {
    /// `metadata.uid`.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Name of the container, once the kubelet has told its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        match &self.container {
            Some(container) => write!(f, " ({container})"),
            None => Ok(()),
        }
    }
}

/// Something to be told where a pod's events are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// Which pod.
    pub pod: PodName,
    /// Something is wrong, or may be.
    pub is_warning: bool,
    /// What happened, in one word.
    pub reason: &'static str,
    /// What was done or looked at, in one word.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

/// A pod, and which of its containers.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container's number in it, once the kubelet has told its id.
    pub container: Option<usize>,
}

impl Found {
    /// The container.
    #[must_use]
    pub fn container(&self) -> Option<&PodContainer> {
        self.pod.containers.get(self.container?)
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> PodName {
        PodName {
            uid: self.pod.uid.clone(),
            namespace: self.pod.namespace.clone(),
            name: self.pod.name.clone(),
            container: self.container().map(|container| container.name.clone()),
        }
    }
}

/// All pods of the node, and what its namespaces and the node itself ask for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pods {
    by_uid: HashMap<String, Arc<Pod>>,
    by_container: HashMap<String, Found>,
    /// Annotations of namespaces that have some of ours, by name.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Those of the node.
    pub node: BTreeMap<String, String>,
}

impl Pods {
    /// Of these pods. An id that two of them claim is neither one's: no pod gets at another's processes by claiming its ids.
    #[must_use]
    pub fn new(pods: impl IntoIterator<Item = Arc<Pod>>) -> Self {
        let mut all = Self::default();
        let mut claimed_twice = (HashSet::new(), HashSet::new());
        for pod in pods {
            for (number, container) in pod.containers.iter().enumerate() {
                let Some(id) = &container.id else { continue };
                let found = Found {
                    pod: pod.clone(),
                    container: Some(number),
                };
                if all.by_container.insert(id.clone(), found).is_some() {
                    claimed_twice.0.insert(id.clone());
                }
            }
            let uid = pod.cgroup_uid.clone();
            if all.by_uid.insert(uid.clone(), pod).is_some() {
                claimed_twice.1.insert(uid);
            }
        }
        all.by_container
            .retain(|id, _| !claimed_twice.0.contains(id));
        all.by_uid.retain(|uid, _| !claimed_twice.1.contains(uid));
        all
    }

    /// The pod and container of a process; nothing if the path's two ids belong to different pods.
    #[must_use]
    pub fn find(&self, seat: &Seat) -> Option<Found> {
        let known = self.by_container.get(&seat.container);
        let Some(uid) = &seat.uid else {
            return known.cloned();
        };
        match known {
            Some(found) => (found.pod.cgroup_uid == *uid).then(|| found.clone()),
            // The kubelet tells of a container's id a moment after its start.
            None => Some(Found {
                pod: self.by_uid.get(uid)?.clone(),
                container: None,
            }),
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_uid.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, name: &str, container: Option<&str>) -> Arc<Pod> {
        Arc::new(Pod {
            uid: uid.into(),
            cgroup_uid: uid.into(),
            namespace: "shop".into(),
            name: name.into(),
            containers: vec![PodContainer {
                name: "proxy".into(),
                id: container.map(str::to_owned),
                ..PodContainer::default()
            }],
            ..Pod::default()
        })
    }

    fn seat(uid: Option<&str>, container: &str) -> Seat {
        Seat {
            uid: uid.map(str::to_owned),
            container: container.into(),
        }
    }

    #[test]
    fn a_pod_is_found_by_its_ids() {
        let pods = Pods::new([pod("u1", "a", Some("c1")), pod("u2", "a", None)]);
        let found = pods.find(&seat(Some("u1"), "c1")).unwrap().name();
        assert_eq!(
            (found.uid.as_str(), found.container),
            ("u1", Some("proxy".into()))
        );
        // Its container's id is not known yet: the pod is.
        let found = pods.find(&seat(Some("u2"), "c2")).unwrap().name();
        assert_eq!((found.uid.as_str(), found.container), ("u2", None));
        let found = pods.find(&seat(None, "c1")).unwrap().name();
        assert_eq!(found.uid, "u1");
        assert_eq!(pods.find(&seat(Some("u3"), "c3")), None);
        assert_eq!(pods.find(&seat(None, "c3")), None);
    }

    #[test]
    fn an_id_that_two_pods_claim_is_neither_ones() {
        let honest = pod("u1", "a", Some("c1"));
        let claims = |uid: &str, container: &str| {
            let mut thief = Pod::clone(&pod("u2", "b", Some(container)));
            thief.cgroup_uid = uid.into();
            Pods::new([honest.clone(), Arc::new(thief)])
        };
        let seat_of_honest = seat(Some("u1"), "c1");
        // Its container's id is its own still.
        let found = claims("u1", "c2").find(&seat_of_honest).unwrap();
        assert_eq!(found.pod.uid, "u1");
        assert_eq!(claims("u1", "c2").find(&seat(Some("u1"), "new")), None);
        // The kubelet alone writes ids of containers; if two pods have the same, nothing is known.
        assert_eq!(claims("u2", "c1").find(&seat(None, "c1")), None);
    }

    #[test]
    fn ids_of_two_pods_in_one_path_are_nobodys() {
        let pods = Pods::new([pod("u1", "a", Some("c1")), pod("u2", "b", Some("c2"))]);
        assert_eq!(pods.find(&seat(Some("u2"), "c1")), None);
    }
}
