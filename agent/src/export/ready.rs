//! Whether loops have engines that accept, for whoever asks the page: scripts, and load balancers without the Kubernetes API.
//!
//! Pure. The answer names process ids, targets and pods, nothing else, and no question changes anything.

use std::fmt::Write as _;

use http::StatusCode;

use crate::pipeline::engines::EngineReady;
use crate::pipeline::pod::PodName;
use crate::pipeline::{Mono, Pid};

/// One process of a target with engines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Which.
    pub pid: Pid,
    /// The configured target.
    pub target: String,
    /// The pod it runs in, if that is known.
    pub pod: Option<PodName>,
    /// Whether it has an engine that accepts.
    pub ready: EngineReady,
}

/// What is asked for; all that is given must hold.
#[derive(Debug, Default)]
struct Question {
    pid: Option<u32>,
    target: Option<String>,
    /// `NAMESPACE/NAME`
    pod: Option<String>,
}

impl Question {
    fn parse(query: Option<&str>) -> Result<Self, String> {
        let mut asked = Self::default();
        for part in query
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name {
                "pid" => {
                    let pid = value.parse();
                    asked.pid = Some(pid.map_err(|_| "pid is no number".to_owned())?);
                }
                "target" => asked.target = Some(value.to_owned()),
                "pod" => asked.pod = Some(value.to_owned()),
                _ => return Err("allowed are pid, target and pod=NAMESPACE/NAME".to_owned()),
            }
        }
        Ok(asked)
    }

    fn is_about(&self, process: &Readiness) -> bool {
        let pod = process.pod.as_ref();
        let pod = pod.map(|pod| format!("{}/{}", pod.namespace, pod.name));
        self.pid.is_none_or(|pid| process.pid == Pid(pid))
            && self
                .target
                .as_ref()
                .is_none_or(|target| process.target == *target)
            && self
                .pod
                .as_ref()
                .is_none_or(|wanted| pod.as_ref() == Some(wanted))
    }

    fn is_of_all(&self) -> bool {
        self.pid.is_none() && self.target.is_none() && self.pod.is_none()
    }
}

/// Status and text.
pub(super) fn answer(all: &[Readiness], query: Option<&str>, now: Mono) -> (StatusCode, String) {
    let asked = match Question::parse(query) {
        Ok(asked) => asked,
        Err(wrong) => return (StatusCode::BAD_REQUEST, format!("{wrong}\n")),
    };
    let mut status = StatusCode::OK;
    let mut text = String::new();
    for process in all.iter().filter(|process| asked.is_about(process)) {
        let reason = match process.ready {
            EngineReady::Accepts => "EngineAccepts".to_owned(),
            EngineReady::Unknown => "EngineUnknown".to_owned(),
            EngineReady::Starting { since, refused } => {
                status = StatusCode::SERVICE_UNAVAILABLE;
                let refused = refused.filter(|refused| *refused > 0);
                let refused = refused.map_or_else(String::new, |refused| {
                    format!(", {refused} connections refused")
                });
                let seconds = now.since(since).as_secs_f64();
                format!("EngineStarting for {seconds:.1} s{refused}")
            }
        };
        // A target is named by the operator; a line must stay one all the same.
        let target = process.target.escape_debug();
        let _ = writeln!(text, "{} {target} {reason}", process.pid);
    }
    if text.is_empty() && !asked.is_of_all() {
        let unknown = "no such loop of a target with engines is watched\n";
        return (StatusCode::NOT_FOUND, unknown.to_owned());
    }
    (status, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, ready: EngineReady) -> Readiness {
        Readiness {
            pid: Pid(pid),
            target: "litellm".into(),
            pod: None,
            ready,
        }
    }

    #[test]
    fn one_that_starts_is_enough_for_no() {
        let starting = EngineReady::Starting {
            since: Mono(1_000_000_000),
            refused: Some(3),
        };
        let all = [
            process(7, EngineReady::Accepts),
            process(8, starting),
            process(9, EngineReady::Unknown),
        ];
        let now = Mono(3_500_000_000);
        let table = [
            (
                None,
                503,
                "7 litellm EngineAccepts\n8 litellm EngineStarting for 2.5 s, 3 connections refused\n9 litellm EngineUnknown\n",
            ),
            (Some("pid=7"), 200, "7 litellm EngineAccepts\n"),
            (
                Some("pid=9&target=litellm"),
                200,
                "9 litellm EngineUnknown\n",
            ),
            (
                Some("target=other"),
                404,
                "no such loop of a target with engines is watched\n",
            ),
            (
                Some("pid=10"),
                404,
                "no such loop of a target with engines is watched\n",
            ),
            (
                Some("pod=a/b"),
                404,
                "no such loop of a target with engines is watched\n",
            ),
            (Some("pid=x"), 400, "pid is no number\n"),
            (
                Some("name=x"),
                400,
                "allowed are pid, target and pod=NAMESPACE/NAME\n",
            ),
        ];
        for (query, status, text) in table {
            let found = answer(&all, query, now);
            assert_eq!(
                (found.0.as_u16(), found.1.as_str()),
                (status, text),
                "{query:?}"
            );
        }
        assert_eq!(answer(&[], None, now).0, StatusCode::OK);
    }
}
