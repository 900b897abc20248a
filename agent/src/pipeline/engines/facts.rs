//! What is reported of an engine: its birth, where it listens, its end, and that nobody has reaped it.

use super::Why;
use super::ledger::Door;
use crate::pipeline::event::{Listener, Place};
use crate::pipeline::{Mono, Pid, PidKey};

/// A new engine, or one that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Birth {
    /// Its process.
    pub key: PidKey,
    /// Basename of its executable.
    pub exe: String,
    /// When it was started, if that was seen.
    pub spawned: Option<Mono>,
    /// When it was first known.
    pub seen: Mono,
}

/// Where it listens, from when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listens {
    /// The moment.
    pub at: Mono,
    /// The port.
    pub port: Listener,
    /// The address; `None` if it was not seen.
    pub place: Option<Place>,
    /// It began at that moment, and not earlier.
    pub exact: bool,
}

impl Listens {
    pub(super) fn door(self) -> Door {
        Door {
            port: self.port,
            place: self.place,
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// When.
    pub at: Mono,
    /// Why.
    pub why: Why,
    /// As wait sees it.
    pub status: Option<i32>,
}

/// A process that has ended and is not reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zombie {
    /// Which.
    pub key: PidKey,
    /// Who should reap it.
    pub parent: Pid,
}
