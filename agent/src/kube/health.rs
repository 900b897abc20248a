//! How the connection to the API is: when it was last heard of, and what is not allowed. Written here, read by the exporters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::Error;

use super::backoff::Wrong;
use crate::kernel::clock;
use crate::pipeline::Mono;

/// What the API is used for; each needs rights of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Following the node's pods.
    Pods,
    /// Following annotations of namespaces.
    Namespaces,
    /// Following the node's annotations.
    Node,
    /// Writing Events.
    Events,
    /// Writing the condition of readiness gates.
    Conditions,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Pods,
        Self::Namespaces,
        Self::Node,
        Self::Events,
        Self::Conditions,
    ];

    /// Its name, as it is exported.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pods => "kubernetes.pods",
            Self::Namespaces => "kubernetes.namespaces",
            Self::Node => "kubernetes.node",
            Self::Events => "kubernetes.events",
            Self::Conditions => "kubernetes.engine_ready",
        }
    }

    /// What it needs, and what is missing without it.
    const fn needs(self) -> &'static str {
        match self {
            Self::Pods => {
                "it needs list and watch of pods; until then no pod is known, and the configuration alone holds"
            }
            Self::Namespaces => {
                "it needs list and watch of namespaces; without, annotations of namespaces have no effect"
            }
            Self::Node => {
                "it needs list and watch of nodes; without, annotations of the node have no effect"
            }
            Self::Events => {
                "it needs create and patch of events in events.k8s.io; without, no Events are written"
            }
            Self::Conditions => {
                "it needs patch of pods/status; without, pods with the readiness gate stay out of service"
            }
        }
    }
}

/// What is wrong with one use of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What came back.
    pub error: String,
    /// It is not allowed; nothing else is wrong.
    pub forbidden: bool,
}

/// How it goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is known of the pods is so old; nothing before the first answer.
    pub age: Option<Duration>,
    /// Pods known.
    pub pods: u64,
    /// Lists begun anew because a watch could not go on.
    pub relists: u64,
    /// Requests and watches that failed.
    pub errors: u64,
    /// Events written.
    pub events: u64,
    /// Events not written, because they were too many or the API refused them.
    pub events_lost: u64,
    /// What is wrong, by use.
    pub trouble: BTreeMap<&'static str, Trouble>,
    /// Uses that are asked for.
    pub uses: Vec<&'static str>,
}

/// Shared state.
#[derive(Debug)]
pub struct Health {
    contact: AtomicU64,
    pods: AtomicU64,
    relists: AtomicU64,
    errors: AtomicU64,
    events: AtomicU64,
    events_lost: AtomicU64,
    trouble: Mutex<BTreeMap<Feature, Trouble>>,
    writes: Writes,
}

/// What is written, beside what is read in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writes {
    /// Events.
    pub events: bool,
    /// The condition of readiness gates.
    pub engine_ready: bool,
}

impl Health {
    pub(super) fn new(writes: Writes) -> Self {
        Self {
            contact: AtomicU64::new(0),
            pods: AtomicU64::new(0),
            relists: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            events: AtomicU64::new(0),
            events_lost: AtomicU64::new(0),
            trouble: Mutex::default(),
            writes,
        }
    }

    /// The API has answered a request for this: what is known is current.
    pub(super) fn answered(&self, feature: Feature) {
        if feature == Feature::Pods {
            self.contact.store(clock::now().0, Ordering::Relaxed);
        }
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.remove(&feature).is_some() {
            log::warn!("{}: the Kubernetes API answers again", feature.name());
        }
    }

    pub(super) fn knows(&self, pods: usize) {
        self.pods.store(pods as u64, Ordering::Relaxed);
    }

    pub(super) fn relisted(&self) {
        self.relists.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn wrote_event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lost_event(&self) {
        self.events_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// A use of the API failed; said once for each error. The answer is what kind of failure it was.
    pub(super) fn failed(&self, feature: Feature, error: &Error) -> Wrong {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let status = match error {
            Error::Api(status) => Some(status.code),
            _ => None,
        };
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        // The outermost error says little more than that there was one.
        while let Some(inner) = source {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                text = format!("{text}: {inner_text}");
            }
            source = inner.source();
        }
        self.trouble_is(feature, text, status == Some(403));
        if status.is_some() {
            Wrong::Refused
        } else {
            Wrong::NoAnswer
        }
    }

    pub(super) fn trouble_is(&self, feature: Feature, error: String, forbidden: bool) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Trouble { error, forbidden };
        let before = trouble.insert(feature, now.clone());
        // The same outage has many faces: it is told when it begins, and when it turns out to be a matter of rights.
        if before.is_none_or(|before| !before.forbidden && forbidden) {
            let (name, error) = (feature.name(), &now.error);
            if forbidden {
                log::warn!(
                    "{name}: the Kubernetes API refuses: {error}; {}",
                    feature.needs()
                );
            } else {
                log::warn!(
                    "{name}: the Kubernetes API cannot be reached: {error}; what was last heard holds, and it is tried again and again"
                );
            }
        }
    }

    /// How it goes now.
    #[must_use]
    pub fn report(&self) -> Report {
        let contact = Mono(self.contact.load(Ordering::Relaxed));
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = Feature::ALL.iter();
        let uses = uses.filter(|feature| match feature {
            Feature::Events => self.writes.events,
            Feature::Conditions => self.writes.engine_ready,
            _ => true,
        });
        Report {
            age: (contact.0 > 0).then(|| clock::now().since(contact)),
            pods: self.pods.load(Ordering::Relaxed),
            relists: self.relists.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
            events_lost: self.events_lost.load(Ordering::Relaxed),
            trouble: trouble
                .iter()
                .map(|(feature, trouble)| (feature.name(), trouble.clone()))
                .collect(),
            uses: uses.map(|feature| feature.name()).collect(),
        }
    }
}
