//! Whether a loop has an engine that accepts connections.

use std::time::Duration;

use super::ledger::Door;
use super::{Engines, Why};
use crate::pipeline::Mono;

/// For so long it may not be known yet.
const UNKNOWN_AFTER: Duration = Duration::from_mins(1);
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
struct Until {
    since: Mono,
    limit: Option<Mono>,
}

impl Until {
    fn at(&self, now: Mono, refused: Option<u64>) -> EngineReady {
        if self.limit.is_some_and(|limit| now >= limit) {
            return EngineReady::Unknown;
        }
        EngineReady::Starting {
            since: self.since,
            refused,
        }
    }
}

impl Engines {
    /// Whether the loop has an engine that accepts, and until when that holds if nothing happens.
    pub(super) fn ready(&self, now: Mono) -> (EngineReady, Option<Mono>) {
        if self.accepts_now() {
            return (EngineReady::Accepts, None);
        }
        let known: Vec<Door> = self
            .doors()
            .into_iter()
            .chain(self.former.clone())
            .collect();
        let newest = self.living().last();
        let spawned = newest.and_then(|engine| engine.birth.spawned);
        let refused = spawned.and_then(|spawned| self.ledger.nowhere(&known, spawned));
        let needed = refused.is_some() || self.last.is_some();
        let until = match (newest, spawned) {
            // It was there before the agent, and so perhaps was its first connection.
            (Some(_), None) => return (EngineReady::Unknown, None),
            (Some(engine), Some(spawned)) => Until {
                since: if needed {
                    self.since.max(spawned)
                } else {
                    spawned
                },
                limit: Some(match engine.listens {
                    Some(listens) => listens.at.plus(UNKNOWN_AFTER),
                    None if needed => spawned.plus(STARTS_WITHIN),
                    None => spawned.plus(UNKNOWN_AFTER),
                }),
            },
            (None, _) => match self.last {
                None if !self.seen_born => return (EngineReady::Unknown, None),
                // It may want none any more.
                None | Some(Why::Planned | Why::Unknown) => Until {
                    since: self.since,
                    limit: Some(self.since.plus(UNKNOWN_AFTER)),
                },
                Some(Why::Killed | Why::Crashed) => Until {
                    since: self.since,
                    limit: None,
                },
            },
        };
        let before = newest.map_or(0, |engine| engine.refused);
        let refused = self
            .counts
            .then(|| refused.map_or(0, |refused| refused.count) + before);
        let ready = until.at(now, refused);
        let limit = until.limit.filter(|limit| *limit > now);
        (ready, limit)
    }
}
