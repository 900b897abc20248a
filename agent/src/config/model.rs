//! The configuration as the program uses it: plain values, every one of them checked.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::pattern::{CmdlineGlob, ExeGlob};
use crate::pipeline::{Collect, Mode, Pid};

/// A complete configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Whether signals are sent.
    pub mode: Mode,
    /// What is watched; the first target that matches a process is the one it belongs to. Names are unique.
    pub targets: Vec<Target>,
    /// What holds for all targets together.
    pub limits: Limits,
    /// What pod annotations may ask for.
    pub annotations: Annotations,
    /// How the Kubernetes API is asked.
    pub kubernetes: Kubernetes,
    /// What is found out about stalls, and what that may cost.
    pub evidence: EvidenceRules,
    /// Where the figures go.
    pub export: Export,
    /// Where incidents are kept.
    pub journal: Journal,
}

/// What is found out about stalls beyond the quick look that names their cause, and what that may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvidenceRules {
    /// How far it goes.
    pub collect: Collect,
    /// About one loop it is gathered so often.
    pub per_loop: Duration,
    /// All of it may take so many hundredths of one core.
    pub node_cpu_percent: u8,
}

/// One kind of process to watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Name in output and metrics.
    pub name: String,
    /// Which processes belong to it.
    pub matcher: Matcher,
    /// An iteration longer than this is a stall.
    pub stall_after: Duration,
    /// When a child may be ended; without it nothing is ever signalled for this target.
    pub engine: Option<EnginePolicy>,
    /// The liveness probe, where no pod spec tells.
    pub liveness: Option<Liveness>,
}

/// Which processes belong to a target: those for which everything given here is true.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matcher {
    /// Basename of the executable.
    pub exe: Option<ExeGlob>,
    /// Something in the command line.
    pub cmdline: Option<CmdlineGlob>,
    /// Of which pod.
    pub kubernetes: Option<KubernetesMatch>,
    /// Only these processes (an empty list: none yet): from the command line of `watch`, never from a file.
    pub pids: Option<Vec<Pid>>,
}

/// Which pods belong to a target.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KubernetesMatch {
    /// Namespace.
    pub namespace: Option<String>,
    /// Labels that the pod must have.
    pub labels: BTreeMap<String, String>,
}

/// When an engine child may be ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EnginePolicy {
    /// What an engine is; never empty, one of them must match.
    pub matchers: Vec<EngineMatcher>,
    /// How long after the parent's first termination signal, or the start of the wait if that is later.
    pub grace: Duration,
    /// The same when the wait is older than the agent; never less than `grace`.
    pub unknown_grace: Duration,
    /// The same when nobody told the engine to end; `None` is never. Never less than `grace`.
    pub untold_grace: Option<Duration>,
    /// Whether an engine below a shell or wrapper is signalled too.
    pub through_wrapper: bool,
    /// How many engines of one loop process may be ended.
    pub max_kills: Budget,
}

/// One way to know an engine: everything given must match.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineMatcher {
    /// Basename of the executable as recorded at exec.
    pub exe: Option<ExeGlob>,
    /// Something in the command line.
    pub cmdline: Option<CmdlineGlob>,
}

/// At most `count` within any span of `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// How many.
    pub count: u32,
    /// Within what time.
    pub per: Duration,
}

/// A liveness probe as the kubelet would make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// periodSeconds.
    pub period: Duration,
    /// timeoutSeconds.
    pub timeout: Duration,
    /// failureThreshold.
    pub failures: u32,
    /// The port, where one is named; else those on which the process listens.
    pub port: Option<u16>,
    /// From how long before the kill decision the risk is imminent.
    pub imminent_margin: Duration,
}

impl From<super::probe::Probe> for Liveness {
    fn from(probe: super::probe::Probe) -> Self {
        Self {
            period: probe.period,
            timeout: probe.timeout,
            failures: probe.failures,
            port: probe.port,
            imminent_margin: defaults::IMMINENT_MARGIN,
        }
    }
}

/// What holds for all targets together.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// How many engines of the whole node may be ended.
    pub node_kills: Budget,
    /// How long nothing is signalled for a loop process after a SIGKILL that was sent to its child.
    pub pause: Duration,
}

/// What pod annotations may ask for beyond asking for less.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Annotations {
    /// The words, in the order given.
    pub allow: Vec<Allowance>,
}

/// One thing a pod annotation may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// `loopwarden.dev/mode: enforce`.
    Enforce,
    /// `loopwarden.dev/engine`.
    Engine,
    /// A `loopwarden.dev/grace` below the target's.
    ShorterGrace,
    /// `loopwarden.dev/stall-after`.
    StallAfter,
}

