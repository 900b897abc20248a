//! Requests that wait for a collector: bounded by bytes, the oldest are given up first.
//!
//! Pushing never waits. What is given up is counted in items (data points or log records).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::otlp::Batch;
use crate::pipeline::IncidentId;

/// Bytes that wait at most: some minutes of a large node while a collector restarts.
pub const MAX_BYTES: usize = 16 << 20;

/// The queue of one signal.
#[derive(Debug)]
pub struct Queue {
    max_bytes: usize,
    state: Mutex<State>,
    ready: Notify,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Batch>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            state: Mutex::default(),
            ready: Notify::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Appends requests, giving up the oldest ones where there is no room. The answer is which incidents' ends were among those.
    pub fn push(&self, batches: impl IntoIterator<Item = Batch>) -> Vec<IncidentId> {
        let mut given_up = Vec::new();
        let mut state = self.state();
        for batch in batches {
            state.bytes += batch.body.len();
            state.batches.push_back(batch);
        }
        while state.bytes > self.max_bytes {
            let Some(oldest) = state.batches.pop_front() else {
                break;
            };
            state.bytes -= oldest.body.len();
            self.give_up(oldest.items);
            given_up.extend(oldest.ends);
        }
        drop(state);
        self.ready.notify_one();
        given_up
    }

    /// The next request; `None` when the queue is closed and empty. For one reader.
    pub async fn next(&self) -> Option<Batch> {
        loop {
            {
                let mut state = self.state();
                if let Some(batch) = state.batches.pop_front() {
                    state.bytes -= batch.body.len();
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Nothing more comes.
    pub fn close(&self) {
        self.state().closed = true;
        self.ready.notify_one();
    }

    /// Requests that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().batches.len()
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts items that were given up.
    pub fn give_up(&self, items: u64) {
        self.dropped.fetch_add(items, Ordering::Relaxed);
    }

    /// Items given up so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn batch(first: u8, bytes: usize) -> Batch {
        Batch {
            body: Bytes::from(vec![first; bytes]),
            items: 10,
            ends: vec![IncidentId(first.into())],
        }
    }

    #[tokio::test]
    async fn the_oldest_are_given_up_and_counted() {
        let queue = Queue::new(100);
        let given_up = queue.push([batch(1, 40), batch(2, 40), batch(3, 40)]);
        assert_eq!(given_up, [IncidentId(1)]);
        assert_eq!((queue.len(), queue.dropped()), (2, 10));
        queue.push([batch(4, 1000)]);
        assert_eq!(
            (queue.len(), queue.dropped()),
            (0, 40),
            "one that can never fit is given up too"
        );
        queue.push([batch(5, 1)]);
        queue.close();
        assert_eq!(queue.next().await.map(|batch| batch.body[0]), Some(5));
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let queue = std::sync::Arc::new(Queue::new(100));
        let reader = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.push([batch(7, 1)]);
        assert!(reader.await.unwrap().is_some());
    }
}
