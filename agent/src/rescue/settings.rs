//! What the rescue thread is told to do.

use std::time::Duration;

use crate::pipeline::Mode;
use crate::pipeline::policy::EngineRules;

/// How engines of one target are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// The graces.
    pub rules: EngineRules,
    /// At most so many kills of one loop process …
    pub max_kills: usize,
    /// … in so much time.
    pub per: Duration,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSettings {
    /// Its name.
    pub name: String,
    /// From which length on an iteration is a stall.
    pub stall_after: Duration,
    /// Its engines; without, nothing is ever signalled.
    pub engine: Option<EngineSettings>,
}

/// Limits of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most so many kills on the node …
    pub node_kills: usize,
    /// … in so much time.
    pub per: Duration,
    /// Pause of a loop process after an action.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            node_kills: 200,
            per: Duration::from_mins(1),
            pause: Duration::from_secs(1),
        }
    }
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether signals are sent.
    pub mode: Mode,
    /// The targets, by number.
    pub targets: Vec<TargetSettings>,
    /// Limits of the node.
    pub limits: Limits,
    /// Match every new process of the machine against the targets.
    pub match_all: bool,
}
