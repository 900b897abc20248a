//! The task that carries one queue to its collector, with retries.
//!
//! It sleeps while the queue is empty: no timer runs then. A collector that is slow or dead costs this task time and
//! nobody else. What cannot be delivered is given up and counted, and whoever keeps the journal is told.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::delivery::{Deliveries, Delivery};
use super::otlp::Batch;
use super::queue::Queue;
use super::transport::{Retry, Transport};
use crate::pipeline::IncidentId;

/// First wait between tries; doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait of our own: the first push after an outage should not come much later than the collector.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Tries of one request of metrics: some five minutes, past which it keeps newer ones waiting for nothing.
const TRIES: u32 = 30;

/// What the task reads, and the failures it counts.
pub(super) struct Lane {
    pub(super) name: &'static str,
    pub(super) queue: Queue,
    pub(super) failures: AtomicU64,
    /// Nothing is given up because a collector is away for long: only where there is no more room.
    pub(super) patient: bool,
    pub(super) deliveries: Option<Deliveries>,
}

impl Lane {
    /// Queues requests; the oldest may be given up for them.
    pub(super) fn push(&self, batches: Vec<Batch>) {
        let given_up = self.queue.push(batches);
        self.told(Delivery::GivenUp, &given_up);
    }

    /// Says what became of the ends of incidents.
    pub(super) fn told(&self, delivery: Delivery, incidents: &[IncidentId]) {
        if let (Some(deliveries), false) = (&self.deliveries, incidents.is_empty()) {
            deliveries(delivery, incidents);
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

/// Sends until the queue is closed and empty.
pub(super) async fn run(lane: Arc<Lane>, mut transport: Transport) {
    let mut down = false;
    while let Some(batch) = lane.queue.next().await {
        deliver(&lane, &mut transport, batch, &mut down).await;
    }
}

async fn deliver(lane: &Lane, transport: &mut Transport, batch: Batch, down: &mut bool) {
    let tries = if lane.patient { u32::MAX } else { TRIES };
    for attempt in 0..tries {
        let failure = match transport.send(batch.body.clone()).await {
            Ok(answer) => {
                if std::mem::take(down) {
                    log::info!("{}: {} takes data again", lane.name, transport.endpoint());
                }
                if answer.rejected > 0 {
                    lane.failures.fetch_add(1, Ordering::Relaxed);
                    lane.queue.give_up(answer.rejected);
                    let (to, rejected, message) =
                        (transport.endpoint(), answer.rejected, answer.message);
                    log::warn!(
                        "{}: {to} refused {rejected} of {} items: {message}",
                        lane.name,
                        batch.items
                    );
                }
                lane.told(Delivery::Taken, &batch.ends);
                return;
            }
            Err(failure) => failure,
        };
        lane.failures.fetch_add(1, Ordering::Relaxed);
        let again = if failure.retry == Retry::Never {
            "this data is given up"
        } else {
            "trying again"
        };
        if !std::mem::replace(down, true) {
            log::warn!(
                "{}: cannot export to {}: {failure}; {again}",
                lane.name,
                transport.endpoint()
            );
        }
        match failure.retry {
            Retry::Never => {
                lane.told(Delivery::Refused, &batch.ends);
                break;
            }
            Retry::After(wait) => tokio::time::sleep(wait).await,
            Retry::Backoff => tokio::time::sleep(backoff(attempt, fastrand::f64())).await,
        }
    }
    lane.queue.give_up(batch.items);
}

/// Exponential, with `noise` (0 to 1) so that the agents of a cluster do not come back in step.
fn backoff(attempt: u32, noise: f64) -> Duration {
    let wait = FIRST_WAIT
        .saturating_mul(2u32.saturating_pow(attempt))
        .min(LONGEST_WAIT);
    wait.mul_f64(0.5 + noise / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        let waits: Vec<u64> = (0..6)
            .map(|attempt| backoff(attempt, 1.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff(40, 0.0), LONGEST_WAIT / 2);
    }
}
