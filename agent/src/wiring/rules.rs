//! What holds for whom: a pure function of the configuration and of the pods that the Kubernetes API tells of.
//!
//! Every target has a number, the configuration's own first. Where a pod, its namespace or its node asks for something, the targets
//! hold there with what is granted of it, under numbers of their own. A change of either makes new rules.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{settings, target_settings};
use crate::config::{Asked, AskedMode, Config, KubernetesMatch, Target};
use crate::pipeline::place::Seat;
use crate::pipeline::pod::{Found, Pod, PodName, Pods};
use crate::pipeline::record::InForce;
use crate::pipeline::{LoopInfo, Mode};
use crate::rescue::Settings;
use crate::target::scout::{Candidate, Matching};

/// What is wrong with the annotations of a pod, or of what it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Complaint {
    /// The pod; nothing if it is about a namespace or the node.
    pub pod: Option<PodName>,
    /// A sentence.
    pub text: String,
}

/// The rules.
#[derive(Debug)]
pub struct Rules {
    version: u64,
    config: Config,
    pods: Arc<Pods>,
    /// By number.
    holds: Vec<Held>,
    settings: Settings,
    /// Numbers of targets that differ in a pod, by its uid and the target's own number.
    of_pod: HashMap<(String, usize), usize>,
    complaints: Vec<Complaint>,
}

#[derive(Debug)]
struct Held {
    target: Target,
    /// `None` where nothing is to be watched.
    mode: Option<Mode>,
}

static VERSIONS: AtomicU64 = AtomicU64::new(0);

impl Rules {
    /// Of a configuration alone.
    #[must_use]
    pub fn of_config(config: Config) -> Self {
        Self::new(config, Arc::new(Pods::default()))
    }

    /// Of a configuration and the node's pods.
    #[must_use]
    pub fn new(config: Config, pods: Arc<Pods>) -> Self {
        let own = config.targets.iter().map(|target| Held {
            target: target.clone(),
            mode: Some(config.mode),
        });
        let mut rules = Self {
            version: VERSIONS.fetch_add(1, Ordering::Relaxed),
            holds: own.collect(),
            settings: settings(&config, Vec::new(), true),
            of_pod: HashMap::new(),
            complaints: Vec::new(),
            config,
            pods,
        };
        rules.grant();
        let targets = rules.holds.iter();
        // Nobody has the number of a target that is not to be watched.
        let targets =
            targets.map(|held| target_settings(&held.target, held.mode.unwrap_or_default()));
        rules.settings.targets = targets.collect();
        rules
    }

    /// Gives each pod that asks for something its own numbers.
    fn grant(&mut self) {
        let at_most = |annotations: &BTreeMap<String, String>,
                       whose: &str,
                       complaints: &mut Vec<Complaint>| {
            let mut problems = Vec::new();
            let asked = Asked::read(annotations, &mut problems);
            let told = problems.into_iter().map(|problem| Complaint {
                pod: None,
                text: format!("{whose}: {problem}"),
            });
            complaints.extend(told);
            asked.mode
        };
        let node = at_most(&self.pods.node, "the node", &mut self.complaints);
        let mut namespaces = HashMap::new();
        for (name, annotations) in &self.pods.namespaces {
            let whose = format!("namespace {name}");
            let asked = at_most(annotations, &whose, &mut self.complaints);
            namespaces.extend(asked.map(|asked| (name.clone(), asked)));
        }
        let mut pods: Vec<Arc<Pod>> = self.pods.iter().cloned().collect();
        pods.sort_by(|one, other| one.uid.cmp(&other.uid));
        for pod in pods {
            let namespace = namespaces.get(&pod.namespace).copied();
            let at_most = [node, namespace].into_iter().flatten().min();
            self.grant_to(&pod, at_most);
        }
    }

