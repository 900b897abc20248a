//! The series of one process (or of the agent): they begin and end together.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::series::{Family, Point, Series};
use super::{Attributes, Extent, Now, PAGE_KEEPS, Readers};
use crate::export::metric::{Kind, Metric};
use crate::pipeline::Mono;

/// How far the end of a group has been told over OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    LastValues,
    End,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) base: Arc<Attributes>,
    pub(super) ended: Option<Mono>,
    told: Told,
    pub(super) series: BTreeMap<(Metric, Attributes), Series>,
}

impl Group {
    pub(super) fn new(base: Attributes, series: BTreeMap<(Metric, Attributes), Series>) -> Self {
        Self {
            base: Arc::new(base),
            ended: None,
            told: Told::Nothing,
            series,
        }
    }

    /// Every exporter that there is has shown its end.
    pub(super) fn is_over(&self, readers: Readers, now: Mono) -> bool {
        self.ended.is_some_and(|ended| {
            (!readers.page || page_is_over(ended, now)) && (!readers.otlp || self.told == Told::End)
        })
    }

    /// Adds what the text page shows.
    pub(super) fn page(&self, now: Now, families: &mut Families) {
        if self
            .ended
            .is_some_and(|ended| page_is_over(ended, now.mono))
        {
            return;
        }
        for ((metric, own), series) in &self.series {
            let is_over = self.ended.is_some() && metric.instrument().kind == Kind::Gauge;
            if !is_over && !series.is_absent() {
                families.add(*metric, series.point(&self.base, own, now.unix_ns));
            }
        }
    }

    /// Adds what is to be pushed.
    pub(super) fn push(&mut self, extent: Extent, now: Now, families: &mut Families) {
        let last_values = self.ended.is_some() && self.told == Told::Nothing;
        let end = self.told == Told::LastValues && extent == Extent::All;
        if self.told == Told::End || (self.told == Told::LastValues && !end) {
            return;
        }
        for ((metric, own), series) in &mut self.series {
            let gauge = metric.instrument().kind == Kind::Gauge;
            if end && gauge || (last_values && gauge && series.is_absent()) {
                continue;
            }
            if end || (last_values && gauge) {
                families.add(*metric, series.end(&self.base, own, now.unix_ns));
            } else if extent == Extent::All || last_values || series.changed() {
                for point in series.tell(&self.base, own, now.unix_ns) {
                    families.add(*metric, point);
                }
            }
        }
        if last_values {
            self.told = Told::LastValues;
        } else if end {
            self.told = Told::End;
        }
    }
}

fn page_is_over(ended: Mono, now: Mono) -> bool {
    now.since(ended) >= PAGE_KEEPS
}

#[derive(Default)]
pub(super) struct Families(BTreeMap<Metric, Vec<Point>>);

impl Families {
    pub(super) fn add(&mut self, metric: Metric, point: Point) {
        self.0.entry(metric).or_default().push(point);
    }

    pub(super) fn in_order(self) -> Vec<Family> {
        self.0
            .into_iter()
            .map(|(metric, points)| Family { metric, points })
            .collect()
    }
}
