//! When the next thing about a loop can be due.

use super::act::INEFFECTIVE_AFTER;
use super::loops::{Loop, Struck};
use super::sentinel::Sentinel;

use crate::pipeline::Mono;
use crate::pipeline::event::Beat;

impl Sentinel {
    /// The earliest moment at which something about a loop can be due.
    pub(super) fn due_of(&self, watched: &Loop, now: Mono) -> Mono {
        let mut due = match (
            &watched.stall,
            watched.last.as_ref().map(|reading| reading.beat),
        ) {
            (Some(stall), _) => stall.next_look,
            (None, Some(Beat::Busy { since })) => since.plus(watched.stall_after),
            (
                None,
                Some(Beat::Polling {
                    deadline: Some(deadline),
                    ..
                }),
            ) => deadline.plus(watched.stall_after),
            _ => now.plus(watched.stall_after),
        };
        if watched.stall.is_none() && due <= now {
            due = now.plus(watched.stall_after);
        }
        if let Some(episode) = &watched.episode
            && let Some(next) = episode.next_look
        {
            due = due.min(next);
        }
        if let Some(next) = self.risk_due(watched, now) {
            due = due.min(next);
        }
        let outstanding = |struck: &&Struck| struck.ended.is_none() && !struck.said_ineffective;
        for struck in watched
            .stall
            .iter()
            .flat_map(|stall| &stall.strikes)
            .filter(outstanding)
        {
            due = due.min(struck.at.plus(INEFFECTIVE_AFTER));
        }
        due
    }
}
