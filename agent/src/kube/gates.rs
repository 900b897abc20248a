//! The pod condition `loopwarden.dev/engine-ready`, for pods that name it among their readiness gates.
//!
//! Off by default, and the one thing that outlives the agent: a pod with the gate that nobody opens stays out of service. What the
//! condition is to say is decided in `pipeline::gate`; here it is kept that way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::backoff::{Backoff, Wrong};
use super::health::{Feature, Health};
use crate::kernel::clock;
use crate::pipeline::engines::EngineReady;
use crate::pipeline::gate::{CONDITION, Gate, UNKNOWN_AFTER, Verdict, verdict};
use crate::pipeline::pod::{Pod, Pods};
use crate::pipeline::{LoopId, Mono, PidKey, Tid};

/// Facts that wait to be looked at.
const QUEUE: usize = 8192;
/// So often all gates are looked at, whatever happens: a condition may have been changed by somebody else.
const AGAIN: Duration = Duration::from_secs(10);
/// An engine may come and go many times in a second; its pod's condition is written once, and says then how it is.
const PACE: Duration = Duration::from_secs(1);
/// A condition that was written is in the next picture of the pods by then.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Something about a loop's process.
#[derive(Debug)]
enum Fact {
    Ready(PidKey, EngineReady),
    /// It runs in the pod of this uid.
    Placed(PidKey, String),
    Began(LoopId),
    Ended(LoopId),
}

/// Tells what is known of engines.
#[derive(Debug, Clone)]
pub struct GateSender(mpsc::Sender<Fact>);

/// What was told.
pub(super) struct Facts(mpsc::Receiver<Fact>);

impl GateSender {
    pub(super) fn channel() -> (Self, Facts) {
        let (sender, facts) = mpsc::channel(QUEUE);
        (Self(sender), Facts(facts))
    }

    /// A loop's process, which runs in the pod of this uid if that is known, has an engine that accepts, or has not.
    pub fn ready(&self, process: PidKey, pod: Option<&str>, ready: EngineReady) {
        if let Some(pod) = pod {
            self.placed(process, pod);
        }
        self.send(Fact::Ready(process, ready));
    }

    /// It is known now in which pod a loop's process runs.
    pub fn placed(&self, process: PidKey, pod: &str) {
        self.send(Fact::Placed(process, pod.to_owned()));
    }

    /// A loop is watched.
    pub fn began(&self, id: LoopId) {
        self.send(Fact::Began(id));
    }

    /// A loop is not watched any more.
    pub fn ended(&self, id: LoopId) {
        self.send(Fact::Ended(id));
    }

    fn send(&self, fact: Fact) {
        if let Err(error) = self.0.try_send(fact) {
            log::error!(
                "news of an engine found no room among {QUEUE} that wait to be told on pods ({error}): a condition engine-ready may be old until the engine's next change"
            );
        }
    }
}

#[derive(Debug, Default)]
struct Process {
    /// What is known of it is known until the last of them has ended.
    loops: HashSet<Tid>,
    ready: Option<EngineReady>,
    pod: Option<String>,
}

/// What is known of one gated pod beside what the API says.
#[derive(Debug)]
struct Known {
    since: Mono,
    /// What was written last, and when.
    written: Option<(Gate, Mono)>,
    /// It is not written again before then.
    not_before: Mono,
    backoff: Backoff,
}

#[derive(Debug, Default)]
struct Gates {
    processes: HashMap<PidKey, Process>,
    pods: HashMap<String, Known>,
}

impl Gates {
    fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Ready(process, ready) => {
                self.processes.entry(process).or_default().ready = Some(ready);
            }
            Fact::Placed(process, pod) => {
                self.processes.entry(process).or_default().pod = Some(pod);
            }
            Fact::Began(id) => {
                let process = self.processes.entry(id.process).or_default();
                process.loops.insert(id.tid);
            }
            Fact::Ended(id) => {
                let known = self.processes.get_mut(&id.process);
                let goes_on = known.is_some_and(|process| {
                    process.loops.remove(&id.tid);
                    !process.loops.is_empty()
                });
                if !goes_on {
                    self.processes.remove(&id.process);
                }
            }
        }
    }

    fn of(&self, uid: &str) -> Vec<EngineReady> {
        let of_pod = |process: &&Process| process.pod.as_deref() == Some(uid);
        let processes = self.processes.values().filter(of_pod);
        processes.filter_map(|process| process.ready).collect()
    }

    /// What is to be written now, and when to look again at the latest.
    fn due(&mut self, pods: &Pods, now: Mono) -> (Vec<(Arc<Pod>, Verdict)>, Duration) {
        let gated: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod.gate.is_some()).collect();
        self.pods
            .retain(|uid, _| gated.iter().any(|pod| pod.uid == *uid));
        let mut wanted = Vec::new();
        let mut again = AGAIN;
        for pod in gated {
            let ready = self.of(&pod.uid);
            let known = self.pods.entry(pod.uid.clone()).or_insert(Known {
                since: now,
                written: None,
                not_before: now,
                backoff: Backoff::default(),
            });
            if now < known.not_before {
                again = again.min(known.not_before.since(now));
                continue;
            }
            let fresh = known
                .written
                .as_ref()
                .filter(|(_, at)| now.since(*at) < SEEN_WITHIN);
            let gate = fresh.map(|(gate, _)| gate).or(pod.gate.as_ref());
            let waited = now.since(known.since);
            if let Some(gate) = gate
                && let Some(verdict) = verdict(&ready, waited, gate)
            {
                wanted.push((pod.clone(), verdict));
            }
            let left = UNKNOWN_AFTER.saturating_sub(waited);
            if !left.is_zero() {
                again = again.min(left);
            }
        }
        (wanted, again)
    }

    fn wrote(&mut self, uid: &str, verdict: &Verdict, now: Mono) {
        if let Some(known) = self.pods.get_mut(uid) {
            let gate = Gate {
                status: Some(verdict.status),
                reason: verdict.reason.to_owned(),
            };
            known.written = Some((gate, now));
            known.not_before = now.plus(PACE);
            known.backoff.reset();
        }
    }

    /// It was refused.
    fn refused(&mut self, uid: &str, now: Mono) {
        if let Some(known) = self.pods.get_mut(uid) {
            known.not_before = now.plus(known.backoff.next(Wrong::Refused, fastrand::f64()));
        }
    }
}

