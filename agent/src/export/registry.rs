//! The one set of series that every exporter shows: values, and how long a series lives.
//!
//! Pure: `now` is an argument, nothing here does I/O. Series of one process form a group that begins, ends and is admitted
//! as a whole: a process has all its series or none, so that no alert reads half of one. `instruments` writes; the text
//! page and the OTLP pusher read.
//!
//! A group that ended is shown once more by each exporter, then it is gone: on the page for [`PAGE_KEEPS`], over OTLP by
//! one more push and then points without a value, which Prometheus takes as the end of the series.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::metric::Metric;
use crate::pipeline::Mono;

mod group;
mod series;

use group::{Families, Group};
use series::Series;
pub use series::{Family, Point, Reading};

/// How long the text page shows the counters of a process that ended: two scrapes at the usual interval of a minute.
pub const PAGE_KEEPS: Duration = Duration::from_mins(2);

/// Series about the agent itself: hooks, maps and kinds of loss are few.
const AGENT_LIMIT: usize = 2000;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttributeValue {
    /// A word.
    Text(Cow<'static, str>),
    /// A number, such as a process id.
    Int(i64),
}

/// Attributes in the order of the instrument table.
pub type Attributes = Vec<(&'static str, AttributeValue)>;

/// An attribute with one of the contract's words.
#[must_use]
pub const fn word(key: &'static str, value: &'static str) -> (&'static str, AttributeValue) {
    (key, AttributeValue::Text(Cow::Borrowed(value)))
}

/// An attribute with text from elsewhere.
#[must_use]
pub fn text(key: &'static str, value: &str) -> (&'static str, AttributeValue) {
    (key, AttributeValue::Text(Cow::Owned(value.to_owned())))
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For spans.
    pub mono: Mono,
    /// For what others read: nanoseconds since 1970.
    pub unix_ns: u64,
}

/// Which exporters there are: a series need not wait for one that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readers {
    /// The text page.
    pub page: bool,
    /// OTLP metrics.
    pub otlp: bool,
}

/// What a push holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every series.
    All,
    /// Series that changed since the last push.
    Changed,
}

/// Names a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(u64);

/// All series.
#[derive(Debug)]
pub struct Registry {
    groups: BTreeMap<GroupId, Group>,
    next: u64,
    readers: Readers,
    limit: usize,
    held: usize,
    refused: u64,
}

impl Registry {
    /// The group of the agent's own series; it never ends.
    pub const AGENT: GroupId = GroupId(0);

    /// An empty registry that holds at most `limit` series about processes.
    #[must_use]
    pub fn new(readers: Readers, limit: usize) -> Self {
        let agent = Group::new(Attributes::new(), BTreeMap::new());
        Self {
            groups: BTreeMap::from([(Self::AGENT, agent)]),
            next: 1,
            readers,
            limit,
            held: 0,
            refused: 0,
        }
    }

