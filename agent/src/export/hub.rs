//! The task between the notices and the queues: counts every notice, and decides when a push goes out.
//!
//! Asleep without notices, but for one timer at the export interval, and none at all where metrics are not pushed. What
//! should not wait is pushed after [`pace::COALESCE`](super::pace::COALESCE), together with all that came meanwhile.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::delivery::{Delivery, Event};
use super::pace::Pace;
use super::registry::Extent;
use super::shared::Shared;
use super::{clock, event, otlp};
use crate::pipeline::Notice;

/// Log records that wait for the next push; more are given up and counted.
const RECORDS: usize = 2048;
/// Requests that may wait while the collector is slow before changes are left to the next full push.
const BACKLOG: usize = 8;

pub(super) struct Hub {
    shared: Arc<Shared>,
    resource: Resource,
    interval: Duration,
    pace: Pace,
    events: Vec<Event>,
}

impl Hub {
    pub(super) fn new(shared: Arc<Shared>, resource: Resource, interval: Duration) -> Self {
        Self {
            shared,
            resource,
            interval,
            pace: Pace::new(clock::now().mono),
            events: Vec::new(),
        }
    }

    /// Takes a notice; the answer is when to push, if it should not wait for the interval.
    fn notice(&mut self, notice: &Notice, due: Option<Instant>) -> Option<Instant> {
        let now = clock::now();
        let urgent = self.shared.notice(notice, now);
        let mut wanted = urgent && self.shared.metrics.is_some();
        if let Some(lane) = &self.shared.logs
            && let Some(event) = event::event(notice, now)
        {
            wanted = true;
            if self.events.len() < RECORDS {
                self.events.push(event);
            } else {
                lane.queue.give_up(1);
                lane.told(Delivery::GivenUp, event.ends.as_slice());
            }
        }
        match due {
            None if wanted => Some(moment() + self.pace.take(now.mono)),
            due => due,
        }
    }

    fn push(&mut self, extent: Extent) {
        if let Some(lane) = &self.shared.metrics
            && (extent == Extent::All || lane.queue.len() < BACKLOG)
        {
            lane.push(otlp::metrics(&self.shared.push(extent), &self.resource));
        }
        if let Some(lane) = &self.shared.logs {
            lane.push(otlp::logs(std::mem::take(&mut self.events), &self.resource));
        }
    }

    fn next_full(&self) -> Option<Instant> {
        self.shared
            .metrics
            .as_ref()
            .map(|_| moment() + self.interval)
    }
}

/// Runs until `stop` resolves; then takes what waits and pushes a last time.
pub(super) async fn run(
    mut hub: Hub,
    mut notices: mpsc::Receiver<Notice>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut soon: Option<Instant> = None;
    let mut full = hub.next_full();
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = at(full) => {
                hub.push(Extent::All);
                full = hub.next_full();
                soon = None;
            }
            () = at(soon) => {
                hub.push(Extent::Changed);
                soon = None;
            }
            Some(notice) = notices.recv() => soon = hub.notice(&notice, soon),
        }
    }
    notices.close();
    while let Some(notice) = notices.recv().await {
        hub.notice(&notice, None);
    }
    hub.push(Extent::All);
    for lane in [&hub.shared.metrics, &hub.shared.logs]
        .into_iter()
        .flatten()
    {
        lane.queue.close();
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn moment() -> Instant {
    Instant::now()
}
