//! Whether a loop has an engine that accepts connections.

use std::time::Duration;

use crate::pipeline::Mono;

/// For so long it may not be known yet.
pub(super) const UNKNOWN_AFTER: Duration = Duration::from_mins(1);
/// For so long an engine may be starting that is shown to be needed: connections are refused, or one before it had accepted.
pub(super) const STARTS_WITHIN: Duration = Duration::from_mins(10);

/// Whether a loop's process has an engine that accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineReady {
    /// One does.
    Accepts,
    /// None does.
    Starting {
        /// Since then.
        since: Mono,
        /// Connections that were refused meanwhile, and may have been meant for an engine; `None` where they are not seen.
        refused: Option<u64>,
    },
    /// It cannot be told: which is no reason to keep anything from the loop.
    Unknown,
}

impl EngineReady {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepts => "accepts",
            Self::Starting { .. } => "starting",
            Self::Unknown => "unknown",
        }
    }
}

impl EngineReady {
    /// Whether this is no more than was told: the state, and what was refused in it.
    pub(super) fn is_told_by(self, told: Self) -> bool {
        let refused = |ready| match ready {
            Self::Starting { refused, .. } => refused,
            Self::Accepts | Self::Unknown => None,
        };
        self.name() == told.name() && refused(self) == refused(told)
    }
}

/// Starting until then, and not known after.
pub(super) struct Until {
    pub(super) since: Mono,
    pub(super) limit: Option<Mono>,
}

impl Until {
    pub(super) fn at(&self, now: Mono, refused: Option<u64>) -> EngineReady {
        if self.limit.is_some_and(|limit| now >= limit) {
            return EngineReady::Unknown;
        }
        EngineReady::Starting {
            since: self.since,
            refused,
        }
    }
}