/// Keeps the conditions as they are to be, until nobody tells of engines or pods any more.
pub(super) async fn keep(
    client: Client,
    mut facts: Facts,
    mut pods: watch::Receiver<Arc<Pods>>,
    health: Arc<Health>,
) {
    let mut gates = Gates::default();
    let mut backoff = Backoff::default();
    let mut due = Instant::now();
    let mut silent_until = due;
    loop {
        tokio::select! {
            fact = facts.0.recv() => match fact {
                Some(fact) => gates.take(fact),
                None => return,
            },
            changed = pods.changed() => if changed.is_err() { return },
            () = sleep_until(due) => {}
        }
        if Instant::now() < silent_until {
            // Nobody answers: what is told meanwhile is only noted.
            due = silent_until;
            continue;
        }
        let picture = pods.borrow_and_update().clone();
        let (wanted, again) = gates.due(&picture, clock::now());
        due = Instant::now() + again;
        for (pod, verdict) in wanted {
            let written = write(&client, &pod, &verdict).await;
            let now = clock::now();
            match written {
                Ok(()) => {
                    backoff.reset();
                    gates.wrote(&pod.uid, &verdict, now);
                }
                // The pod is gone, or another one has its name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    gates.refused(&pod.uid, now);
                }
                Err(error) => match health.failed(Feature::Conditions, &error) {
                    Wrong::Refused => {
                        gates.refused(&pod.uid, now);
                        due = Instant::now();
                    }
                    Wrong::NoAnswer => {
                        // The others would wait for nothing, too.
                        let wait = backoff.next(Wrong::NoAnswer, fastrand::f64());
                        silent_until = Instant::now() + wait;
                        due = silent_until;
                        break;
                    }
                },
            }
        }
    }
}

