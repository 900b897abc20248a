//! One row of the table: what was planned for a proxy, and what was seen.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::guard;
use super::lab::OWN_FIX;
use super::probe::{Figures, Probe};
use super::sampler::Seen;

/// What is to be done with one proxy.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) version: &'static str,
    /// The guard's grace; without one there is no guard.
    pub(crate) grace: Option<Duration>,
}

impl Plan {
    pub(crate) fn name(&self) -> String {
        let version = self.version;
        match self.grace {
            Some(grace) => format!("{version}, guarded, grace {} ms", grace.as_millis()),
            None if version == OWN_FIX => format!("{version}, its own fix"),
            None => format!("{version}, unguarded"),
        }
    }
}

/// What happened to it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    pub(crate) grace_ms: Option<u128>,
    /// Rows of the same session ran at the same time and can be compared best.
    pub(crate) session: usize,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    #[serde(flatten)]
    pub(crate) seen: Seen,
    pub(crate) longest_wait_ms: f64,
    pub(crate) ready_after_thaw_s: Option<f64>,
    pub(crate) freeze_start_ms: f64,
    pub(crate) thaw_ms: f64,
    pub(crate) probe_late_ms: f64,
    /// The guard's lines.
    pub(crate) guard: Vec<Value>,
    pub(crate) raw: Vec<Probe>,
}

impl Row {
    /// Signals that the guard says it has sent.
    pub(crate) fn actions(&self) -> usize {
        guard::of_type(&self.guard, "action")
            .iter()
            .filter(|line| line["outcome"] == "sent")
            .count()
    }

    /// Stalls that the guard says it has ended.
    pub(crate) fn rescues(&self) -> usize {
        guard::of_type(&self.guard, "stall_closed")
            .iter()
            .filter(|line| line["rescued"] == true)
            .count()
    }

    /// Events that the guard says it has lost.
    pub(crate) fn lost(&self) -> u64 {
        guard::of_type(&self.guard, "lost")
            .iter()
            .filter_map(|line| line["count"].as_u64())
            .sum()
    }
}
