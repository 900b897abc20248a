//! The Kubernetes API: the pods of this node, what they and what they are in ask for, and Events on them.
//!
//! Nothing here is waited for by the rescue: what was last heard holds until something newer is, and how old that is, is told
//! ([`Health`]). Lists and watches are `kube`'s; here they are bounded in time, put together to one picture of the node ([`Pods`]), and
//! passed on when that has changed. Whatever comes from the API is somebody else's text: it is bounded, and never trusted with more than
//! its own pod.

mod backoff;
mod client;
mod events;
mod follow;
mod gates;
mod health;
mod read;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

pub use events::EventSender;
pub use gates::GateSender;
pub use health::{Feature, Health, Report, Writes};

use crate::kernel::clock;
use crate::pipeline::pod::Pods;
use crate::pipeline::stamp::{Stamp, Tied};
use follow::Change;

/// Changes that wait to be put together.
const CHANGES: usize = 256;

/// How to reach the API, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A kubeconfig; none means the service account of the agent's own pod.
    pub kubeconfig: Option<PathBuf>,
    /// This node.
    pub node: String,
    /// What is written there.
    pub writes: Writes,
}

/// The connection to the API.
#[derive(Debug)]
pub struct Kube {
    health: Arc<Health>,
    events: EventSender,
    gates: Option<GateSender>,
    first: std::sync::mpsc::Receiver<()>,
}

impl Kube {
    /// Whether the agent runs in a pod with a service account.
    #[must_use]
    pub fn is_in_pod() -> bool {
        std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
            && std::path::Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
    }

    /// Starts following the node's pods; `changed` gets every new picture, from a thread of the runtime.
    pub fn start(
        runtime: &Handle,
        settings: Settings,
        changed: impl Fn(Arc<Pods>) + Send + Sync + 'static,
    ) -> Self {
        let health = Arc::new(Health::new(settings.writes));
        let (events, wanted) = EventSender::channel(health.clone());
        let (gates, facts) = GateSender::channel();
        let gates = settings.writes.engine_ready.then_some(gates);
        let (is_first, first) = std::sync::mpsc::sync_channel(1);
        let queues = (wanted, facts);
        runtime.spawn(run(settings, health.clone(), queues, is_first, changed));
        Self {
            health,
            events,
            gates,
            first,
        }
    }

    /// Waits for the first answer of the API, but no longer than that: what is told from the beginning then carries the pods' names.
    #[must_use]
    pub fn wait_for_first(&self, most: Duration) -> bool {
        self.first.recv_timeout(most).is_ok()
    }

    /// How it goes.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// Where to tell of engines, if pods are kept back while theirs start.
    #[must_use]
    pub fn gates(&self) -> Option<GateSender> {
        self.gates.clone()
    }

    /// Where Events are left to be written.
    #[must_use]
    pub fn events(&self) -> EventSender {
        self.events.clone()
    }
}

async fn run(
    settings: Settings,
    health: Arc<Health>,
    (wanted, facts): (events::Wanted, gates::Facts),
    is_first: std::sync::mpsc::SyncSender<()>,
    changed: impl Fn(Arc<Pods>) + Send + Sync + 'static,
) {
    let server = client::configure(&settings, &health).await;
    let (sender, changes) = mpsc::channel::<Change>(CHANGES);
    follow::start(&server, &settings.node, &health, &sender);
    drop(sender);
    let (picture, pictures) = watch::channel(Arc::new(Pods::default()));
    if settings.writes.engine_ready
        && let Some(client) = client::client(&server, Feature::Conditions, &health)
    {
        tokio::spawn(gates::keep(client, facts, pictures, health.clone()));
    }
    if settings.writes.events
        && let Some(client) = client::client(&server, Feature::Events, &health)
    {
        tokio::spawn(events::write(client, settings.node, wanted, health.clone()));
    }
    state::gather(changes, tied(), &health, move |pods| {
        // Where no gates are kept, nobody looks at it.
        let _ = picture.send(pods.clone());
        changed(pods);
        // Nobody may be waiting any more: one is enough.
        let _ = is_first.try_send(());
    })
    .await;
}

/// Both clocks at one moment. Kept for good: a time that the API names must not become another one with every reading of it.
fn tied() -> Tied {
    #[expect(
        clippy::disallowed_methods,
        reason = "times in the API are of the wall clock"
    )]
    let wall = SystemTime::now();
    let since_1970 = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    Tied {
        mono: clock::now(),
        wall: Stamp(u64::try_from(since_1970.as_micros()).unwrap_or(0)),
    }
}