/// How the Kubernetes API is asked for this node's pods, and told of what happens to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether it is.
    pub api: ApiUse,
    /// A kubeconfig; none means the service account of the agent's own pod.
    pub kubeconfig: Option<PathBuf>,
    /// The node's name; none means `NODE_NAME`, else the host name.
    pub node: Option<String>,
    /// Whether Events are written.
    pub events: bool,
    /// Whether the pod condition for readiness gates is written.
    pub engine_ready: bool,
}

/// Whether the Kubernetes API is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApiUse {
    /// Where there is a kubeconfig, or the agent runs in a pod.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Where the figures go.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// OTLP push; none means only what `OTEL_*` variables ask for.
    pub otlp: Option<Otlp>,
    /// The Prometheus page; none means no page.
    pub metrics: Option<Metrics>,
}

/// OTLP push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// An http or https URL without credentials and without a query, so that it may be shown.
    pub endpoint: String,
    /// How.
    pub protocol: OtlpProtocol,
}

/// The transport of OTLP, by the words of `OTEL_EXPORTER_OTLP_PROTOCOL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtlpProtocol {
    /// `grpc`.
    #[default]
    Grpc,
    /// `http/protobuf`.
    HttpProtobuf,
}

/// The Prometheus page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Address to listen on.
    pub listen: SocketAddr,
}

/// Where incidents are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// Folder.
    pub dir: PathBuf,
    /// The oldest incidents go when this is reached.
    pub max_bytes: u64,
}

impl Matcher {
    /// Whether a process belongs here by what can be read of it; says nothing about its pod.
    #[must_use]
    pub fn matches(&self, pid: Pid, exe: &[u8], cmdline: &[u8]) -> bool {
        self.pids.as_ref().is_none_or(|pids| pids.contains(&pid))
            && self.exe.as_ref().is_none_or(|glob| glob.matches(exe))
            && self
                .cmdline
                .as_ref()
                .is_none_or(|glob| glob.matches(cmdline))
    }
}

impl EnginePolicy {
    /// Whether a child with this executable basename and command line, as recorded at exec, is an engine.
    #[must_use]
    pub fn is_engine(&self, exe: &[u8], cmdline: &[u8]) -> bool {
        self.matchers.iter().any(|matcher| {
            // A matcher without any condition cannot be made from a file; if code makes one, it names nothing.
            (matcher.exe.is_some() || matcher.cmdline.is_some())
                && matcher.exe.as_ref().is_none_or(|glob| glob.matches(exe))
                && matcher
                    .cmdline
                    .as_ref()
                    .is_none_or(|glob| glob.matches(cmdline))
        })
    }
}

/// What holds where a file says nothing. `docs/configuration.md` tells the same.
pub mod defaults {
    use super::{
        ApiUse, Budget, Collect, Duration, EvidenceRules, Ipv4Addr, Journal, Kubernetes, Limits,
        Metrics, PathBuf, SocketAddr,
    };

    /// The preset that is watched where no targets are given.
    pub const PRESET: &str = "litellm";
    /// `targets[].stall_after`.
    pub const STALL_AFTER: Duration = Duration::from_millis(100);
    /// `targets[].engine.grace`.
    pub const GRACE: Duration = Duration::from_millis(500);
    /// `targets[].engine.unknown_grace`, unless `grace` is longer.
    pub const UNKNOWN_GRACE: Duration = Duration::from_secs(10);
    /// `targets[].engine.max_kills`.
    pub const MAX_KILLS: Budget = Budget {
        count: 20,
        per: Duration::from_mins(10),
    };
    /// `targets[].liveness.imminent_margin`.
    pub const IMMINENT_MARGIN: Duration = Duration::from_secs(10);
    /// `limits`.
    pub const LIMITS: Limits = Limits {
        node_kills: Budget {
            count: 200,
            per: Duration::from_mins(1),
        },
        pause: Duration::from_secs(1),
    };
    /// `evidence`.
    pub const EVIDENCE: EvidenceRules = EvidenceRules {
        collect: Collect::Full,
        per_loop: Duration::from_secs(1),
        node_cpu_percent: 2,
    };
    /// `kubernetes`.
    pub const KUBERNETES: Kubernetes = Kubernetes {
        api: ApiUse::Auto,
        kubeconfig: None,
        node: None,
        events: true,
        engine_ready: false,
    };
    /// `export.metrics`.
    pub const METRICS: Metrics = Metrics {
        listen: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9469),
    };

    /// `journal`.
    #[must_use]
    pub fn journal() -> Journal {
        Journal {
            dir: PathBuf::from("/var/lib/loopwarden"),
            max_bytes: 64 << 20,
        }
    }
}
