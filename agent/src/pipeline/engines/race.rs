//! Startup races: a loop that was refused because its engine did not listen.

use std::time::Duration;

use super::EngineView;
use super::ledger::Refused;
use crate::pipeline::{IncidentId, Mono};

/// Refusals from the first one on that are no more than a parent's way to see whether its engine listens.
const RACE_AFTER: Duration = Duration::from_secs(1);

/// A loop was refused because its engine did not listen yet: an incident, told when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupRace {
    /// Its name.
    pub incident: IncidentId,
    /// The engine that came to listen, or ended before.
    pub engine: EngineView,
    /// When the first connection was refused.
    pub began: Mono,
    /// How long it lasted from then on.
    pub lasted: Duration,
    /// Connections that were refused.
    pub refused: u64,
    /// Where the engine listens now; `None` if it ended before it did.
    pub port: Option<u16>,
    /// From the engine's start until it listened, if both were seen.
    pub startup: Option<Duration>,
}

impl StartupRace {
    /// Refusals that have come to an end, if they were more than a parent's way to see whether its engine listens.
    pub(super) fn of(
        engine: EngineView,
        refused: Refused,
        ended: Mono,
        incident: IncidentId,
    ) -> Option<Self> {
        let lasted = ended.since(refused.first);
        (lasted >= RACE_AFTER).then_some(Self {
            incident,
            engine,
            began: refused.first,
            lasted,
            refused: refused.count,
            port: None,
            startup: None,
        })
    }
}
