//! Following lists: `kube`'s watcher lists, watches, lists again where a watch has expired, and goes on after errors; here it is given
//! its pace.
//!
//! A watch is asked to end after half a minute and opened again where it was: each opening shows that what is known is current, and a
//! connection that died silently is noticed 5 s later.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource};
use tokio::sync::mpsc::Sender;

use super::backoff::{Backoff, Wrong};
use super::client::client;
use super::health::{Feature, Health};
use crate::pipeline::pod::{ANNOTATIONS, KEYS};

/// How long a watch lasts, in seconds. One request in this time for each of three lists is what a node costs the API.
const WATCH_S: u32 = 30;
/// Pods of a page of a list.
const PAGE: u32 = 500;

/// After so many failures in a row nobody waits for an answer any more.
const DOUBTED: u32 = 3;

/// What changed.
#[derive(Debug)]
pub(super) enum Change {
    /// These are all pods there are.
    Pods(Vec<Pod>),
    /// There is this pod now, or it is another.
    Pod(Box<Pod>),
    /// This one is gone.
    PodGone(Box<Pod>),
    /// Annotations of ours of all namespaces that have some.
    Namespaces(BTreeMap<String, BTreeMap<String, String>>),
    /// Those of one.
    Namespace(String, BTreeMap<String, String>),
    /// Those of the node.
    Node(BTreeMap<String, String>),
    /// This cannot be told, now or at all.
    Unknown(Feature),
}

/// Follows the pods of a node, its namespaces and the node itself.
pub(super) fn start(
    server: &kube::Config,
    node: &str,
    health: &Arc<Health>,
    changes: &Sender<Change>,
) {
    let config = || Config::default().timeout(WATCH_S).page_size(PAGE);
    let client = |feature| client(server, feature, health);
    let (health, changes) = (|| health.clone(), || changes.clone());
    if let Some(client) = client(Feature::Pods) {
        let of_node = config().fields(&format!("spec.nodeName={node}"));
        let pods = watcher(Api::<Pod>::all(client), of_node);
        tokio::spawn(follow(
            pods,
            Feature::Pods,
            health(),
            changes(),
            pods_changed,
        ));
    }
    if let Some(client) = client(Feature::Namespaces) {
        let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client), config());
        tokio::spawn(follow(
            namespaces,
            Feature::Namespaces,
            health(),
            changes(),
            namespaces_changed,
        ));
    }
    if let Some(client) = client(Feature::Node) {
        let itself = config().fields(&format!("metadata.name={node}"));
        let node = watcher(Api::<PartialObjectMeta<Node>>::all(client), itself);
        tokio::spawn(follow(
            node,
            Feature::Node,
            health(),
            changes(),
            node_changed,
        ));
    }
}

fn pods_changed(event: Followed<Pod>) -> Change {
    match event {
        Followed::All(pods) => Change::Pods(pods),
        Followed::One(pod) => Change::Pod(Box::new(pod)),
        Followed::Gone(pod) => Change::PodGone(Box::new(pod)),
    }
}

fn namespaces_changed(event: Followed<PartialObjectMeta<Namespace>>) -> Change {
    match event {
        Followed::All(all) => {
            let named = all.iter().map(named);
            Change::Namespaces(named.filter(|(_, ours)| !ours.is_empty()).collect())
        }
        Followed::One(one) => {
            let (name, ours) = named(&one);
            Change::Namespace(name, ours)
        }
        Followed::Gone(gone) => Change::Namespace(named(&gone).0, BTreeMap::new()),
    }
}

fn node_changed(event: Followed<PartialObjectMeta<Node>>) -> Change {
    Change::Node(match event {
        Followed::All(all) => {
            if all.is_empty() {
                log::warn!(
                    "the cluster has no node of this name, so that no pods are found on it: set kubernetes.node in the configuration, or NODE_NAME, to what `kubectl get nodes` calls this machine"
                );
            }
            all.first().map(|node| named(node).1).unwrap_or_default()
        }
        Followed::One(node) => named(&node).1,
        Followed::Gone(_) => BTreeMap::new(),
    })
}

enum Followed<K> {
    All(Vec<K>),
    One(K),
    Gone(K),
}

fn named<K: Resource>(object: &PartialObjectMeta<K>) -> (String, BTreeMap<String, String>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    (name, ours(object.metadata.annotations.as_ref()))
}

