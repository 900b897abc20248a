//! Which finished incidents of the journal a collector has: everything before the cursor, and some behind it.
//!
//! Pure. Whatever a run of the agent finishes is sent by the exporters as it happens (`Queued`); what they had to give up, and what
//! an earlier run did not get rid of, waits here, and is sent again from the journal, a few at a time: never more than one part is
//! unanswered, so a collector that is away costs one part of room in the exporters' queue. The cursor is kept on disk, so an end
//! is sent at least once, and twice only where the agent ends between the collector's answer and the cursor's next writing, or
//! where answers were missed.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::writer::Position;
use crate::export::delivery::Delivery;
use crate::pipeline::IncidentId;

/// Incidents that are kept track of; the oldest are given up.
pub(super) const MOST: usize = 16_384;
/// Answers for incidents that have no record yet, or will never have one.
const EARLY: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The exporters have its event.
    Queued,
    /// To be sent from the journal.
    Waiting,
    /// Sent from the journal, without an answer yet.
    Fed,
}

/// What was finished and is not known to have arrived.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: BTreeMap<Position, (IncidentId, State)>,
    places: HashMap<IncidentId, Position>,
    /// Answers that came before the record was written.
    early: VecDeque<(IncidentId, Delivery)>,
    end: Position,
    given_up: u64,
}

impl Backlog {
    /// Begins with what an earlier run left, up to `end`.
    pub(super) fn start(
        &mut self,
        left: impl IntoIterator<Item = (IncidentId, Position)>,
        end: Position,
    ) {
        *self = Self {
            end,
            given_up: self.given_up,
            ..Self::default()
        };
        for (incident, at) in left {
            self.add(incident, at, State::Waiting);
        }
    }

    /// A record was written at `at`, and ends before `end`.
    pub(super) fn appended(&mut self, incident: IncidentId, at: Position, end: Position) {
        self.end = end;
        let early = self.early.iter().position(|(known, _)| *known == incident);
        match early.and_then(|early| self.early.remove(early)) {
            None => self.add(incident, at, State::Queued),
            Some((_, Delivery::GivenUp)) => self.add(incident, at, State::Waiting),
            Some((_, Delivery::Taken | Delivery::Refused)) => {}
        }
    }

    /// Other lines were written up to here.
    pub(super) fn passed(&mut self, end: Position) {
        self.end = end;
    }

    fn add(&mut self, incident: IncidentId, at: Position, state: State) {
        self.entries.insert(at, (incident, state));
        self.places.insert(incident, at);
        if self.entries.len() > MOST
            && let Some((_, (oldest, _))) = self.entries.pop_first()
        {
            self.places.remove(&oldest);
            self.give_up(1);
        }
    }

    /// Takes an answer.
    pub(super) fn delivered(&mut self, delivery: Delivery, incidents: &[IncidentId]) {
        for incident in incidents {
            match (self.places.get(incident), delivery) {
                (None, _) => {
                    self.early.push_back((*incident, delivery));
                    if self.early.len() > EARLY {
                        self.early.pop_front();
                    }
                }
                (Some(place), Delivery::GivenUp) => {
                    self.entries.insert(*place, (*incident, State::Waiting));
                }
                (Some(_), Delivery::Taken | Delivery::Refused) => self.forget(*incident),
            }
        }
    }

    /// Answers were missed: rather twice than never.
    pub(super) fn missed_answers(&mut self) {
        for (_, state) in self.entries.values_mut() {
            *state = State::Waiting;
        }
    }

    /// Nothing more is to be done for this one.
    pub(super) fn forget(&mut self, incident: IncidentId) {
        if let Some(place) = self.places.remove(&incident) {
            self.entries.remove(&place);
        }
    }

    /// What is to be sent now, oldest first: nothing while the last part is unanswered.
    pub(super) fn feed(&mut self, most: usize) -> Vec<(IncidentId, Position)> {
        if self.entries.values().any(|(_, state)| *state == State::Fed) {
            return Vec::new();
        }
        let waiting = self
            .entries
            .iter_mut()
            .filter(|(_, (_, state))| *state == State::Waiting)
            .take(most);
        waiting
            .map(|(place, (incident, state))| {
                *state = State::Fed;
                (*incident, *place)
            })
            .collect()
    }

