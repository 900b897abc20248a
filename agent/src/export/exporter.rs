//! Starts and ends the exporters, and takes notices.
//!
//! [`Exporter::notice`] is the only thing that other rooms call while the agent runs: it puts the notice into a bounded
//! channel and returns. One task takes them out; the senders and the page have tasks of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::delivery::{Deliveries, Delivery, EventSink};
use super::hub::{self, Hub};
use super::instruments::{Instruments, SERIES_LIMIT};
use super::otlp;
use super::page;
use super::queue::{MAX_BYTES, Queue};
use super::registry::Readers;
use super::sender::{self, Lane};
use super::settings::{Settings, Target};
use super::shared::Shared;
use super::source::{AgentSource, LoopSource};
use super::tls::TlsError;
use super::transport::{Signal, Transport};
use crate::pipeline::Notice;

/// Notices that wait at most: a storm of a large node.
const NOTICES: usize = 4096;

/// Why the exporters cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The page's address is taken, or not one of this machine.
    #[error(
        "cannot listen on {address} for /metrics: {source}; choose another export.metrics.listen"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What came back.
        source: std::io::Error,
    },
    /// Files for TLS.
    #[error("cannot export to {endpoint}: {source}")]
    Tls {
        /// Where to.
        endpoint: String,
        /// What came back.
        source: TlsError,
    },
}

/// The running exporters.
#[derive(Debug)]
pub struct Exporter {
    sender: NoticeSender,
    stop: oneshot::Sender<()>,
    resource: Resource,
    hub: JoinHandle<()>,
    senders: Vec<JoinHandle<()>>,
    page: Option<(SocketAddr, JoinHandle<()>)>,
}

/// Hands notices to the exporters; can be cloned into any thread.
#[derive(Debug, Clone)]
pub struct NoticeSender {
    channel: mpsc::Sender<Notice>,
    shared: Arc<Shared>,
}

impl NoticeSender {
    /// Takes a notice without waiting. Where the exporters are behind, it is dropped and counted.
    pub fn notice(&self, notice: Notice) {
        let ends = notice.ends();
        if self.channel.try_send(notice).is_err() {
            self.shared.notices_dropped.fetch_add(1, Ordering::Relaxed);
            if let (Some(incident), Some(lane)) = (ends, &self.shared.logs) {
                lane.told(Delivery::GivenUp, &[incident]);
            }
        }
    }
}

impl Exporter {
    /// Binds the page, reads certificates and starts the tasks. To be called inside a tokio runtime.
    pub async fn start(
        settings: Settings,
        loops: Arc<dyn LoopSource>,
        agent: Arc<dyn AgentSource>,
    ) -> Result<Self, StartError> {
        Self::start_told(settings, loops, agent, None).await
    }

    /// The same, telling what becomes of the ends of incidents.
    pub async fn start_told(
        settings: Settings,
        loops: Arc<dyn LoopSource>,
        agent: Arc<dyn AgentSource>,
        deliveries: Option<Deliveries>,
    ) -> Result<Self, StartError> {
        for warning in &settings.warnings {
            log::warn!("{warning}");
        }
        let readers = Readers {
            page: settings.metrics_listen.is_some(),
            otlp: settings.metrics.is_some(),
        };
        let metrics = lane("otlp_metrics", settings.metrics, Signal::Metrics, None)?;
        let logs = lane("otlp_logs", settings.logs, Signal::Logs, deliveries)?;
        let shared = Arc::new(Shared {
            instruments: Mutex::new(Instruments::new(readers, SERIES_LIMIT)),
            loops,
            agent,
            metrics: metrics.as_ref().map(|(lane, _)| Arc::clone(lane)),
            logs: logs.as_ref().map(|(lane, _)| Arc::clone(lane)),
            notices_dropped: AtomicU64::new(0),
            page_failures: AtomicU64::new(0),
        });
        let page = match settings.metrics_listen {
            Some(address) => Some(serve(address, &shared).await?),
            None => None,
        };
        let senders = [metrics, logs]
            .into_iter()
            .flatten()
            .map(|(lane, t)| tokio::spawn(sender::run(lane, t)));
        let (channel, notices) = mpsc::channel(NOTICES);
        let (stop, stopped) = oneshot::channel();
        let resource = otlp::resource(&with_host(settings.resource));
        let hub = Hub::new(Arc::clone(&shared), resource.clone(), settings.interval);
        Ok(Self {
            sender: NoticeSender { channel, shared },
            resource,
            stop,
            senders: senders.collect(),
            hub: tokio::spawn(hub::run(hub, notices, stopped)),
            page,
        })
    }

    /// Takes a notice without waiting, see [`NoticeSender::notice`].
    pub fn notice(&self, notice: Notice) {
        self.sender.notice(notice);
    }

    /// A way in for events of earlier incidents, where events are exported at all.
    #[must_use]
    pub fn events(&self) -> Option<EventSink> {
        let lane = self.sender.shared.logs.clone()?;
        let resource = self.resource.clone();
        Some(Arc::new(move |events| {
            lane.push(otlp::logs(events, &resource));
        }))
    }

    /// Another way in for notices.
    #[must_use]
    pub fn sender(&self) -> NoticeSender {
        self.sender.clone()
    }

    /// Where the page listens: the port that was given out if the setting says 0.
    #[must_use]
    pub fn page_address(&self) -> Option<SocketAddr> {
        self.page.as_ref().map(|(address, _)| *address)
    }

    /// Pushes what is left and ends, at the latest after `deadline`.
    pub async fn shutdown(self, deadline: Duration) {
        let _ = self.stop.send(());
        let aborts: Vec<_> = self.senders.iter().map(JoinHandle::abort_handle).collect();
        let rest = async {
            let _ = self.hub.await;
            for sender in self.senders {
                let _ = sender.await;
            }
        };
        if tokio::time::timeout(deadline, rest).await.is_err() {
            log::warn!(
                "not everything could be exported within {deadline:?}; the rest is given up"
            );
        }
        aborts.iter().for_each(tokio::task::AbortHandle::abort);
        if let Some((_, page)) = self.page {
            page.abort();
        }
    }
}

type LaneAndTransport = (Arc<Lane>, Transport);

fn lane(
    name: &'static str,
    target: Option<Target>,
    signal: Signal,
    deliveries: Option<Deliveries>,
) -> Result<Option<LaneAndTransport>, StartError> {
    let Some(target) = target else {
        return Ok(None);
    };
    let endpoint = target.endpoint.to_string();
    let transport =
        Transport::new(target, signal).map_err(|source| StartError::Tls { endpoint, source })?;
    let lane = Lane {
        name,
        queue: Queue::new(MAX_BYTES),
        failures: AtomicU64::new(0),
        // Metrics of an hour ago are in the next full push; an event is told once.
        patient: signal == Signal::Logs,
        deliveries,
    };
    Ok(Some((Arc::new(lane), transport)))
}

async fn serve(
    address: SocketAddr,
    shared: &Arc<Shared>,
) -> Result<(SocketAddr, JoinHandle<()>), StartError> {
    let listen = |source| StartError::Listen { address, source };
    let listener = page::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((bound, tokio::spawn(page::run(listener, Arc::clone(shared)))))
}

/// One agent a machine: its name tells the agents of a cluster apart.
fn with_host(mut resource: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    resource
        .entry("host.name".to_owned())
        .or_insert_with(|| host.clone());
    resource
        .entry("service.instance.id".to_owned())
        .or_insert(host);
    resource
}
