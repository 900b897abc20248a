//! Which hooks to attach: a pure choice over probed facts.
//!
//! In order of preference: fentry/fexit on the few system-call functions needed (costs the other calls of the machine
//! nothing), tracepoints of just these calls (taxes every system call a little), and sampling procfs when BPF is refused.

use std::collections::BTreeMap;
use std::fmt;

/// The poll calls: the beat of a loop.
pub const POLL_CALLS: [&str; 7] = [
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "poll",
    "ppoll",
    "select",
    "pselect6",
];
/// The calls that wait for a child.
pub const WAIT_CALLS: [&str; 2] = ["wait4", "waitid"];
/// Raw tracepoints: process lifecycle and signals.
pub const RAW_TRACEPOINTS: [(&str, &str); 4] = [
    ("sched_process_fork", "process_fork"),
    ("sched_process_exec", "process_exec"),
    ("sched_process_exit", "process_exit"),
    ("signal_generate", "signal_generate"),
];

/// How loops are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// fentry and fexit on system-call functions.
    Fentry,
    /// Tracepoints of single system calls.
    Tracepoint,
    /// Reading `/proc/PID/task/TID/syscall` again and again.
    Sampling,
}

impl Way {
    /// The word in output, metrics and `doctor`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Way::Fentry => "fentry",
            Way::Tracepoint => "tracepoint",
            Way::Sampling => "sampling",
        }
    }

    /// The way a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Way::Fentry, Way::Tracepoint, Way::Sampling]
            .into_iter()
            .find(|way| way.name() == word)
    }
}

/// What was found out about a hook or an optional part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Works.
    Ok,
    /// Not on this kernel or machine; that is normal.
    Unsupported(String),
    /// It should work, and does not.
    Broken(String),
}

impl Verdict {
    /// The word in metrics and `doctor`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Unsupported(_) => "unsupported",
            Verdict::Broken(_) => "broken",
        }
    }

    /// Why it is not ok; empty if it is.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Verdict::Ok => "",
            Verdict::Unsupported(reason) | Verdict::Broken(reason) => reason,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Ok => f.write_str("ok"),
            other => write!(f, "{}: {}", other.name(), other.reason()),
        }
    }
}

/// What was probed before anything is attached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Why BPF cannot be used at all (no BTF, no privilege, a PID namespace of its own), if so.
    pub bpf_refused: Option<String>,
    /// Why fentry cannot be used, if so.
    pub fentry_refused: Option<String>,
    /// Why tracepoint ids cannot be read, if so.
    pub tracefs_refused: Option<String>,
    /// Why connections cannot be seen, if so.
    pub connections_refused: Option<String>,
    /// System calls that have a traceable function in this kernel.
    pub functions: Vec<&'static str>,
    /// System calls that have tracepoints in this kernel.
    pub tracepoints: Vec<&'static str>,
    /// The operator's wish, if there is one.
    pub wanted: Option<Way>,
}

/// What to attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How.
    pub way: Way,
    /// To which system calls; empty when sampling.
    pub calls: Vec<&'static str>,
    /// A verdict for every hook and every way, by name.
    pub verdicts: BTreeMap<String, Verdict>,
}

/// Chooses the best way these facts allow.
#[must_use]
pub fn choose(facts: &Facts) -> Plan {
    let fentry = way_verdict(
        facts,
        Way::Fentry,
        facts.fentry_refused.as_ref(),
        &facts.functions,
    );
    let tracepoint = way_verdict(
        facts,
        Way::Tracepoint,
        facts.tracefs_refused.as_ref(),
        &facts.tracepoints,
    );
    let way = if fentry == Verdict::Ok {
        Way::Fentry
    } else if tracepoint == Verdict::Ok {
        Way::Tracepoint
    } else {
        Way::Sampling
    };
    let present = match way {
        Way::Fentry => facts.functions.as_slice(),
        Way::Tracepoint => facts.tracepoints.as_slice(),
        Way::Sampling => &[],
    };
    let mut verdicts = BTreeMap::from([
        ("way.fentry".to_owned(), fentry),
        ("way.tracepoint".to_owned(), tracepoint),
        ("way.sampling".to_owned(), Verdict::Ok),
    ]);
    let mut calls = Vec::new();
    if way == Way::Sampling {
        let reason = "without BPF nobody's connections are seen: not a kubelet's probes, nor what engines refuse";
        let verdict = Verdict::Unsupported(reason.to_owned());
        verdicts.insert("hook.inet_sock_set_state".to_owned(), verdict);
    } else {
        for call in POLL_CALLS.into_iter().chain(WAIT_CALLS) {
            if present.contains(&call) {
                calls.push(call);
            } else {
                let reason = format!("this kernel has no {} for {call}", way.name());
                verdicts.insert(format!("hook.{call}"), Verdict::Unsupported(reason));
            }
        }
    }
    Plan {
        way,
        calls,
        verdicts,
    }
}