    /// Everything before has arrived.
    pub(super) fn cursor(&self) -> Position {
        self.entries
            .first_key_value()
            .map_or(self.end, |(place, _)| *place)
    }

    /// So many will never be sent.
    pub(super) fn give_up(&mut self, count: u64) {
        self.given_up += count;
    }

    /// How many were given up since the last call.
    pub(super) fn given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { file: 1, offset }
    }

    fn id(number: u64) -> IncidentId {
        IncidentId(number.into())
    }

    fn left(count: u64) -> Vec<(IncidentId, Position)> {
        (0..count).map(|n| (id(n), at(n * 10))).collect()
    }

    #[test]
    fn what_an_earlier_run_left_goes_out_in_order_one_part_at_a_time() {
        let mut backlog = Backlog::default();
        backlog.start(left(5), at(50));
        let first = backlog.feed(2);
        assert_eq!(first, [(id(0), at(0)), (id(1), at(10))]);
        assert!(backlog.feed(2).is_empty(), "the first part is unanswered");
        backlog.delivered(Delivery::Taken, &[id(0), id(1)]);
        assert_eq!(backlog.cursor(), at(20));
        assert_eq!(backlog.feed(9).len(), 3);
        backlog.delivered(Delivery::Refused, &[id(2), id(3), id(4)]);
        assert_eq!((backlog.cursor(), backlog.feed(9).len()), (at(50), 0));
    }

    #[test]
    fn what_the_exporters_gave_up_is_sent_again() {
        let mut backlog = Backlog::default();
        for n in 0..3 {
            backlog.appended(id(n), at(n * 10), at(n * 10 + 10));
        }
        assert!(backlog.feed(9).is_empty(), "the exporters have them");
        backlog.delivered(Delivery::GivenUp, &[id(0), id(1)]);
        assert_eq!(backlog.feed(9).len(), 2);
        backlog.delivered(Delivery::Taken, &[id(2), id(1)]);
        assert_eq!(backlog.cursor(), at(0));
        backlog.delivered(Delivery::GivenUp, &[id(0)]);
        assert_eq!(backlog.feed(9), [(id(0), at(0))]);
        backlog.delivered(Delivery::Taken, &[id(0)]);
        assert_eq!(backlog.cursor(), at(30));
    }

    #[test]
    fn after_missed_answers_all_that_is_open_is_sent_again() {
        let mut backlog = Backlog::default();
        backlog.start(left(1), at(10));
        assert_eq!(backlog.feed(9).len(), 1);
        backlog.appended(id(1), at(10), at(20));
        backlog.missed_answers();
        backlog.delivered(Delivery::Taken, &[id(1)]);
        assert_eq!(backlog.feed(9), [(id(0), at(0))]);
    }

    #[test]
    fn an_answer_may_come_before_the_record_is_written() {
        let mut backlog = Backlog::default();
        backlog.delivered(Delivery::Taken, &[id(1), id(7)]);
        backlog.appended(id(1), at(0), at(10));
        assert_eq!(backlog.cursor(), at(10));
        backlog.delivered(Delivery::GivenUp, &[id(2)]);
        backlog.appended(id(2), at(10), at(20));
        assert_eq!(backlog.feed(9), [(id(2), at(10))]);
        for n in 100..100 + 2 * EARLY as u64 {
            backlog.delivered(Delivery::Taken, &[id(n)]);
        }
        assert_eq!(backlog.early.len(), EARLY);
    }

    #[test]
    fn an_outage_of_weeks_stays_bounded() {
        let mut backlog = Backlog::default();
        let many = MOST as u64 + 10;
        for n in 0..many {
            backlog.appended(id(n), at(n), at(n + 1));
            backlog.delivered(Delivery::GivenUp, &[id(n)]);
        }
        assert_eq!((backlog.given_up(), backlog.cursor()), (10, at(10)));
        assert_eq!(backlog.places.len(), MOST);
    }
}
