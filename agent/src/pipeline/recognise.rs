//! Which threads are event loops, and which poller is a loop's own.
//!
//! A loop thread returns again and again to one poller that no other thread polls. A poller shared by threads is a pool's
//! (Go, tokio). A poll on anything else (`requests` waiting on its socket, `communicate` on a pipe) is part of the
//! iteration, however often it is called.

use super::event::{PollClass, Poller};

/// Polls of one epoll descriptor after which a thread counts as a loop.
const EPOLL_RETURNS: u64 = 2;
/// The same for poll and select, which libraries also call in short loops of their own.
const POLL_RETURNS: u64 = 8;

/// What is known of a thread that polls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Pollers it has used, with counts.
    pub pollers: Vec<(Poller, u64)>,
    /// It was found inside this poller when the agent came.
    pub found_in: Option<Poller>,
    /// It has stayed there, or away from it, for long enough that the other threads of a pool would have shown themselves.
    pub settled: bool,
    /// Pollers that other threads of its process have used.
    pub shared: Vec<Poller>,
    /// It leads a process that was born under the agent, so that these are all the polls it has ever made.
    pub leads_from_birth: bool,
    /// It is blocked in a wait for an engine that was told to end.
    pub wedged: bool,
}

/// What a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognised {
    /// An event loop, with its own poller.
    Loop(Poller),
    /// One of several threads behind one poller.
    Pool(Poller),
    /// Not to be told yet.
    Undecided,
}

/// Decides on the evidence so far.
#[must_use]
pub fn recognise(candidate: &Candidate) -> Recognised {
    match candidate.own() {
        Some(own) if candidate.shared.contains(&own) => Recognised::Pool(own),
        Some(own) => Recognised::Loop(own),
        None => Recognised::Undecided,
    }
}

impl Candidate {
    /// The poller it returns to, if it is known to return to one.
    #[must_use]
    pub fn own(&self) -> Option<Poller> {
        let favourite = self
            .pollers
            .iter()
            .map(|(poller, count)| (poller, count + u64::from(self.found_in == Some(*poller))))
            .filter(|(poller, count)| poller.fd >= 0 && *count >= needed(poller.class))
            // An epoll descriptor wins over any poll or select: who has one uses the others for single waits.
            .max_by_key(|(poller, count)| (poller.class == PollClass::Epoll, *count))
            .map(|(poller, _)| *poller);
        let found = self
            .found_in
            .filter(|poller| self.settled && poller.class == PollClass::Epoll);
        // Stuck after the one poll of its life it will not come back to show itself. It counts as a thread does that was
        // stalled already when the agent came: a leader, and the only one to poll its process's epoll descriptor.
        let only = match self.pollers.as_slice() {
            [(poller, _)] if poller.class == PollClass::Epoll && poller.fd >= 0 => Some(*poller),
            _ => None,
        };
        let only = only.filter(|_| self.leads_from_birth && self.wedged);
        favourite.or(found).or(only)
    }

    /// Whether it is one of the threads behind a poller that has turned out to be a pool's: it returns to it, or was found at it
    /// and has not polled since.
    #[must_use]
    pub fn belongs_to(&self, pool: Poller) -> bool {
        let not_since = self.pollers.is_empty() && self.found_in == Some(pool);
        not_since || self.own() == Some(pool)
    }
}

