//! What a stall was made of: the time of each kind, summed from look to look.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Doing, ThreadFacts};
use crate::pipeline::cause::{Cause, CauseKind};
use crate::pipeline::ids::Mono;

/// Smaller parts are not told, and make no mixed stall.
const LEAST: f64 = 0.05;

/// The sums of one stall.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shares {
    times: BTreeMap<CauseKind, Duration>,
    /// What each kind was last about, and when that was seen.
    causes: BTreeMap<CauseKind, (Cause, Mono)>,
    /// What the thread was last seen asleep in.
    asleep_in: CauseKind,
    /// Time before the first look that could show anything: it goes to what that look shows.
    unseen: Duration,
}

impl Shares {
    /// Takes in a look: `window` is the time since the look before, or since the stall began.
    pub fn add(&mut self, facts: &ThreadFacts, cause: &Cause, window: Duration, at: Mono) {
        let kind = cause.kind;
        self.causes.insert(kind, (cause.clone(), at));
        let awake = matches!(kind, CauseKind::CpuBusy | CauseKind::CpuStarved);
        if !awake && kind != CauseKind::Unknown {
            self.asleep_in = kind;
        }
        let whole = matches!(kind, CauseKind::ChildWait | CauseKind::Stopped);
        match facts.scheduled.filter(|_| !whole) {
            Some(times) => {
                let [run, wait] =
                    [times.run_ns, times.wait_ns].map(|ns| Duration::from_nanos(ns).min(window));
                self.give(CauseKind::CpuBusy, run);
                self.give(CauseKind::CpuStarved, wait.min(window.saturating_sub(run)));
                // Met on a CPU, it has slept before: in what it was last met asleep in.
                let asleep = if awake || facts.doing == Doing::Running {
                    self.asleep_in
                } else {
                    kind
                };
                self.give(asleep, window.saturating_sub(run).saturating_sub(wait));
            }
            None if kind == CauseKind::Unknown && self.times.is_empty() => self.unseen += window,
            None => self.give(kind, window),
        }
        if kind != CauseKind::Unknown || facts.scheduled.is_some() {
            let unseen = std::mem::take(&mut self.unseen);
            self.give(kind, unseen);
        }
    }

    fn give(&mut self, kind: CauseKind, time: Duration) {
        if !time.is_zero() {
            *self.times.entry(kind).or_default() += time;
        }
    }

    /// What the latest looks say a kind is about, replacing what was known: details came later.
    pub fn explain(&mut self, cause: &Cause, at: Mono) {
        if let Some(known) = self.causes.get_mut(&cause.kind) {
            *known = (cause.clone(), at);
        }
    }

    /// Parts of the whole of 5 % and more, largest first; empty unless there are several.
    #[must_use]
    pub fn parts(&self) -> Vec<(CauseKind, f64)> {
        let whole: Duration = self.times.values().sum::<Duration>() + self.unseen;
        if whole.is_zero() {
            return Vec::new();
        }
        let mut parts: Vec<(CauseKind, f64)> = self
            .times
            .iter()
            .map(|(kind, time)| (*kind, time.as_secs_f64() / whole.as_secs_f64()))
            .filter(|(_, part)| *part >= LEAST)
            .collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        if parts.len() < 2 {
            parts.clear();
        }
        parts
    }

    /// What most of the stall was spent on, and when that was last seen; `None` if that could not be shown.
    #[must_use]
    pub fn largest(&self) -> Option<(Cause, Mono)> {
        let (kind, time) = self.times.iter().max_by_key(|(_, time)| **time)?;
        if *time < self.unseen {
            return None;
        }
        self.causes.get(kind).cloned().or_else(|| {
            // Accounts show time on a CPU that no look met.
            let at = self.causes.values().map(|(_, at)| *at).max()?;
            let cause = Cause {
                kind: *kind,
                ..Cause::default()
            };
            Some((cause, at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::classify::Scheduled;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn look(shares: &mut Shares, kind: CauseKind, window: u64, scheduled: Option<(u64, u64)>) {
        let facts = ThreadFacts {
            scheduled: scheduled.map(|(run, wait)| Scheduled {
                window_ns: window * 1_000_000,
                run_ns: run * 1_000_000,
                wait_ns: wait * 1_000_000,
                ..Scheduled::default()
            }),
            ..ThreadFacts::default()
        };
        let cause = Cause {
            kind,
            ..Cause::default()
        };
        shares.add(&facts, &cause, ms(window), Mono(1));
    }

    #[test]
    fn time_goes_to_what_it_was_spent_on() {
        use CauseKind::{ChildWait, CpuBusy, CpuStarved, LockWait, Unknown};
        type Parts = &'static [(CauseKind, f64)];
        type Looks = &'static [(CauseKind, u64, Option<(u64, u64)>)];
        let table: [(Looks, CauseKind, Parts); 6] = [
            // What a first look cannot tell is what the second one tells.
            (
                &[(Unknown, 100, None), (CpuBusy, 20, Some((20, 0)))],
                CpuBusy,
                &[],
            ),
            (
                &[(LockWait, 100, None), (LockWait, 100, Some((0, 0)))],
                LockWait,
                &[],
            ),
            (
                &[
                    (LockWait, 100, None),
                    (LockWait, 600, Some((0, 0))),
                    (CpuBusy, 300, Some((300, 0))),
                ],
                LockWait,
                &[(LockWait, 0.7), (CpuBusy, 0.3)],
            ),
            // Computing, and met in a lock between: the accounts know.
            (
                &[(LockWait, 100, None), (CpuBusy, 300, Some((300, 0)))],
                CpuBusy,
                &[(CpuBusy, 0.75), (LockWait, 0.25)],
            ),
            (
                &[(Unknown, 100, None), (CpuStarved, 100, Some((20, 80)))],
                CpuStarved,
                &[(CpuStarved, 0.9), (CpuBusy, 0.1)],
            ),
            // A wait that looks again and again uses CPU for it.
            (
                &[(ChildWait, 100, None), (ChildWait, 100, Some((60, 0)))],
                ChildWait,
                &[],
            ),
        ];
        for (looks, largest, parts) in table {
            let mut shares = Shares::default();
            for (kind, window, scheduled) in looks {
                look(&mut shares, *kind, *window, *scheduled);
            }
            assert_eq!(
                shares.largest().map(|(cause, _)| cause.kind),
                Some(largest),
                "{looks:?}"
            );
            let rounded: Vec<(CauseKind, f64)> = shares
                .parts()
                .into_iter()
                .map(|(kind, part)| (kind, (part * 100.0).round() / 100.0))
                .collect();
            assert_eq!(rounded, parts, "{looks:?}");
        }
    }

    #[test]
    fn nothing_shown_is_nothing_said() {
        let mut shares = Shares::default();
        assert_eq!(shares.largest(), None);
        look(&mut shares, CauseKind::Unknown, 100, None);
        assert_eq!(shares.largest(), None);
        assert!(shares.parts().is_empty());
        // A moment without a CPU at the end of a wait for nobody knows what.
        look(&mut shares, CauseKind::Unknown, 100, Some((0, 0)));
        look(&mut shares, CauseKind::CpuStarved, 20, Some((0, 20)));
        assert_eq!(shares.largest().unwrap().0.kind, CauseKind::Unknown);
    }
}
