//! Engines from birth to death: when they listen, accept and end, what their loop was refused meanwhile, and whether the loop has one.
//!
//! Pure: facts with their moments in, news out. `rescue` gathers the facts (kernel events, counts, procfs), asks one [`Engines`] a
//! loop process, and tells the news. It decides nothing that is done to a process.

mod engine;
mod facts;
mod ledger;
mod life;
mod race;
mod ready;
pub mod record;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use facts::{Birth, Ending, Listens, Zombie};
pub use life::Engines;
pub use race::StartupRace;
pub use ready::EngineReady;

use super::ids::{Mono, Pid};

/// Why an engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its parent told it to, or is ending itself.
    Planned,
    /// We ended it.
    Killed,
    /// Nobody of its own told it to.
    Crashed,
    /// Its end was not seen: nothing tells.
    Unknown,
}

impl Why {
    /// Those that can be told, and are counted.
    pub const COUNTED: [Self; 3] = [Self::Planned, Self::Killed, Self::Crashed];

    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Killed => "killed",
            Self::Crashed => "crashed",
            Self::Unknown => "unknown",
        }
    }
}

/// One engine, as news name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineView {
    /// Its process.
    pub pid: Pid,
    /// Basename of its executable.
    pub exe: String,
    /// The how manieth of its loop process it is, since the agent's first sight of that.
    pub generation: u32,
}

/// Something that is to be told of the engines of a loop process.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// When it happened.
    pub at: Mono,
    /// What.
    pub what: EngineNews,
}

/// What.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineNews {
    /// One was started.
    Spawned(EngineView),
    /// One was there before the agent.
    Found(EngineView),
    /// It listens.
    Listening {
        /// Which.
        engine: EngineView,
        /// Where.
        port: u16,
        /// How long after its start; `None` if either moment was not seen.
        after: Option<Duration>,
        /// Connections of the loop's process that were refused before; `None` where they are not seen.
        refused: Option<u64>,
    },
    /// It has accepted its first connection.
    Accepting {
        /// Which.
        engine: EngineView,
        /// How long after its start; `None` if either moment was not seen.
        after: Option<Duration>,
    },
    /// It has ended.
    Ended {
        /// Which.
        engine: EngineView,
        /// Why.
        why: Why,
        /// As wait sees it, if that is known.
        status: Option<i32>,
        /// How long it lived, if its start was seen.
        lived: Option<Duration>,
    },
    /// So many have ended and are not reaped, or not any more.
    Zombies {
        /// How many.
        count: u64,
        /// The one that has waited longest, and who should reap it.
        oldest: Option<(Pid, Pid)>,
    },
    /// Whether the loop has an engine that accepts has changed, or is told for the first time.
    Ready(EngineReady),
    /// So many more connections to engines were completed and refused.
    Connects {
        /// Completed.
        ok: u64,
        /// Refused.
        refused: u64,
    },
    /// The first connection that was accepted after a rescue.
    Recovered {
        /// How long after.
        after: Duration,
    },
    /// The loop was refused until its engine listened, or in vain.
    StartupRace(Box<StartupRace>),
}
