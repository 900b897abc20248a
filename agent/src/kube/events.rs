//! Kubernetes Events on pods: what `kubectl describe pod` shows.
//!
//! The same reason on the same pod within six minutes is one Event with a count (`kube`'s recorder does that). Beyond a burst, a pod gets
//! one write in ten seconds and the node five in a second; what is more is counted. Nothing waits for a write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::backoff::{Backoff, Wrong};
use super::health::{Feature, Health};
use crate::kernel::clock;
use crate::pipeline::Mono;
use crate::pipeline::pod::PodEvent;

/// Events that wait to be written.
const QUEUE: usize = 256;
/// One that could not be written for so long is given up.
const STALE: Duration = Duration::from_mins(5);
/// The API takes no more bytes of a note.
const LONGEST: usize = 1024;

const POD: Rate = Rate {
    burst: 10.0,
    per_second: 0.1,
};
const NODE: Rate = Rate {
    burst: 100.0,
    per_second: 5.0,
};
/// Pods whose rate is remembered.
const PODS: usize = 1024;

/// Leaves Events to be written.
#[derive(Debug, Clone)]
pub struct EventSender {
    sender: Sender<(Mono, PodEvent)>,
    health: Arc<Health>,
}

/// What was left.
pub(super) type Wanted = Receiver<(Mono, PodEvent)>;

impl EventSender {
    pub(super) fn channel(health: Arc<Health>) -> (Self, Wanted) {
        let (sender, wanted) = channel(QUEUE);
        (Self { sender, health }, wanted)
    }

    /// Leaves one. Does not wait; what finds no room is counted.
    pub fn send(&self, event: PodEvent) {
        if self.sender.try_send((clock::now(), event)).is_err() {
            self.health.lost_event();
        }
    }
}

/// Writes what is left, until nobody leaves anything.
pub(super) async fn write(client: Client, node: String, mut wanted: Wanted, health: Arc<Health>) {
    let reporter = Reporter {
        controller: "loopwarden.dev/agent".into(),
        instance: Some(node),
    };
    let recorder = Recorder::new(client, reporter);
    let mut limiter = Limiter::new(clock::now());
    while let Some((at, event)) = wanted.recv().await {
        if limiter.admits(&event.pod.uid, clock::now()) {
            write_one(&recorder, &event, at, &health).await;
        } else {
            health.lost_event();
        }
    }
}

async fn write_one(recorder: &Recorder, event: &PodEvent, at: Mono, health: &Health) {
    let pod = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(event.pod.name.clone()),
        namespace: Some(event.pod.namespace.clone()),
        uid: Some(event.pod.uid.clone()),
        // Where `kubectl` looks for the container.
        field_path: event
            .pod
            .container
            .as_ref()
            .map(|name| format!("spec.containers{{{name}}}")),
        ..ObjectReference::default()
    };
    let written = Event {
        type_: if event.is_warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: event.reason.into(),
        note: Some(cut(&event.note)),
        action: event.action.into(),
        secondary: None,
    };
    let mut backoff = Backoff::default();
    loop {
        let Err(error) = recorder.publish(&written, &pod).await else {
            health.wrote_event();
            return;
        };
        let wrong = health.failed(Feature::Events, &error);
        let is_old = clock::now().since(at) > STALE;
        // What is refused once is refused again: the pod's namespace may be gone.
        if wrong == Wrong::Refused || is_old {
            return health.lost_event();
        }
        tokio::time::sleep(backoff.next(wrong, fastrand::f64())).await;
    }
}

fn cut(note: &str) -> String {
    let mut end = note.len().min(LONGEST);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    counted: Mono,
}

impl Bucket {
    fn full(rate: Rate, now: Mono) -> Self {
        Self {
            tokens: rate.burst,
            counted: now,
        }
    }

    fn fill(&mut self, rate: Rate, now: Mono) -> bool {
        let earned = now.since(self.counted).as_secs_f64() * rate.per_second;
        self.tokens = (self.tokens + earned).min(rate.burst);
        self.counted = now;
        self.tokens >= 1.0
    }
}

/// How many Events a pod and the node may get.
#[derive(Debug)]
struct Limiter {
    node: Bucket,
    pods: HashMap<String, Bucket>,
}

impl Limiter {
    fn new(now: Mono) -> Self {
        Self {
            node: Bucket::full(NODE, now),
            pods: HashMap::new(),
        }
    }

    fn admits(&mut self, pod: &str, now: Mono) -> bool {
        if self.pods.len() >= PODS {
            // Whose bucket is full is as good as one that was never seen.
            self.pods.retain(|_, bucket| {
                bucket.fill(POD, now);
                bucket.tokens < POD.burst
            });
        }
        let bucket = self.pods.entry(pod.to_owned());
        let bucket = bucket.or_insert_with(|| Bucket::full(POD, now));
        let admits = bucket.fill(POD, now) && self.node.fill(NODE, now);
        if admits {
            bucket.tokens -= 1.0;
            self.node.tokens -= 1.0;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(limiter: &mut Limiter, pod: &str, tries: usize, now: Mono) -> usize {
        (0..tries).filter(|_| limiter.admits(pod, now)).count()
    }

    #[test]
    fn a_pod_gets_a_burst_and_then_one_in_ten_seconds() {
        let start = Mono(1_000_000_000);
        let mut limiter = Limiter::new(start);
        assert_eq!(count(&mut limiter, "a", 50, start), 10);
        let later = start.plus(Duration::from_secs(31));
        assert_eq!(count(&mut limiter, "a", 50, later), 3);
        // Another pod's noise is its own.
        assert_eq!(count(&mut limiter, "b", 50, later), 10);
    }

    #[test]
    fn the_node_has_a_limit_too_and_remembers_few_pods() {
        let start = Mono(1_000_000_000);
        let mut limiter = Limiter::new(start);
        let mut admitted = 0;
        for pod in 0..3000 {
            admitted += count(&mut limiter, &pod.to_string(), 1, start);
        }
        assert_eq!(admitted, 100);
        assert!(limiter.pods.len() <= PODS, "{}", limiter.pods.len());
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        let note = "ä".repeat(1000);
        assert_eq!(cut(&note).len(), 1024);
        assert_eq!(cut("short"), "short");
    }
}
