//! The things that can happen to a server of the demo, and the reading of the guard's lines. Pure.

use super::kubelet::Verdict;

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Side {
    /// Left to the kubelet.
    Unprotected,
    /// Guarded by `loopwarden watch`.
    Protected,
}

impl Side {
    /// The word of the contract.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Side::Unprotected => "unprotected",
            Side::Protected => "protected",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With a 2xx.
    Answered,
    /// Timed out, cut off, or answered with an error.
    NoAnswer,
    /// Nobody listens.
    Refused,
}

/// One thing that happened to a server.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Happening {
    /// A liveliness request was sent; they are numbered from 0.
    Sent,
    /// The liveliness request of that number ended.
    Ended(usize, Outcome),
    /// A probe of the kubelet ended.
    Probed(Verdict),
    /// The kubelet sent SIGTERM.
    Terminated,
    /// The kubelet sent SIGKILL.
    Killed,
    /// The loop thread waits for this engine.
    Frozen {
        /// Its process id.
        engine: u32,
    },
    /// The wait is over.
    Thawed,
    /// The process is gone.
    Gone,
    /// A new process has taken its place and listens.
    Restarted {
        /// Its process id.
        pid: u32,
    },
    /// The guard said something.
    Guard(GuardNote),
}

/// What the show takes from a line of `watch --json`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum GuardNote {
    /// It watches the loop from here on.
    Watching {
        /// How: `fentry`, `tracepoint`, … or `sampling`; empty if it did not say.
        plan: String,
    },
    /// It saw the stall.
    Opened {
        /// Age of the stall then.
        busy_ms: f64,
        /// Kind of cause.
        cause: String,
    },
    /// It acted, or said why not.
    Action {
        /// Which signal.
        signal: String,
        /// `sent`, `refused`, …
        outcome: String,
        /// The guard that refused.
        refused_by: Option<String>,
        /// Age of the stall then.
        busy_ms: f64,
    },
    /// The stall is over.
    Closed {
        /// Its length.
        busy_ms: f64,
        /// Thanks to the guard.
        rescued: bool,
    },
}

impl GuardNote {
    /// Reads a line of `watch --json`; none if it tells nothing that the show needs.
    pub(super) fn read(line: &serde_json::Value) -> Option<Self> {
        let text = |name: &str| {
            line.get(name)
                .and_then(|value| value.as_str())
                .map(str::to_owned)
        };
        let busy_ms = line
            .get("busy_ms")
            .and_then(serde_json::Value::as_f64)
            .unwrap_or(0.0);
        match line.get("type")?.as_str()? {
            "loop" => Some(Self::Watching {
                plan: text("plan").unwrap_or_default(),
            }),
            "stall_opened" => {
                let cause = line
                    .get("cause")
                    .and_then(|cause| cause.get("kind"))
                    .and_then(|kind| kind.as_str());
                Some(Self::Opened {
                    busy_ms,
                    cause: cause.unwrap_or("unknown").to_owned(),
                })
            }
            "action" => Some(Self::Action {
                signal: text("signal")?,
                outcome: text("outcome")?,
                refused_by: text("refused_by"),
                busy_ms,
            }),
            "stall_closed" => {
                let rescued = line
                    .get("rescued")
                    .and_then(serde_json::Value::as_bool)
                    .unwrap_or(false);
                Some(Self::Closed { busy_ms, rescued })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_contract_are_understood() {
        for (line, expected) in [
            (
                r#"{"type":"loop","pid":7,"tid":7,"exe":"x","poller":"epoll_wait","plan":"sampling"}"#,
                Some(GuardNote::Watching {
                    plan: "sampling".into(),
                }),
            ),
            (
                r#"{"type":"stall_opened","incident":"I","busy_ms":101.5,"cause":{"kind":"child_wait"}}"#,
                Some(GuardNote::Opened {
                    busy_ms: 101.5,
                    cause: "child_wait".into(),
                }),
            ),
            (
                r#"{"type":"action","signal":"SIGKILL","mode":"enforce","busy_ms":500,"outcome":"refused","refused_by":"budget"}"#,
                Some(GuardNote::Action {
                    signal: "SIGKILL".into(),
                    outcome: "refused".into(),
                    refused_by: Some("budget".into()),
                    busy_ms: 500.0,
                }),
            ),
            (
                r#"{"type":"stall_closed","busy_ms":503,"rescued":true,"ended_by":"poll"}"#,
                Some(GuardNote::Closed {
                    busy_ms: 503.0,
                    rescued: true,
                }),
            ),
            (r#"{"type":"summary","iterations":5}"#, None),
            (r#"{"no":"type"}"#, None),
        ] {
            let value = serde_json::from_str(line).expect(line);
            assert_eq!(GuardNote::read(&value), expected, "{line}");
        }
    }
}
