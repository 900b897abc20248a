//! What the exporters ask for when they are about to show something: traits, so that this room knows neither the kernel
//! nor the watch loop.
//!
//! An implementation is called on an exporter's task before each push and for each scrape: it reads memory and must not
//! block.

use std::sync::Arc;
use std::time::Duration;

use crate::pipeline::{Histogram, LoopInfo, LoopTotals};

/// The loops that are watched now.
pub trait LoopSource: Send + Sync {
    /// Each with its counts since it is watched.
    fn loops(&self) -> Vec<(Arc<LoopInfo>, LoopTotals)>;
}

/// The agent's own state.
pub trait AgentSource: Send + Sync {
    /// As it is now.
    fn agent(&self) -> AgentStats;
}

/// How a hook or optional part of the agent fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookVerdict {
    /// Which.
    pub name: String,
    /// `ok`, `unsupported` or `broken`.
    pub verdict: String,
    /// Why, for a person.
    pub reason: String,
}

/// How full a kernel map is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapFill {
    /// Its name.
    pub name: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub limit: u64,
}

/// How the journal fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Finished incidents that have their record.
    pub written: u64,
    /// Incidents that were only counted.
    pub counted: u64,
    /// Notices and records that were lost.
    pub lost: u64,
    /// Bytes in all files.
    pub bytes: u64,
}

/// How the connection to the Kubernetes API fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubernetesStats {
    /// What is known of the pods is so old; nothing before the first answer.
    pub age: Option<Duration>,
    /// Pods of this node that are known.
    pub pods: u64,
    /// Lists begun anew because a watch could not go on.
    pub relists: u64,
    /// Requests and watches that failed.
    pub failures: u64,
    /// Events written.
    pub events: u64,
    /// Events not written.
    pub events_lost: u64,
}

/// The agent's own state. CPU time and memory are not part of it: the exporter reads them itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentStats {
    /// Verdict of every hook and optional part.
    pub hooks: Vec<HookVerdict>,
    /// Counters of the kernel half.
    pub kernel_counters: Vec<(&'static str, u64)>,
    /// Fill of its maps.
    pub maps: Vec<MapFill>,
    /// How late scans were.
    pub scan_lateness: Histogram,
    /// The journal, if one is kept.
    pub journal: Option<JournalStats>,
    /// The Kubernetes API, if it is used.
    pub kubernetes: Option<KubernetesStats>,
    /// Sum of those latenesses.
    pub scan_lateness_sum: Duration,
}
