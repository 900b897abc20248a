//! Which probes the pods have.

use serde_json::{Value, json};

/// periodSeconds, timeoutSeconds and failureThreshold of a liveness probe, and what else the kubelet asks on the same port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub(super) period: u32,
    pub(super) timeout: u32,
    pub(super) failures: u32,
    pub(super) beside: Beside,
}

/// Another probe of the same container.
#[derive(Debug, Clone, Copy)]
pub(super) enum Beside {
    Nothing,
    /// A readiness probe: period and time-out.
    Readiness(u32, u32),
    /// A startup probe, every second until the first answer.
    Startup,
}

use Beside::{Nothing, Readiness, Startup};

pub(super) const fn probe(period: u32, timeout: u32, failures: u32, beside: Beside) -> Probe {
    Probe {
        period,
        timeout,
        failures,
        beside,
    }
}

/// After the last moment at which the kubelet can decide.
const AFTER: f64 = 3.0;

/// In two minutes, all at the same time.
const SHORT: [Probe; 6] = [
    probe(2, 1, 3, Nothing),
    probe(3, 4, 3, Nothing),
    probe(5, 2, 4, Nothing),
    probe(1, 1, 5, Startup),
    probe(4, 1, 2, Readiness(4, 1)),
    probe(3, 2, 3, Readiness(2, 1)),
];

const MORE: [Probe; 6] = [
    probe(10, 1, 3, Nothing),
    probe(2, 5, 3, Nothing),
    probe(4, 4, 4, Startup),
    probe(5, 2, 4, Readiness(5, 2)),
    probe(2, 3, 4, Readiness(3, 1)),
    probe(6, 2, 2, Readiness(10, 1)),
];

/// What is to happen to a pod.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) probe: Probe,
    pub(super) stalls: Vec<Planned>,
}

/// A stall, or several with a moment of air between them.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) lengths: Vec<f64>,
    /// Whether the kubelet will decide to kill; not known if that hangs on what the moment of air is enough for.
    pub(super) decides: Option<bool>,
}

/// The pods of each round of the forecast's row: each stalls for less than the kubelet needs, and then for more.
pub(super) fn rounds(full: bool) -> Vec<Vec<Plan>> {
    let twice = |probe: &Probe| Plan {
        probe: *probe,
        stalls: vec![
            Planned {
                lengths: vec![probe.earliest() * 0.8],
                decides: Some(false),
            },
            Planned {
                lengths: vec![probe.latest() + AFTER],
                decides: Some(true),
            },
        ],
    };
    let rounds: Vec<[Probe; 6]> = if full {
        [SHORT, MORE].into_iter().cycle().take(6).collect()
    } else {
        vec![SHORT]
    };
    rounds
        .iter()
        .map(|probes| probes.iter().map(twice).collect())
        .collect()
}

impl Probe {
    /// As `loopwarden watch --liveness` takes it.
    pub(super) fn spec(&self) -> String {
        format!("{}/{}/{}", self.period, self.timeout, self.failures)
    }

    pub(super) fn shown(&self) -> String {
        let spec = self.spec();
        match self.beside {
            Nothing => spec,
            Readiness(period, timeout) => format!("{spec}, readiness {period}/{timeout}"),
            Startup => format!("{spec}, startup"),
        }
    }

    /// From the start of a stall to the decision, at the earliest.
    pub(super) fn earliest(&self) -> f64 {
        f64::from((self.failures - 1) * self.period.max(self.timeout) + self.timeout)
    }

    /// The same at the latest. Where a probe takes longer than a period, the kubelet adds some 40 ms to each.
    pub(super) fn latest(&self) -> f64 {
        self.earliest() + f64::from(self.period) + 0.1 * f64::from(self.failures)
    }

    /// Whether another probe of the container has the same rhythm: then either may be the one that decides.
    pub(super) fn has_twin(&self) -> bool {
        matches!(self.beside, Readiness(period, timeout) if (period, timeout) == (self.period, self.timeout))
    }

    /// Puts the probes into a container's description.
    pub(super) fn give_to(&self, container: &mut Value, http_get: &Value) {
        container["livenessProbe"] = json!({
            "httpGet": http_get, "periodSeconds": self.period, "timeoutSeconds": self.timeout, "failureThreshold": self.failures,
        });
        match self.beside {
            Nothing => {}
            Readiness(period, timeout) => {
                container["readinessProbe"] = json!({
                    "httpGet": http_get, "periodSeconds": period, "timeoutSeconds": timeout,
                });
            }
            Startup => {
                container["startupProbe"] =
                    json!({"httpGet": http_get, "periodSeconds": 1, "failureThreshold": 60});
            }
        }
    }
}
