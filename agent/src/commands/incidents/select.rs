//! Which incidents are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use super::words::clean;
use crate::export::journal::Aggregate;
use crate::export::journal::read::Contents;
use crate::pipeline::engines::record::RaceRecord;
use crate::pipeline::record::IncidentRecord;
use crate::pipeline::stamp::Stamp;
use crate::pipeline::{CauseKind, IncidentId};

/// What was asked for; all that is given must hold.
#[derive(Debug, Default)]
pub(super) struct Select {
    pub(super) after: Option<Stamp>,
    pub(super) target: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) cause: Option<CauseKind>,
    pub(super) min_duration: Option<Duration>,
    pub(super) limit: Option<usize>,
}

impl Select {
    /// The chosen ones, oldest first.
    pub(super) fn records<'a>(
        &self,
        incidents: &'a BTreeMap<IncidentId, IncidentRecord>,
    ) -> Vec<&'a IncidentRecord> {
        let chosen = |record: &&IncidentRecord| {
            self.fits(&record.who.target, record.opened, record.busy())
                && self.is_in_pod(record)
                && self.cause.is_none_or(|kind| {
                    record.cause.kind == kind
                        || record.causes.iter().any(|share| share.kind == kind)
                })
        };
        let mut records: Vec<_> = incidents.values().filter(chosen).collect();
        if let Some(limit) = self.limit {
            records.drain(..records.len().saturating_sub(limit));
        }
        records
    }

    /// The chosen startup races, oldest first. They have no cause.
    pub(super) fn races<'a>(
        &self,
        races: &'a BTreeMap<IncidentId, RaceRecord>,
    ) -> Vec<&'a RaceRecord> {
        let chosen = |race: &&RaceRecord| {
            self.cause.is_none() && self.fits(&race.who.target, race.began, race.lasted)
        };
        let mut races: Vec<_> = races.values().filter(chosen).collect();
        if let Some(limit) = self.limit {
            races.drain(..races.len().saturating_sub(limit));
        }
        races
    }

    /// Counts that may hold what was asked for.
    pub(super) fn counts<'a>(&self, counts: &'a [Aggregate]) -> Vec<&'a Aggregate> {
        let chosen = |sum: &&Aggregate| {
            // Counts know no pods.
            self.fits(&sum.target, sum.to, sum.max)
                && self.pod.is_none()
                && self.cause.is_none_or(|kind| sum.cause == kind)
        };
        counts.iter().filter(chosen).collect()
    }

    fn is_in_pod(&self, record: &IncidentRecord) -> bool {
        let Some(wanted) = &self.pod else { return true };
        record.who.pod.as_ref().is_some_and(|pod| {
            *wanted == pod.name || *wanted == format!("{}/{}", pod.namespace, pod.name)
        })
    }

    fn fits(&self, target: &str, time: Stamp, busy: Duration) -> bool {
        self.after.is_none_or(|after| time >= after)
            && self.target.as_ref().is_none_or(|wanted| wanted == target)
            && self.min_duration.is_none_or(|least| busy >= least)
    }
}

/// A kind of cause by its word.
pub(super) fn kind(word: &str) -> Result<CauseKind, String> {
    let known = CauseKind::ALL.into_iter().find(|kind| kind.name() == word);
    known.ok_or_else(|| {
        let words: Vec<_> = CauseKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("allowed: {}", words.join(", "))
    })
}

/// The startup race whose id begins so, if no other incident's does.
pub(super) fn race<'a>(contents: &'a Contents, id: &str) -> Option<&'a RaceRecord> {
    let wanted = id.to_ascii_uppercase();
    let begins = |incident: &IncidentId| incident.to_string().starts_with(&wanted);
    if contents.incidents.keys().any(begins) {
        return None;
    }
    let mut found = contents.races.iter().filter(|(name, _)| begins(name));
    let (_, race) = found.next()?;
    found.next().is_none().then_some(race)
}

/// The one whose id begins so.
pub(super) fn by_id<'a>(
    incidents: &'a BTreeMap<IncidentId, IncidentRecord>,
    id: &str,
) -> Result<&'a IncidentRecord> {
    let wanted = id.to_ascii_uppercase();
    let found: Vec<_> = incidents
        .values()
        .filter(|record| record.incident.to_string().starts_with(&wanted))
        .collect();
    match found[..] {
        [record] => Ok(record),
        [] => bail!(
            "no incident's id begins with {:?}; `loopwarden incidents` lists those there are",
            clean(id)
        ),
        [first, .., last] => bail!(
            "{} incidents have ids that begin with {:?}, from {} to {}: give more of it",
            found.len(),
            clean(id),
            first.incident,
            last.incident
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_their_beginning() {
        let incidents = BTreeMap::new();
        let error = by_id(&incidents, "01M\n7").unwrap_err().to_string();
        assert_eq!(
            error,
            "no incident's id begins with \"01M\u{fffd}7\"; `loopwarden incidents` lists those there are"
        );
    }

    #[test]
    fn causes_are_the_words_of_the_contract() {
        assert_eq!(kind("gil_wait"), Ok(CauseKind::GilWait));
        assert!(kind("gil").unwrap_err().contains("gil_wait"));
    }
}
