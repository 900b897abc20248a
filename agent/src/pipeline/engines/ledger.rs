//! Connections of one loop process to its own machine: which of them were an engine's, and what was told of them.
//!
//! The counts only grow, and come from the kernel. Which port will be an engine's is known when the engine listens: until then what
//! was refused belongs to nobody.

use std::collections::BTreeMap;

use crate::pipeline::Mono;
use crate::pipeline::event::{Connects, Listener, Peer, Place};

/// Places that are remembered; a process that knocks on more has other troubles.
const MOST: usize = 512;

/// Where an engine listens. Without an address, on any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) port: Listener,
    pub(super) place: Option<Place>,
}

impl Door {
    fn is_for(self, peer: &Peer) -> bool {
        self.port == peer.port && self.place.is_none_or(|own| own.takes(peer.place))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    ok: u64,
    refused: u64,
    /// When the first of those was that nobody has answered for yet.
    first: Option<Mono>,
    last: Mono,
    /// Of both, what was told.
    told_ok: u64,
    told_refused: u64,
    /// Refused, and told as part of a startup.
    settled: u64,
    settled_at: Mono,
}

impl Account {
    fn open(&self) -> u64 {
        self.refused.saturating_sub(self.settled)
    }

    fn settle(&mut self, at: Mono) {
        self.settled = self.refused;
        self.settled_at = at;
        self.first = None;
    }
}

/// What was refused before an engine listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) count: u64,
    pub(super) first: Mono,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: BTreeMap<Peer, Account>,
}

impl Ledger {
    /// Takes the counts of the process as they stand.
    pub(super) fn take(&mut self, counts: &[Connects]) {
        for count in counts {
            if self.accounts.len() >= MOST && !self.accounts.contains_key(&count.peer) {
                continue;
            }
            let account = self.accounts.entry(count.peer).or_default();
            if count.refused < account.refused || count.ok < account.ok {
                // They were forgotten by the kernel half, and begin anew.
                *account = Account::default();
            }
            if account.open() == 0 && count.refused > account.refused {
                // Without an answer between, the run goes on from before: what is open of it began after that.
                let first = count.first_refused.unwrap_or(count.last);
                account.first = Some(first.max(account.settled_at));
            }
            account.ok = count.ok;
            account.refused = count.refused;
            account.last = count.last;
        }
    }

    /// Forgets a place that the kernel half has forgotten.
    pub(super) fn forget(&mut self, peer: &Peer) {
        self.accounts.remove(peer);
    }

    /// What is new of connections to these doors: completed and refused.
    pub(super) fn news(&mut self, doors: &[Door]) -> (u64, u64) {
        let (mut ok, mut refused) = (0, 0);
        for (peer, account) in &mut self.accounts {
            if doors.iter().any(|door| door.is_for(peer)) {
                ok += account.ok.saturating_sub(account.told_ok);
                refused += account.refused.saturating_sub(account.told_refused);
                (account.told_ok, account.told_refused) = (account.ok, account.refused);
            }
        }
        (ok, refused)
    }

    /// What nobody has answered for yet at these doors, if it goes on after `spawned` or the door was known before.
    pub(super) fn refused(
        &self,
        door: Door,
        known: &[Door],
        spawned: Option<Mono>,
    ) -> Option<Refused> {
        let concerns = |peer: &Peer, account: &Account| {
            let was_known = known.iter().any(|door| door.is_for(peer));
            let recent = spawned.is_some_and(|spawned| account.last >= spawned);
            was_known || (door.is_for(peer) && recent)
        };
        self.sum(concerns)
    }

    /// What was refused since `spawned` at doors that nobody has opened yet.
    pub(super) fn nowhere(&self, known: &[Door], spawned: Mono) -> Option<Refused> {
        let concerns = |peer: &Peer, account: &Account| {
            let is_known = known.iter().any(|door| door.is_for(peer));
            !is_known && account.ok == 0 && account.first.is_some_and(|first| first >= spawned)
        };
        self.sum(concerns)
    }

    fn sum(&self, concerns: impl Fn(&Peer, &Account) -> bool) -> Option<Refused> {
        let open = self
            .accounts
            .iter()
            .filter(|(peer, account)| account.open() > 0 && concerns(peer, account));
        open.fold(None, |sum: Option<Refused>, (_, account)| {
            let first = account.first.unwrap_or(account.last);
            let before = sum.unwrap_or(Refused { count: 0, first });
            Some(Refused {
                count: before.count + account.open(),
                first: before.first.min(first),
            })
        })
    }

    /// What was refused there is told, or is nobody's concern any more.
    pub(super) fn settle(&mut self, doors: &[Door], at: Mono) {
        for (peer, account) in &mut self.accounts {
            if doors.iter().any(|door| door.is_for(peer)) {
                account.settle(at);
            }
        }
    }

    /// The same for what was refused since `spawned` at doors that nobody has opened.
    pub(super) fn settle_nowhere(&mut self, known: &[Door], spawned: Mono, at: Mono) {
        for (peer, account) in &mut self.accounts {
            let is_known = known.iter().any(|door| door.is_for(peer));
            if !is_known && account.first.is_some_and(|first| first >= spawned) {
                account.settle(at);
            }
        }
    }
}