/// The uid keeps the condition from a new pod of the same name.
async fn write(client: &Client, pod: &Pod, verdict: &Verdict) -> Result<(), kube::Error> {
    let condition = json!({
        "type": CONDITION,
        "status": if verdict.status { "True" } else { "False" },
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": Timestamp::now().to_string(),
    });
    let patch = json!({
        "metadata": { "uid": pod.uid },
        "status": { "conditions": [condition] },
    });
    let pods: Api<api::Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let patched = pods
        .patch_status(
            &pod.name,
            &PatchParams::default(),
            &Patch::Strategic(&patch),
        )
        .await;
    patched.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Pid;

    fn pods(gate: Option<Gate>) -> Pods {
        Pods::new([Arc::new(Pod {
            uid: "u1".into(),
            cgroup_uid: "u1".into(),
            gate,
            ..Pod::default()
        })])
    }

    fn process(pid: u32) -> PidKey {
        PidKey {
            pid: Pid(pid),
            start_ns: 1,
        }
    }

    fn reasons(wanted: &[(Arc<Pod>, Verdict)]) -> Vec<&'static str> {
        wanted.iter().map(|(_, verdict)| verdict.reason).collect()
    }

    const STARTING: EngineReady = EngineReady::Starting {
        since: Mono(1),
        refused: None,
    };

    #[test]
    fn a_condition_follows_the_engines_of_the_pod() {
        let mut gates = Gates::default();
        let start = Mono(1_000_000_000);
        let unset = pods(Some(Gate::default()));
        assert_eq!(reasons(&gates.due(&unset, start).0), [""; 0]);
        // The pod of a process is learnt after its engine; another pod's engines do not count.
        gates.take(Fact::Ready(process(1), STARTING));
        gates.take(Fact::Ready(process(2), EngineReady::Accepts));
        gates.take(Fact::Placed(process(2), "u2".into()));
        assert_eq!(reasons(&gates.due(&unset, start).0), [""; 0]);
        gates.take(Fact::Placed(process(1), "u1".into()));
        let (wanted, _) = gates.due(&unset, start);
        assert_eq!(reasons(&wanted), ["EngineStarting"]);
        gates.wrote("u1", &wanted[0].1, start);
        // The API has not told of it yet.
        assert_eq!(reasons(&gates.due(&unset, start).0), [""; 0]);
        gates.take(Fact::Ready(process(1), EngineReady::Accepts));
        let later = start.plus(PACE);
        assert_eq!(reasons(&gates.due(&unset, later).0), ["EngineAccepts"]);
    }

    #[test]
    fn a_pod_whose_engines_come_and_go_costs_the_api_a_write_a_second() {
        let mut gates = Gates::default();
        gates.take(Fact::Placed(process(1), "u1".into()));
        let unset = pods(Some(Gate::default()));
        let start = Mono(1_000_000_000);
        let mut writes = 0;
        for step in 0..400_u64 {
            let now = start.plus(Duration::from_millis(step * 10));
            let ready = [STARTING, EngineReady::Accepts][usize::from(step / 3 % 2 == 0)];
            gates.take(Fact::Ready(process(1), ready));
            let (wanted, again) = gates.due(&unset, now);
            for (_, verdict) in &wanted {
                gates.wrote("u1", verdict, now);
                writes += 1;
            }
            assert!(again <= AGAIN, "{again:?}");
        }
        assert!((4..=5).contains(&writes), "{writes}");
        // What it is in the end is written soon.
        gates.take(Fact::Ready(process(1), EngineReady::Accepts));
        let now = start.plus(Duration::from_secs(4));
        let (_, again) = gates.due(&unset, now);
        assert!(again <= PACE, "{again:?}");
        let (wanted, _) = gates.due(&unset, now.plus(PACE));
        assert_eq!(reasons(&wanted), ["EngineAccepts"]);
    }

    #[test]
    fn what_could_not_be_written_is_not_tried_at_every_news() {
        let mut gates = Gates::default();
        gates.take(Fact::Placed(process(1), "u1".into()));
        gates.take(Fact::Ready(process(1), STARTING));
        let unset = pods(Some(Gate::default()));
        let start = Mono(1_000_000_000);
        assert_eq!(gates.due(&unset, start).0.len(), 1);
        gates.refused("u1", start);
        let soon = start.plus(Duration::from_millis(100));
        assert_eq!(gates.due(&unset, soon).0.len(), 0);
        let later = start.plus(Duration::from_millis(250));
        assert_eq!(gates.due(&unset, later).0.len(), 1);
        for _ in 0..20 {
            gates.refused("u1", later);
        }
        let (wanted, again) = gates.due(&unset, later.plus(AGAIN));
        assert_eq!(wanted.len(), 0);
        assert!(!again.is_zero() && again <= AGAIN, "{again:?}");
        let later = later.plus(Duration::from_secs(30));
        assert_eq!(gates.due(&unset, later).0.len(), 1);
    }

    #[test]
    fn a_process_is_known_until_its_last_loop_has_ended() {
        let mut gates = Gates::default();
        let of = |tid| LoopId {
            process: process(1),
            tid: Tid(tid),
        };
        for fact in [
            Fact::Began(of(1)),
            Fact::Began(of(2)),
            Fact::Placed(process(1), "u1".into()),
            Fact::Ready(process(1), STARTING),
            Fact::Ended(of(2)),
        ] {
            gates.take(fact);
        }
        assert_eq!(gates.of("u1"), [STARTING]);
        gates.take(Fact::Ended(of(1)));
        assert_eq!(gates.of("u1"), []);
        assert!(gates.processes.is_empty());
    }

    #[test]
    fn what_somebody_else_has_changed_is_put_right() {
        let mut gates = Gates::default();
        let start = Mono(1_000_000_000);
        gates.take(Fact::Placed(process(1), "u1".into()));
        gates.take(Fact::Ready(process(1), STARTING));
        let unset = pods(Some(Gate::default()));
        let (wanted, _) = gates.due(&unset, start);
        gates.wrote("u1", &wanted[0].1, start);
        let changed = pods(Some(Gate {
            status: Some(true),
            reason: "SomebodyElse".into(),
        }));
        let later = start.plus(SEEN_WITHIN);
        assert_eq!(reasons(&gates.due(&changed, later).0), ["EngineStarting"]);
    }

    #[test]
    fn pods_without_the_gate_are_left_alone() {
        let mut gates = Gates::default();
        gates.take(Fact::Placed(process(1), "u1".into()));
        gates.take(Fact::Ready(process(1), STARTING));
        assert_eq!(reasons(&gates.due(&pods(None), Mono(1)).0), [""; 0]);
    }

    #[test]
    fn a_pod_of_which_nothing_is_told_is_looked_at_again_in_time() {
        let mut gates = Gates::default();
        let start = Mono(1_000_000_000);
        let unset = pods(Some(Gate::default()));
        gates.due(&unset, start);
        let (_, again) = gates.due(&unset, start.plus(Duration::from_secs(55)));
        assert_eq!(again, Duration::from_secs(5));
        let (wanted, _) = gates.due(&unset, start.plus(Duration::from_mins(1)));
        assert_eq!(reasons(&wanted), ["EngineUnknown"]);
    }
}
