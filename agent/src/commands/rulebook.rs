//! The rules in force: made anew when the configuration or the pods change, and handed to everybody who goes by them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{ApiUse, Config, Kubernetes};
use crate::export::journal::{InForceOf, JournalSender};
use crate::kernel::clock;
use crate::kube::{self, EventSender, Kube};
use crate::pipeline::Mono;
use crate::pipeline::pod::{PodEvent, Pods};
use crate::rescue::Remote;
use crate::wiring::{Complaint, Rules, journal_of};

/// The rules, and who is told of new ones.
#[derive(Debug)]
pub(super) struct Rulebook {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Config,
    pods: Arc<Pods>,
    rules: Arc<Rules>,
    followers: Option<Followers>,
    events: Option<EventSender>,
    /// What was told of annotations.
    told: BTreeSet<Complaint>,
    logged: PerMinute,
}

/// Who goes by the rules.
#[derive(Debug)]
struct Followers {
    remote: Remote,
    journal: JournalSender,
}

impl Rulebook {
    pub(super) fn new(config: Config) -> Arc<Self> {
        let rules = Arc::new(Rules::of_config(config.clone()));
        let state = State {
            config,
            pods: Arc::default(),
            rules,
            followers: None,
            events: None,
            told: BTreeSet::new(),
            logged: PerMinute::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    /// The rules in force.
    pub(super) fn rules(&self) -> Arc<Rules> {
        self.lock().rules.clone()
    }

    /// What holds for a loop, for the journal.
    pub(super) fn in_force(&self) -> InForceOf {
        let rules = self.rules();
        Arc::new(move |info| rules.in_force(info))
    }

    /// Another configuration.
    pub(super) fn configured(&self, config: Config) {
        let mut state = self.lock();
        state.config = config;
        state.apply();
    }

    /// Another picture of the node's pods.
    pub(super) fn pods(&self, pods: Arc<Pods>) {
        let mut state = self.lock();
        state.pods = pods;
        state.apply();
    }

    /// Where complaints about annotations are told, beside the log.
    pub(super) fn tell_pods_through(&self, events: EventSender) {
        self.lock().events = Some(events);
    }

    /// From now on these are told of new rules, and at once of those that hold now.
    pub(super) fn attach(&self, remote: Remote, journal: JournalSender) {
        let mut state = self.lock();
        state.followers = Some(Followers { remote, journal });
        state.apply();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self) {
        let rules = Rules::new(self.config.clone(), self.pods.clone());
        self.rules = Arc::new(rules);
        self.complain();
        let Some(followers) = &self.followers else {
            return;
        };
        let rules = self.rules.clone();
        let in_force: InForceOf = Arc::new(move |info| rules.in_force(info));
        followers.journal.reload(journal_of(&self.config), in_force);
        let settings = self.rules.settings(true);
        followers.remote.reload(settings, self.rules.clone());
    }

    /// Says what is wrong with annotations, each once.
    fn complain(&mut self) {
        let now: BTreeSet<Complaint> = self.rules.complaints().iter().cloned().collect();
        for complaint in now.difference(&self.told) {
            let Some(pod) = &complaint.pod else {
                log::warn!("{}", complaint.text);
                continue;
            };
            // Whoever may annotate a pod chooses these words, and how often they change.
            if self.logged.admits(clock::now()) {
                log::warn!("pod {pod}: {}", complaint.text);
            }
            if let Some(events) = &self.events {
                events.send(PodEvent {
                    pod: pod.clone(),
                    is_warning: true,
                    reason: "AnnotationNotGranted",
                    action: "Configuring",
                    note: complaint.text.clone(),
                });
            }
        }
        self.told = now;
    }
}

/// Complaints that are logged in a minute; each is an Event on its pod, too.
const LOGGED: u32 = 60;

/// Counts what is logged.
#[derive(Debug, Default)]
struct PerMinute {
    since: Mono,
    count: u32,
}

impl PerMinute {
    fn admits(&mut self, now: Mono) -> bool {
        if now.since(self.since) >= Duration::from_mins(1) {
            *self = Self {
                since: now,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        if self.count == LOGGED + 1 {
            log::warn!("more about annotations of pods is not logged in this minute");
        }
        self.count <= LOGGED
    }
}

/// How the configuration wants the Kubernetes API to be used; nothing if not at all.
pub(super) fn kube_settings(kubernetes: &Kubernetes) -> Option<kube::Settings> {
    let is_reachable = kubernetes.kubeconfig.is_some() || Kube::is_in_pod();
    (kubernetes.api == ApiUse::Auto && is_reachable).then(|| kube::Settings {
        kubeconfig: kubernetes.kubeconfig.clone(),
        node: kubernetes.node.clone().unwrap_or_else(node_name),
        writes: kube::Writes {
            events: kubernetes.events,
            engine_ready: kubernetes.engine_ready,
        },
    })
}

/// The name that the `DaemonSet` passes on, else that of the host, which is what a kubelet calls its node by default.
fn node_name() -> String {
    std::env::var("NODE_NAME").unwrap_or_else(|_| {
        let name = rustix::system::uname();
        name.nodename().to_string_lossy().to_lowercase()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_logged_in_a_minute_and_then_again() {
        let mut logged = PerMinute::default();
        let start = Mono(3_600_000_000_000);
        let count = |logged: &mut PerMinute, at| (0..1000).filter(|_| logged.admits(at)).count();
        assert_eq!(count(&mut logged, start), 60);
        assert_eq!(count(&mut logged, start.plus(Duration::from_secs(59))), 0);
        assert_eq!(count(&mut logged, start.plus(Duration::from_mins(1))), 60);
    }
}
