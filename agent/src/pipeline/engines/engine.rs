//! What is known of one engine.

use super::{Birth, EngineNews, EngineView, Listens, News};
use crate::pipeline::Mono;

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) birth: Birth,
    /// Set once it is told of.
    pub(super) generation: Option<u32>,
    pub(super) listens: Option<Listens>,
    /// Refused before it did.
    pub(super) refused: u64,
    pub(super) accepts: Option<Mono>,
    pub(super) ended: Option<Mono>,
}

impl Engine {
    pub(super) fn new(birth: Birth) -> Self {
        Self {
            birth,
            generation: None,
            listens: None,
            refused: 0,
            accepts: None,
            ended: None,
        }
    }

    pub(super) fn view(&self) -> EngineView {
        EngineView {
            pid: self.birth.key.pid,
            exe: self.birth.exe.clone(),
            generation: self.generation.unwrap_or_default(),
        }
    }

    /// Tells of it, unless that was done: it is the next after so many.
    pub(super) fn confirm(&mut self, generations: &mut u32) -> Option<News> {
        if self.generation.is_some() {
            return None;
        }
        *generations += 1;
        self.generation = Some(*generations);
        let view = self.view();
        let (at, what) = match self.birth.spawned {
            Some(spawned) => (spawned, EngineNews::Spawned(view)),
            None => (self.birth.seen, EngineNews::Found(view)),
        };
        Some(News { at, what })
    }
}
