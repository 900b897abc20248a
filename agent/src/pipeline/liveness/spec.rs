//! What a pod's spec and status say of a container's probes, and which of them the kubelet makes now.
//!
//! Who reads the pod (`kube/`) fills [`Container`]; [`Container::threat`] is what can end it. The rules are those of
//! `pkg/kubelet/prober/worker.go` and `kuberuntime` of Kubernetes 1.34.

use std::time::Duration;

use super::ProbeSpec;
use crate::pipeline::Mono;

/// How a probe asks; ports by number, names resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// A request that the loop answers.
    HttpGet {
        /// To this port.
        port: u16,
    },
    /// The same over gRPC.
    Grpc {
        /// To this port.
        port: u16,
    },
    /// A connection, which the kernel completes for a loop that is away, until too many wait to be accepted.
    TcpSocket {
        /// To this port.
        port: u16,
    },
    /// A command in the container, which the loop knows nothing of.
    Exec,
}

impl Handler {
    /// The port that is probed.
    #[must_use]
    pub const fn port(self) -> Option<u16> {
        match self {
            Self::HttpGet { port } | Self::Grpc { port } | Self::TcpSocket { port } => Some(port),
            Self::Exec => None,
        }
    }

    /// Whether it is the loop that answers, so that a stall lets the probe fail.
    #[must_use]
    pub const fn asks_loop(self) -> bool {
        matches!(self, Self::HttpGet { .. } | Self::Grpc { .. })
    }
}

/// One probe of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// How it asks.
    pub handler: Handler,
    /// `initialDelaySeconds`.
    pub initial_delay: Duration,
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `successThreshold`. It delays when a container counts as ready; a run of failures ends with the first success whatever it is.
    pub success_threshold: u32,
    /// `failureThreshold`.
    pub failure_threshold: u32,
    /// `terminationGracePeriodSeconds`, if the probe has its own.
    pub termination_grace: Option<Duration>,
}

impl Probe {
    /// One with Kubernetes' defaults.
    #[must_use]
    pub const fn new(handler: Handler) -> Self {
        Self {
            handler,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace: None,
        }
    }
}

/// The probes of a container, from its pod's spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProbes {
    /// `livenessProbe`.
    pub liveness: Option<Probe>,
    /// `readinessProbe`.
    pub readiness: Option<Probe>,
    /// `startupProbe`.
    pub startup: Option<Probe>,
    /// The pod's `terminationGracePeriodSeconds`.
    pub termination_grace: Duration,
    /// It has a `lifecycle.preStop` hook.
    pub pre_stop: bool,
}

impl Default for ContainerProbes {
    fn default() -> Self {
        Self {
            liveness: None,
            readiness: None,
            startup: None,
            termination_grace: ProbeSpec::TERMINATION_GRACE,
            pre_stop: false,
        }
    }
}

/// What the pod's status says of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerState {
    /// `status.containerStatuses[].started`; nothing where it is not told.
    pub started: Option<bool>,
    /// `state.running.startedAt`, on the monotonic clock. In whole seconds, as the API has it and as the kubelet itself reckons.
    pub running_since: Option<Mono>,
    /// The pod is being deleted (`metadata.deletionTimestamp`, which is the time of the deletion plus the grace): when SIGKILL is due.
    pub killed_at: Option<Mono>,
}

/// A container as its pod has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// From the spec: it does not change while the pod lives.
    pub probes: ContainerProbes,
    /// From the status.
    pub state: ContainerState,
}

/// What can end a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threat {
    /// This probe, if the loop does not answer it.
    Probe {
        /// Its rules.
        spec: ProbeSpec,
        /// Where it asks.
        port: u16,
    },
    /// Nothing that a stall would bring about.
    Nothing(Unthreatened),
    /// The deletion of its pod, which is under way.
    Deletion {
        /// When SIGKILL is due.
        at: Mono,
    },
}