/// Our annotations, without their prefix, and a few others that have it, to be complained about. No value of ours is long: of a longer
/// one the beginning tells what is wrong with it.
pub(super) fn ours(annotations: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    const MOST_OTHERS: usize = 4;
    const LONGEST: usize = 512;
    let all = annotations.into_iter().flatten();
    let ours = all.filter_map(|(key, value)| {
        let key = key.strip_prefix(ANNOTATIONS)?;
        Some((key.to_owned(), value.chars().take(LONGEST).collect()))
    });
    let (mut known, others): (BTreeMap<_, _>, BTreeMap<String, String>) =
        ours.partition(|(key, _)| KEYS.contains(&key.as_str()));
    known.extend(others.into_iter().take(MOST_OTHERS));
    known
}

async fn follow<K>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    feature: Feature,
    health: Arc<Health>,
    changes: Sender<Change>,
    change: impl Fn(Followed<K>) -> Change,
) {
    let mut stream = pin!(stream);
    let mut backoff = Backoff::default();
    let mut listed = Vec::new();
    let mut is_first = true;
    let mut failures = 0;
    while let Some(event) = stream.next().await {
        let told = match event {
            Ok(event) => {
                failures = 0;
                backoff.reset();
                health.answered(feature);
                match event {
                    Event::Init => {
                        if !std::mem::take(&mut is_first) && feature == Feature::Pods {
                            health.relisted();
                        }
                        listed.clear();
                        continue;
                    }
                    Event::InitApply(object) => {
                        listed.push(object);
                        continue;
                    }
                    Event::InitDone => change(Followed::All(std::mem::take(&mut listed))),
                    Event::Apply(object) => change(Followed::One(object)),
                    Event::Delete(object) => change(Followed::Gone(object)),
                }
            }
            Err(error) => {
                // What may not be asked for is not waited for; an API that is overloaded is, for a while.
                let is_forbidden = is_forbidden(&error);
                let wrong = failed(&health, feature, error);
                failures += 1;
                let is_missed = is_forbidden || failures >= DOUBTED;
                if is_missed && changes.send(Change::Unknown(feature)).await.is_err() {
                    return;
                }
                tokio::time::sleep(backoff.next(wrong, fastrand::f64())).await;
                continue;
            }
        };
        if changes.send(told).await.is_err() {
            return;
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchError(status) => status.code == 403,
        _ => false,
    }
}

fn failed(health: &Health, feature: Feature, error: watcher::Error) -> Wrong {
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };
    match error {
        WatchError(status) | WatchStartFailed(kube::Error::Api(status)) if status.code == 410 => {
            // What the watch was to go on from is too old for the server: the next step is a list.
            log::info!(
                "{}: a watch has expired, all are listed anew",
                feature.name()
            );
            Wrong::NoAnswer
        }
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            health.failed(feature, &error)
        }
        WatchError(status) => health.failed(feature, &kube::Error::Api(status)),
        NoResourceVersion => {
            let text = "the answer has no resource version".to_owned();
            health.trouble_is(feature, text, false);
            Wrong::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use kube::core::Status;
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::kube::health::Writes;

    /// What is told of namespaces that the API refuses to list so often with that code, and then lists.
    fn told(code: u16, times: usize) -> Vec<&'static str> {
        let refuse = || {
            let status = Status::failure("no", "Refused").with_code(code);
            Err(watcher::Error::InitialListFailed(kube::Error::Api(
                status.boxed(),
            )))
        };
        let answers = std::iter::repeat_with(refuse).take(times);
        let answers = answers.chain([Ok(Event::Init), Ok(Event::InitDone)]);
        let writes = Writes {
            events: false,
            engine_ready: false,
        };
        let (sender, mut changes) = channel(16);
        let followed = follow(
            stream::iter(answers.collect::<Vec<_>>()),
            Feature::Namespaces,
            Arc::new(Health::new(writes)),
            sender,
            namespaces_changed,
        );
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(followed);
        let changes = std::iter::from_fn(|| changes.try_recv().ok());
        let changes = changes.map(|change| match change {
            Change::Unknown(_) => "unknown",
            Change::Namespaces(_) => "listed",
            other => panic!("{other:?}"),
        });
        changes.collect()
    }

    #[test]
    fn an_api_that_is_overloaded_does_not_make_what_is_withheld_be_granted() {
        // Too many requests, or one of several servers that does not know the token yet.
        for code in [429, 500, 401] {
            assert_eq!(told(code, 1), ["listed"], "{code}");
        }
        assert_eq!(told(403, 1), ["unknown", "listed"]);
        // Nobody can wait for ever.
        assert_eq!(told(429, 3), ["unknown", "listed"]);
    }
}
