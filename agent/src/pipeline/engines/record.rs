//! The record of a startup race, as the journal keeps it. It follows the rules of `pipeline::record`: readers take fields that they do not know.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StartupRace;
use crate::pipeline::record::{VERSION, Who};
use crate::pipeline::stamp::{Stamp, Tied, millis};
use crate::pipeline::{IncidentId, LoopInfo, Mono, Pid};

/// A loop was refused because its engine did not listen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RaceRecord {
    /// Version of the format.
    pub v: u32,
    /// Its name.
    pub incident: IncidentId,
    /// The run of the agent that saw it.
    pub run: IncidentId,
    /// A loop of the process that was refused.
    pub who: Who,
    /// When the first connection was refused.
    pub began: Stamp,
    /// When it was over.
    pub ended: Stamp,
    /// How long that is.
    #[serde(rename = "lasted_ms", with = "millis")]
    pub lasted: Duration,
    /// Connections that were refused.
    pub refused: u64,
    /// The engine's process.
    pub engine: Pid,
    /// Basename of its executable.
    #[serde(default)]
    pub exe: String,
    /// The how manieth of its loop's process it is.
    #[serde(default)]
    pub generation: u32,
    /// Where it listens; absent if it ended before it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// From its start until it listened.
    #[serde(
        rename = "startup_ms",
        with = "millis::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub startup: Option<Duration>,
}

impl RaceRecord {
    /// Of what was told at that moment.
    #[must_use]
    pub fn new(
        run: IncidentId,
        info: &LoopInfo,
        race: &StartupRace,
        at: Mono,
        clock: Tied,
    ) -> Self {
        Self {
            v: VERSION,
            incident: race.incident,
            run,
            who: Who::from(info),
            began: clock.stamp(race.began),
            ended: clock.stamp(at),
            lasted: race.lasted,
            refused: race.refused,
            engine: race.engine.pid,
            exe: race.engine.exe.clone(),
            generation: race.engine.generation,
            port: race.port,
            startup: race.startup,
        }
    }
}