/// Why no stall costs a container its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unthreatened {
    /// It has no such probe.
    NoProbe,
    /// The kernel answers it (`tcpSocket`), until too many connections wait to be accepted.
    KernelAnswers,
    /// It runs a command, and does not ask the loop.
    RunsCommand,
}

/// The rhythm of a probe that decides nothing and may come to the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Every so often.
    pub period: Duration,
    /// It gives up after this.
    pub timeout: Duration,
}

impl Container {
    /// Until when it has to have ended, if it was told to then: the longest grace that its pod has for it, or the end of the one with
    /// which the pod is deleted if that is later (`kubectl delete --grace-period`).
    #[must_use]
    pub fn ends_by(&self, told: Mono) -> Mono {
        let probes = [self.probes.liveness, self.probes.startup];
        let graces = probes.into_iter().flatten();
        let graces = graces.filter_map(|probe| probe.termination_grace);
        let longest = graces.fold(self.probes.termination_grace, Duration::max);
        let by = told.plus(longest);
        self.state.killed_at.map_or(by, |at| at.max(by))
    }

    /// What can end it now, if risks are imminent from that margin on.
    #[must_use]
    pub fn threat(&self, imminent_margin: Duration) -> Threat {
        if let Some(at) = self.state.killed_at {
            // The workers of liveness and startup have ended (StopLivenessAndStartup).
            return Threat::Deletion { at };
        }
        // Until the startup probe has succeeded, it is the only one. A status that does not say is one from before the first.
        let starting = self
            .probes
            .startup
            .filter(|_| self.state.started != Some(true));
        let Some(probe) = starting.or(self.probes.liveness) else {
            return Threat::Nothing(Unthreatened::NoProbe);
        };
        let port = match probe.handler {
            Handler::HttpGet { port } | Handler::Grpc { port } => port,
            Handler::TcpSocket { .. } => {
                return Threat::Nothing(Unthreatened::KernelAnswers);
            }
            Handler::Exec => return Threat::Nothing(Unthreatened::RunsCommand),
        };
        let delayed = (!probe.initial_delay.is_zero())
            .then_some(self.state.running_since)
            .flatten();
        // Not made before the container has started, and not told apart by their ends where the kernel answers.
        let readiness = self.probes.readiness.filter(|other| {
            starting.is_none() && other.handler.asks_loop() && other.handler.port() == Some(port)
        });
        let grace = probe
            .termination_grace
            .unwrap_or(self.probes.termination_grace);
        let spec = ProbeSpec {
            period: probe.period,
            timeout: probe.timeout,
            failures: probe.failure_threshold.max(1),
            termination_grace: grace.max(ProbeSpec::LEAST_GRACE),
            imminent_margin,
            pre_stop: self.probes.pre_stop,
            not_before: delayed.map(|since| since.plus(probe.initial_delay)),
            readiness: readiness.map(|other| Rhythm {
                period: other.period,
                timeout: other.timeout,
            }),
            of_pod: true,
        };
        Threat::Probe { spec, port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_the_longest_grace_of_its_pod_to_end() {
        let seconds = Duration::from_secs;
        let told = Mono(1_000_000_000);
        let mut container = Container::default();
        assert_eq!(container.ends_by(told), told.plus(seconds(30)));
        container.probes.termination_grace = seconds(300);
        let grace = |span| {
            Some(Probe {
                termination_grace: Some(seconds(span)),
                ..Probe::new(Handler::Exec)
            })
        };
        container.probes.liveness = grace(5);
        assert_eq!(container.ends_by(told), told.plus(seconds(300)));
        container.probes.startup = grace(400);
        assert_eq!(container.ends_by(told), told.plus(seconds(400)));
        for (deleted_until, ends) in [(100, 400), (900, 900)] {
            container.state.killed_at = Some(told.plus(seconds(deleted_until)));
            assert_eq!(container.ends_by(told), told.plus(seconds(ends)));
        }
    }
}
