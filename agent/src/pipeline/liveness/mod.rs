//! When the kubelet will decide to kill a container, forecast from its probe's rules and from how long its loop was away.
//!
//! Pure: a probe's specification, what the loop did and who connected to its port go in, a forecast comes out. The kubelet ticks every
//! period from a start that nobody outside it sees. Where its probes are seen (`probes`), they tell the phase and what failed. Where
//! they are not, the forecast follows many kubelets at once, one for each phase that the real one may have (`forecast`), and says
//! between which moments they decide.
//!
//! The rules are those of `pkg/kubelet/prober`: see `kubelet`.

mod forecast;
mod kubelet;
mod outlook;
mod probes;
mod risk;

use std::time::Duration;

pub use forecast::{Forecast, Forecaster, Window};
pub use outlook::{Follower, Outlook, RiskView, Situation};
pub use probes::{Client, Probes, Seen};
pub use risk::{Level, News, Risk};

use kubelet::Kubelet;

/// What a pod's spec says about a liveness probe, and what we make of it.
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
}

impl ProbeSpec {
    /// Kubernetes' default of `terminationGracePeriodSeconds`.
    pub const TERMINATION_GRACE: Duration = Duration::from_secs(30);
}