    fn grant_to(&mut self, pod: &Pod, at_most: Option<AskedMode>) {
        if pod.annotations.is_empty() && at_most.is_none() {
            return;
        }
        let mut told = Vec::new();
        let asked = Asked::read(&pod.annotations, &mut told);
        for (number, target) in self.config.targets.iter().enumerate() {
            let allow = &self.config.annotations.allow;
            let granted = asked.granted(target, self.config.mode, at_most, allow);
            told.extend(granted.refused);
            let held = Held {
                target: granted.target,
                mode: granted.mode,
            };
            self.of_pod
                .insert((pod.uid.clone(), number), self.holds.len());
            self.holds.push(held);
        }
        told.sort();
        told.dedup();
        let name = PodName {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            container: None,
        };
        self.complaints
            .extend(told.into_iter().map(|text| Complaint {
                pod: Some(name.clone()),
                text,
            }));
    }

    /// What is wrong with annotations.
    #[must_use]
    pub fn complaints(&self) -> &[Complaint] {
        &self.complaints
    }

    /// The rescue thread's view.
    #[must_use]
    pub fn settings(&self, match_all: bool) -> Settings {
        Settings {
            match_all,
            ..self.settings.clone()
        }
    }

    /// What holds for a loop, as the journal keeps it.
    #[must_use]
    pub fn in_force(&self, info: &LoopInfo) -> InForce {
        let own = self.own_number(&info.target);
        let pod = info.pod.as_ref();
        let number = own.map(|own| {
            let of_pod = pod.and_then(|pod| self.of_pod.get(&(pod.uid.clone(), own)));
            of_pod.copied().unwrap_or(own)
        });
        self.settings.in_force(number.unwrap_or(usize::MAX))
    }

    fn own_number(&self, name: &str) -> Option<usize> {
        let mut targets = self.config.targets.iter();
        targets.position(|target| target.name == name)
    }

    /// The number of a target in a pod; nothing where it is not to be watched.
    fn in_pod(&self, own: usize, found: Option<&Found>) -> Option<usize> {
        let of_pod = found.and_then(|found| self.of_pod.get(&(found.pod.uid.clone(), own)));
        let number = of_pod.copied().unwrap_or(own);
        self.holds.get(number)?.mode.map(|_| number)
    }
}

fn is_of(pods: &KubernetesMatch, found: Option<&Found>) -> bool {
    let Some(found) = found else { return false };
    let in_namespace = |namespace: &String| *namespace == found.pod.namespace;
    let labels = &found.pod.labels;
    pods.namespace.as_ref().is_none_or(in_namespace)
        && pods
            .labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

impl Matching for Rules {
    fn version(&self) -> u64 {
        self.version
    }

    fn target(&self, candidate: &Candidate<'_>) -> Option<usize> {
        let found = candidate.seat.and_then(|seat| self.pods.find(seat));
        let (exe, command_line) = (candidate.exe.as_bytes(), candidate.command_line.as_bytes());
        let matches = |target: &Target| {
            let pods = target.matcher.kubernetes.as_ref();
            // A container's first process is the runtime's own, without a name of its own, until it runs the container's program.
            if pods.is_some() && candidate.exe.is_empty() {
                return false;
            }
            target.matcher.matches(candidate.pid, exe, command_line)
                && pods.is_none_or(|pods| is_of(pods, found.as_ref()))
        };
        let own = self.config.targets.iter().position(matches)?;
        self.in_pod(own, found.as_ref())
    }

    fn is_engine(&self, target: usize, exe: &str, command_line: &str) -> bool {
        let held = self.holds.get(target);
        let engine = held.and_then(|held| held.target.engine.as_ref());
        engine.is_some_and(|engine| engine.is_engine(exe.as_bytes(), command_line.as_bytes()))
    }

    fn number(&self, name: &str, seat: Option<&Seat>) -> Option<usize> {
        let found = seat.and_then(|seat| self.pods.find(seat));
        self.in_pod(self.own_number(name)?, found.as_ref())
    }

    fn pod(&self, seat: &Seat) -> Option<Found> {
        self.pods.find(seat)
    }
}