    /// Begins a group whose series all carry `base`, each of `template` at zero; `None` if there is no room.
    ///
    /// Groups that ended make room first, the oldest first: what is watched now matters more than what is over.
    pub fn open(
        &mut self,
        base: Attributes,
        template: &[(Metric, Attributes)],
        now: Now,
    ) -> Option<GroupId> {
        self.forget_expired(now.mono);
        // The same process id came back with the same name: its series begin anew.
        let same: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, g)| *g.base == base)
            .map(|(id, _)| *id)
            .collect();
        for id in same.into_iter().filter(|id| *id != Self::AGENT) {
            self.remove(id);
        }
        while self.held + template.len() > self.limit {
            let oldest = self
                .groups
                .iter()
                .filter_map(|(id, g)| Some((g.ended?, *id)))
                .min();
            let (_, id) = oldest?;
            self.refused += self.remove(id) as u64;
        }
        let id = GroupId(self.next);
        self.next += 1;
        let series = template
            .iter()
            .map(|key| (key.clone(), Series::new(key.0, now.unix_ns)))
            .collect();
        self.held += template.len();
        self.groups.insert(id, Group::new(base, series));
        Some(id)
    }

    /// Counts series for which there was no room.
    pub fn refuse(&mut self, series: usize) {
        self.refused += series as u64;
    }

    /// The process is gone: its gauges end now, its counters once every exporter has shown them.
    pub fn end(&mut self, group: GroupId, now: Mono) {
        if group != Self::AGENT
            && let Some(group) = self.groups.get_mut(&group)
        {
            group.ended.get_or_insert(now);
        }
        self.forget_expired(now);
    }

    /// Begins a counter or histogram at zero, unless it is there.
    pub fn begin(&mut self, group: GroupId, metric: Metric, own: Attributes, now: Now) {
        self.write(group, metric, own, now, |_| {});
    }

    /// Adds to a counter.
    pub fn add(&mut self, group: GroupId, metric: Metric, own: Attributes, more: f64, now: Now) {
        self.write(group, metric, own, now, |series| series.add(more));
    }

    /// Sets a counter that is counted elsewhere; it never goes down.
    pub fn raise(&mut self, group: GroupId, metric: Metric, own: Attributes, total: f64, now: Now) {
        self.write(group, metric, own, now, |series| series.raise(total));
    }

    /// Sets a gauge.
    pub fn set(&mut self, group: GroupId, metric: Metric, own: Attributes, value: f64, now: Now) {
        self.write(group, metric, own, now, |series| series.set(value));
    }

    /// A gauge has no value for now: it is gone from the page, and over OTLP its end is told.
    pub fn absent(&mut self, group: GroupId, metric: Metric, own: &Attributes) {
        let series = self
            .groups
            .get_mut(&group)
            .and_then(|group| group.series.get_mut(&(metric, own.clone())));
        if let Some(series) = series {
            series.absent();
        }
    }

    /// Counts one value in a histogram.
    pub fn observe(
        &mut self,
        group: GroupId,
        metric: Metric,
        own: Attributes,
        value: f64,
        now: Now,
    ) {
        self.write(group, metric, own, now, |series| series.observe(value));
    }

    /// Sets a histogram that is counted elsewhere: counts by bucket, not cumulative, and the sum of the values.
    pub fn fill(&mut self, group: GroupId, metric: Metric, counts: &[u64], sum: f64, now: Now) {
        self.write(group, metric, Attributes::new(), now, |series| {
            series.fill(counts, sum);
        });
    }

    /// Series held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.groups.values().map(|group| group.series.len()).sum()
    }

    /// Series refused or ended early so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// What the text page shows at `now`.
    #[must_use]
    pub fn page(&mut self, now: Now) -> Vec<Family> {
        self.forget_expired(now.mono);
        let mut families = Families::default();
        for group in self.groups.values() {
            group.page(now, &mut families);
        }
        families.in_order()
    }

    /// What is to be pushed at `now`; what it holds counts as told.
    #[must_use]
    pub fn push(&mut self, extent: Extent, now: Now) -> Vec<Family> {
        let mut families = Families::default();
        for group in self.groups.values_mut() {
            group.push(extent, now, &mut families);
        }
        self.forget_expired(now.mono);
        families.in_order()
    }

    fn write(
        &mut self,
        id: GroupId,
        metric: Metric,
        own: Attributes,
        now: Now,
        change: impl FnOnce(&mut Series),
    ) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let Some(series) = group.series.get_mut(&(metric, own.clone())) {
            return change(series);
        }
        let full = if id == Self::AGENT {
            group.series.len() >= AGENT_LIMIT
        } else {
            self.held >= self.limit
        };
        if full {
            self.refused += 1;
            return;
        }
        if id != Self::AGENT {
            self.held += 1;
        }
        change(
            group
                .series
                .entry((metric, own))
                .or_insert_with(|| Series::new(metric, now.unix_ns)),
        );
    }

    fn remove(&mut self, id: GroupId) -> usize {
        let series = self
            .groups
            .remove(&id)
            .map_or(0, |group| group.series.len());
        self.held = self.held.saturating_sub(series);
        series
    }

    fn forget_expired(&mut self, now: Mono) {
        let over = |group: &Group| group.is_over(self.readers, now);
        let expired: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, g)| over(g))
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests;