const fn needed(class: PollClass) -> u64 {
    match class {
        PollClass::Epoll => EPOLL_RETURNS,
        PollClass::Poll | PollClass::Select => POLL_RETURNS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOLL: Poller = Poller {
        class: PollClass::Epoll,
        fd: 5,
    };
    const POLL: Poller = Poller {
        class: PollClass::Poll,
        fd: 9,
    };
    const NAP: Poller = Poller {
        class: PollClass::Poll,
        fd: -1,
    };

    fn candidate(pollers: &[(Poller, u64)]) -> Candidate {
        Candidate {
            pollers: pollers.to_vec(),
            ..Candidate::default()
        }
    }

    fn newborn(pollers: &[(Poller, u64)]) -> Candidate {
        Candidate {
            leads_from_birth: true,
            wedged: true,
            ..candidate(pollers)
        }
    }

    #[test]
    fn who_was_found_at_a_pool_s_poller_belongs_to_it_until_it_polls_elsewhere() {
        let found = Candidate {
            found_in: Some(EPOLL),
            ..candidate(&[])
        };
        assert!(found.belongs_to(EPOLL), "settled or not");
        assert!(!found.belongs_to(POLL));
        let elsewhere = Candidate {
            pollers: vec![(POLL, 9)],
            ..found
        };
        assert!(!elsewhere.belongs_to(EPOLL));
        assert!(candidate(&[(EPOLL, 2)]).belongs_to(EPOLL));
        assert!(!candidate(&[(EPOLL, 1)]).belongs_to(EPOLL));
    }

    #[test]
    fn threads_are_told_apart() {
        let table = [
            ("never polled", candidate(&[]), Recognised::Undecided),
            (
                "polled once",
                candidate(&[(EPOLL, 1)]),
                Recognised::Undecided,
            ),
            (
                "came back",
                candidate(&[(EPOLL, 2)]),
                Recognised::Loop(EPOLL),
            ),
            (
                "poll in a loop",
                candidate(&[(POLL, 8)]),
                Recognised::Loop(POLL),
            ),
            (
                "a few polls of a library",
                candidate(&[(POLL, 3)]),
                Recognised::Undecided,
            ),
            (
                "epoll wins over busy nested polls",
                candidate(&[(POLL, 900), (EPOLL, 2)]),
                Recognised::Loop(EPOLL),
            ),
            (
                "poll without descriptors is a nap",
                candidate(&[(NAP, 500)]),
                Recognised::Undecided,
            ),
            (
                "shared with another thread",
                Candidate {
                    shared: vec![EPOLL],
                    ..candidate(&[(EPOLL, 50)])
                },
                Recognised::Pool(EPOLL),
            ),
            (
                "found inside its poll, idle ever since",
                Candidate {
                    found_in: Some(EPOLL),
                    settled: true,
                    ..Candidate::default()
                },
                Recognised::Loop(EPOLL),
            ),
            (
                "found inside its poll a moment ago",
                Candidate {
                    found_in: Some(EPOLL),
                    ..Candidate::default()
                },
                Recognised::Undecided,
            ),
            (
                "found inside its poll, and came back",
                Candidate {
                    found_in: Some(EPOLL),
                    ..candidate(&[(EPOLL, 1)])
                },
                Recognised::Loop(EPOLL),
            ),
            (
                "found inside a poll on a socket",
                Candidate {
                    found_in: Some(POLL),
                    settled: true,
                    ..Candidate::default()
                },
                Recognised::Undecided,
            ),
        ];
        for (name, candidate, expected) in table {
            assert_eq!(recognise(&candidate), expected, "{name}");
        }
    }

    #[test]
    fn a_newborn_leader_stuck_after_its_only_poll_is_a_loop() {
        let table = [
            (
                "stuck on a told engine after its first poll",
                newborn(&[(EPOLL, 1)]),
                Recognised::Loop(EPOLL),
            ),
            (
                "the same, and another thread polls there too",
                Candidate {
                    shared: vec![EPOLL],
                    ..newborn(&[(EPOLL, 1)])
                },
                Recognised::Pool(EPOLL),
            ),
            (
                "another thread polls something else",
                Candidate {
                    shared: vec![POLL],
                    ..newborn(&[(EPOLL, 1)])
                },
                Recognised::Loop(EPOLL),
            ),
            (
                "away from its first poll, but in no such wait",
                Candidate {
                    wedged: false,
                    ..newborn(&[(EPOLL, 1)])
                },
                Recognised::Undecided,
            ),
            (
                "not born under the agent, or no leader",
                Candidate {
                    leads_from_birth: false,
                    ..newborn(&[(EPOLL, 1)])
                },
                Recognised::Undecided,
            ),
            (
                "polled something else before",
                newborn(&[(POLL, 1), (EPOLL, 1)]),
                Recognised::Undecided,
            ),
            (
                "its first poll was on a socket",
                newborn(&[(POLL, 1)]),
                Recognised::Undecided,
            ),
        ];
        for (name, candidate, expected) in table {
            assert_eq!(recognise(&candidate), expected, "{name}");
        }
    }
}