fn way_verdict(facts: &Facts, way: Way, refused: Option<&String>, present: &[&str]) -> Verdict {
    if let Some(reason) = &facts.bpf_refused {
        return Verdict::Unsupported(reason.clone());
    }
    if let Some(wanted) = facts.wanted
        && wanted != way
    {
        return Verdict::Unsupported(format!("LOOPWARDEN_PLAN asks for {}", wanted.name()));
    }
    if let Some(reason) = refused {
        return Verdict::Unsupported(reason.clone());
    }
    // epoll_pwait is the one call that every architecture has and every modern loop can fall back to.
    for needed in ["epoll_pwait", "wait4"] {
        if !present.contains(&needed) {
            return Verdict::Unsupported(format!(
                "this kernel offers no {} hook for {needed}",
                way.name()
            ));
        }
    }
    Verdict::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<&'static str> {
        POLL_CALLS.into_iter().chain(WAIT_CALLS).collect()
    }

    fn capable() -> Facts {
        Facts {
            functions: all(),
            tracepoints: all(),
            ..Facts::default()
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the fields it fills are options")]
    fn why(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_best_way_that_the_facts_allow_is_chosen() {
        let table = [
            (capable(), Way::Fentry, 9),
            (
                Facts {
                    fentry_refused: why("EPERM"),
                    ..capable()
                },
                Way::Tracepoint,
                9,
            ),
            (
                Facts {
                    fentry_refused: why("EPERM"),
                    tracefs_refused: why("ENOENT"),
                    ..capable()
                },
                Way::Sampling,
                0,
            ),
            (
                Facts {
                    bpf_refused: why("no BTF"),
                    ..capable()
                },
                Way::Sampling,
                0,
            ),
            (
                Facts {
                    wanted: Some(Way::Tracepoint),
                    ..capable()
                },
                Way::Tracepoint,
                9,
            ),
            (
                Facts {
                    wanted: Some(Way::Sampling),
                    ..capable()
                },
                Way::Sampling,
                0,
            ),
            // A wish that cannot be had is not replaced by another BPF way: the operator asked for this one.
            (
                Facts {
                    wanted: Some(Way::Fentry),
                    fentry_refused: why("EPERM"),
                    ..capable()
                },
                Way::Sampling,
                0,
            ),
            (
                Facts {
                    functions: vec!["wait4"],
                    ..capable()
                },
                Way::Tracepoint,
                9,
            ),
            (
                Facts {
                    functions: vec!["wait4"],
                    tracepoints: vec!["epoll_pwait"],
                    ..capable()
                },
                Way::Sampling,
                0,
            ),
        ];
        for (facts, way, calls) in table {
            let plan = choose(&facts);
            assert_eq!((plan.way, plan.calls.len()), (way, calls), "{facts:?}");
        }
    }

    #[test]
    fn calls_that_an_architecture_lacks_are_unsupported_and_not_broken() {
        let arm = Facts {
            functions: vec![
                "epoll_pwait",
                "epoll_pwait2",
                "ppoll",
                "pselect6",
                "wait4",
                "waitid",
            ],
            ..capable()
        };
        let plan = choose(&arm);
        assert_eq!(plan.way, Way::Fentry);
        assert_eq!(plan.verdicts["hook.epoll_wait"].name(), "unsupported");
        assert!(!plan.calls.contains(&"epoll_wait"));
    }

    #[test]
    fn every_refused_way_says_why() {
        let plan = choose(&Facts {
            fentry_refused: why("EPERM"),
            ..capable()
        });
        assert_eq!(
            plan.verdicts["way.fentry"],
            Verdict::Unsupported("EPERM".into())
        );
    }
}
