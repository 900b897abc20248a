//! Several processes on one port: pre-fork workers that share a listening socket, or that have one each (`SO_REUSEPORT`).
//!
//! With one socket, whoever polls takes what comes, and no probe fails as long as one of them does. With a socket each, the kernel
//! chooses, and a share of the probes meets the one that stalls. In both cases the stall of one says nothing about the next probe: what
//! the port shows does. Only when all of them are away the next probe fails for certain.

use crate::pipeline::{Mono, Pid};

/// How a process has a port, the less sure first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// It was named as the port that is probed, and another process of the same network namespace listens there.
    Elsewhere,
    /// It was named as the port that is probed, and nobody is seen to listen there.
    Named,
    /// It has a listening socket of that port, such as a parent that made it for its workers.
    Holds,
    /// One of its epolls waits on such a socket: it accepts.
    Polls,
}

/// Whether a stall of `own` can let a probe fail, and who else would answer it. `None` if it answers none itself.
#[must_use]
pub fn others(own: Pid, holders: &[(Pid, Hold)]) -> Option<Vec<Pid>> {
    let surest = holders.iter().map(|(_, hold)| *hold).max();
    let is_own = |(pid, hold): &&(Pid, Hold)| *pid == own && *hold == Hold::Named;
    match surest {
        None => return Some(Vec::new()),
        Some(Hold::Elsewhere) => return None,
        // Nobody is known to listen: each is taken for the one.
        Some(Hold::Named) => return holders.iter().find(is_own).map(|_| Vec::new()),
        Some(Hold::Holds | Hold::Polls) => {}
    }
    let takers = holders.iter().filter(|(_, hold)| Some(*hold) == surest);
    let (mine, others): (Vec<Pid>, Vec<Pid>) =
        takers.map(|(pid, _)| *pid).partition(|pid| *pid == own);
    (!mine.is_empty()).then_some(others)
}

/// Since when nobody answers at a port: since the last of them left. `others` is since when each other one is away, if it is.
#[must_use]
pub fn away(own: Option<Mono>, others: impl IntoIterator<Item = Option<Mono>>) -> Option<Mono> {
    // The first one that is there is enough: this is asked at every tick.
    others
        .into_iter()
        .try_fold(own?, |all, other| other.map(|other| all.max(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Pid = Pid(1);
    const B: Pid = Pid(2);
    const MASTER: Pid = Pid(3);

    #[test]
    fn who_accepts_counts_before_who_only_holds_the_socket() {
        use Hold::{Elsewhere, Holds, Named, Polls};
        type Row = (&'static [(Pid, Hold)], Option<&'static [Pid]>);
        let table: [Row; 10] = [
            // Another container of the pod answers: what fails there is seen, and no stall of this one makes it.
            (&[(A, Elsewhere)], None),
            (&[(A, Elsewhere), (B, Polls)], None),
            (&[(A, Elsewhere), (B, Named)], None),
            (&[], Some(&[])),
            (&[(A, Polls)], Some(&[])),
            (&[(A, Polls), (B, Polls)], Some(&[B])),
            // A parent that made the socket for its workers answers nobody.
            (&[(A, Polls), (B, Polls), (MASTER, Holds)], Some(&[B])),
            (&[(A, Holds), (B, Polls)], None),
            // No epoll has it: whoever holds it may be in a select on it.
            (&[(A, Holds), (MASTER, Holds)], Some(&[MASTER])),
            (&[(A, Named), (B, Named)], Some(&[])),
        ];
        for (holders, expected) in table {
            let expected = expected.map(<[Pid]>::to_vec);
            assert_eq!(others(A, holders), expected, "{holders:?}");
        }
    }

    #[test]
    fn nobody_answers_since_the_last_one_left() {
        let at = |ms: u64| Some(Mono(ms));
        assert_eq!(away(at(5), []), at(5));
        assert_eq!(away(at(5), [at(9), at(7)]), at(9));
        assert_eq!(away(at(5), [at(9), None]), None);
        assert_eq!(away(None, [at(9)]), None);
    }
}
