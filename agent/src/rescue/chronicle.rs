//! Keeps the story of each wait episode for the journal: what the policy was shown, and what came of it.
//!
//! Only what is at hand anyway is kept; nothing is read for it. A story is told just before the end of the stall that it
//! belongs to; one that belongs to none is forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use super::gather::place_of;
use super::loops::{Episode, Loop};
use super::sentinel::Sentinel;
use crate::pipeline::event::{KernelEvent, WaitEnd, WaitOptions, What};
use crate::pipeline::family::Family;
use crate::pipeline::policy::WaitFacts;
use crate::pipeline::story::{Act, EpisodeStory, Look};
use crate::pipeline::{ActionNotice, Mode, Mono, Notice, Pid, PidKey, Tid};

/// Stories kept until the stall they may belong to opens or the next begins.
const MOST_STORIES: usize = 4;

impl Sentinel {
    /// Where no rules ask for a look, what is known without one.
    pub(super) fn glance(&mut self, tid: Tid, options: WaitOptions, now: Mono) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let pid = watched.id.process.pid;
        let parent = self.family.get(pid);
        let children = self.family.children(pid);
        let placed: Vec<_> = children
            .into_iter()
            .map(|child| (child, place_of(child, parent)))
            .collect();
        if let Some(episode) = &mut watched.episode {
            episode.story.look(Look::glance(&placed, options, now));
        }
    }

    /// A look of the policy: the facts it was shown, for the moment it had asked for.
    pub(super) fn note_look(&mut self, tid: Tid, facts: &WaitFacts, asked: Mono, now: Mono) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let process = watched.id.process;
        let enforce = self.settings.mode(watched.target) == Mode::Enforce;
        let Some(episode) = &mut watched.episode else {
            return;
        };
        let story = &mut episode.story;
        if story.looks.is_empty() && enforce {
            let spent = self.budgets.get(&process.pid);
            story.kills_before = spent.map_or_else(Vec::new, |budget| budget.newest().collect());
            story.node_kills_before = self.node_budget.newest().collect();
        }
        story.look(Look::of(facts, episode.held, (asked, now)));
        let below = facts.children.iter().flat_map(|child| &child.engines_below);
        let heard = facts
            .children
            .iter()
            .chain(below)
            .map(|child| child.key.pid);
        for pid in heard.chain([process.pid]) {
            if let Some(process) = self.family.get(pid) {
                story.hear(process);
            }
        }
    }

    /// The kernel tells how the wait ended, and when.
    pub(super) fn note_wait_end(&mut self, event: &KernelEvent, start: Mono, how: WaitEnd) {
        let episode = self
            .loops
            .get_mut(&event.tid)
            .and_then(|watched| watched.episode.as_mut());
        if let Some(episode) = episode.filter(|episode| episode.start == start) {
            episode.story.over = Some(event.at);
            episode.story.how = Some(how);
        }
    }

    pub(super) fn note_action(&mut self, tid: Tid, action: &ActionNotice) {
        let episode = self
            .loops
            .get_mut(&tid)
            .and_then(|watched| watched.episode.as_mut());
        if let Some(episode) = episode {
            episode.story.acted(Act {
                at: action.at,
                child: action.child,
                signal: action.signal,
                outcome: action.outcome.into(),
                refused_by: action.outcome.refusal(),
            });
        }
    }

    /// Keeps the story of an episode that is over, for the stall it may belong to.
    pub(super) fn keep_story(&mut self, tid: Tid, over: Episode, now: Mono) {
        if over.story_told {
            return;
        }
        let mut story = *over.story;
        self.hear_the_living(&mut story);
        story.over.get_or_insert(now);
        if let Some(watched) = self.loops.get_mut(&tid) {
            if watched.stories.len() >= MOST_STORIES {
                watched.stories.remove(0);
            }
            watched.stories.push(story);
        }
    }

    fn hear_the_living(&self, story: &mut EpisodeStory) {
        let children: Vec<Pid> = story.processes().collect();
        for pid in children {
            if let Some(process) = self.family.get(pid) {
                story.hear(process);
            }
        }
    }

    /// Tells the stories of the stall that is about to be closed.
    pub(super) fn tell_stories(&mut self, tid: Tid, at: Mono) {
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        let mut stories = std::mem::take(&mut watched.stories);
        let (Some(stall), Some(info)) = (&watched.stall, watched.info.clone()) else {
            return;
        };
        let (incident, since) = (stall.incident, stall.since);
        if let Some(episode) = &mut watched.episode
            && !episode.story_told
        {
            // The loop is back or gone, and with that the wait is over: its own event may still be on its way.
            episode.story_told = true;
            let mut story = EpisodeStory::clone(&episode.story);
            self.hear_the_living(&mut story);
            story.over.get_or_insert(at);
            stories.push(story);
        }
        for story in stories {
            if story.over.is_none_or(|over| over > since) {
                let (info, story) = (info.clone(), Arc::new(story));
                self.tell(Notice::Episode {
                    incident,
                    info,
                    story,
                });
            }
        }
    }
}

/// A process has ended and is about to be forgotten by the family: what is known of it goes into the stories.
pub(super) fn note_event(loops: &mut HashMap<Tid, Loop>, family: &Family, event: &KernelEvent) {
    if let What::Exited { start_ns, status } = event.what {
        let key = PidKey {
            pid: event.pid,
            start_ns,
        };
        note_end(loops, family, key, (event.at, Some(status)));
    }
}

/// The same, however it was learnt of.
pub(super) fn note_end(
    loops: &mut HashMap<Tid, Loop>,
    family: &Family,
    key: PidKey,
    (at, status): (Mono, Option<i32>),
) {
    let Some(process) = family.get(key.pid).filter(|known| known.key.matches(key)) else {
        return;
    };
    let episodes = loops
        .values_mut()
        .filter_map(|watched| watched.episode.as_mut());
    for episode in episodes.filter(|episode| episode.story.knows(key.pid)) {
        episode.story.hear(process);
        episode.story.ended(key.pid, at, status);
    }
}
