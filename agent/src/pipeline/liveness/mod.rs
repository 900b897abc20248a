//! When the kubelet will decide to kill a container, forecast from its probe's rules and from how long its loop was away.
//!
//! Pure: a probe's specification, what the loop did and who connected to its port go in, a forecast comes out. The kubelet ticks every
//! period from a start that nobody outside it sees. Where its probes are seen (`probes`), they tell the phase and what failed. Where
//! they are not, the forecast follows many kubelets at once, one for each phase that the real one may have (`forecast`), and says
//! between which moments they decide.
//!
//! The rules are those of `pkg/kubelet/prober`: see `kubelet`.

mod deadline;
mod forecast;
mod kubelet;
mod outlook;
mod probes;
mod risk;
pub mod sharing;
mod spec;

use std::time::Duration;

pub use forecast::{Forecast, Forecaster, Window};
pub use outlook::{Follower, Outlook, Port, RiskView, Situation};
pub use probes::{Client, Probes, Seen};
pub use risk::{Level, News, Risk};
pub use spec::{
    Container, ContainerProbes, ContainerState, Handler, Probe, Rhythm, Threat, Unthreatened,
};

use super::Mono;
use kubelet::Kubelet;

/// The probe that can end a container, and what we make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeSpec {
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `failureThreshold`, at least 1.
    pub failures: u32,
    /// `terminationGracePeriodSeconds`, of the probe or else of the pod.
    pub termination_grace: Duration,
    /// From how long before the decision on the risk is imminent.
    pub imminent_margin: Duration,
    /// A preStop hook runs before SIGTERM, at the cost of the grace.
    pub pre_stop: bool,
    /// It is not made before then.
    pub not_before: Option<Mono>,
    /// The container's readiness probe, where it asks the same port.
    pub readiness: Option<Rhythm>,
    /// It was read in the pod's spec, not in our configuration.
    pub of_pod: bool,
}

impl ProbeSpec {
    /// Kubernetes' default of `terminationGracePeriodSeconds`.
    pub const TERMINATION_GRACE: Duration = Duration::from_secs(30);
    /// What the kubelet gives any container (`minimumGracePeriodInSeconds`).
    pub const LEAST_GRACE: Duration = Duration::from_secs(2);
    /// Where nothing else is configured.
    pub const IMMINENT_MARGIN: Duration = Duration::from_secs(10);

    /// One that is configured.
    #[must_use]
    pub const fn new(period: Duration, timeout: Duration, failures: u32) -> Self {
        Self {
            period,
            timeout,
            failures,
            termination_grace: Self::TERMINATION_GRACE,
            imminent_margin: Self::IMMINENT_MARGIN,
            pre_stop: false,
            not_before: None,
            readiness: None,
            of_pod: false,
        }
    }

    /// From when on a stall costs probes that began then: not before the initial delay is over.
    #[must_use]
    pub fn probed_from(&self, away: Mono) -> Mono {
        self.not_before
            .map_or(away, |not_before| not_before.max(away))
    }
}
