//! One series: its value, and what has been told of it.

use std::sync::Arc;

use super::Attributes;
use crate::export::metric::{Kind, Metric};

/// All points of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Which.
    pub metric: Metric,
    /// Its points.
    pub points: Vec<Point>,
}

/// The value of one series at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Attributes the series shares with its group.
    pub base: Arc<Attributes>,
    /// Attributes of its own.
    pub own: Attributes,
    /// When the series began, nanoseconds since 1970.
    pub start_ns: u64,
    /// The moment, nanoseconds since 1970.
    pub time_ns: u64,
    /// The value.
    pub reading: Reading,
}

/// A value as an exporter needs it.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram: counts by bucket, not cumulative, one more than there are bounds.
    Histogram {
        /// Upper bounds, inclusive.
        bounds: &'static [f64],
        /// Counts.
        counts: Vec<u64>,
        /// Sum of the values.
        sum: f64,
    },
    /// The series ended.
    Gone,
}

#[derive(Debug)]
pub(super) struct Series {
    start_ns: u64,
    value: Value,
    /// It has been pushed at least once.
    known: bool,
    /// It differs from what was pushed last.
    changed: bool,
    /// There is no value now.
    absent: bool,
}

#[derive(Debug)]
enum Value {
    Counter(f64),
    Gauge(f64),
    Histogram {
        bounds: &'static [f64],
        counts: Vec<u64>,
        sum: f64,
    },
}

impl Series {
    pub(super) fn new(metric: Metric, start_ns: u64) -> Self {
        let value = match metric.instrument().kind {
            Kind::Counter => Value::Counter(0.0),
            Kind::Gauge => Value::Gauge(0.0),
            Kind::Histogram(bounds) => Value::Histogram {
                bounds,
                counts: vec![0; bounds.len() + 1],
                sum: 0.0,
            },
        };
        Self {
            start_ns,
            value,
            known: false,
            changed: true,
            absent: false,
        }
    }

    /// A gauge that has no value for now: its readers are told once.
    pub(super) fn absent(&mut self) {
        self.changed |= !self.absent;
        self.absent = true;
    }

    pub(super) fn is_absent(&self) -> bool {
        self.absent
    }

    pub(super) fn add(&mut self, more: f64) {
        if let Value::Counter(total) = &mut self.value
            && more > 0.0
        {
            *total += more;
            self.changed = true;
        }
    }

    pub(super) fn raise(&mut self, to: f64) {
        if let Value::Counter(total) = &mut self.value
            && to > *total
        {
            *total = to;
            self.changed = true;
        }
    }

    pub(super) fn set(&mut self, to: f64) {
        if let Value::Gauge(value) = &mut self.value
            && (to.total_cmp(value).is_ne() || self.absent)
        {
            *value = to;
            self.changed = true;
            self.absent = false;
        }
    }

    pub(super) fn observe(&mut self, observed: f64) {
        if let Value::Histogram {
            bounds,
            counts,
            sum,
        } = &mut self.value
        {
            let bucket = bounds.partition_point(|bound| *bound < observed);
            if let Some(count) = counts.get_mut(bucket) {
                *count += 1;
                *sum += observed;
                self.changed = true;
            }
        }
    }

    pub(super) fn fill(&mut self, new: &[u64], new_sum: f64) {
        if let Value::Histogram { counts, sum, .. } = &mut self.value
            && new.len() == counts.len()
            && new.iter().zip(counts.iter()).all(|(new, old)| new >= old)
            && new != counts
        {
            counts.copy_from_slice(new);
            *sum = sum.max(new_sum);
            self.changed = true;
        }
    }

    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    pub(super) fn point(&self, base: &Arc<Attributes>, own: &Attributes, time_ns: u64) -> Point {
        let reading = match &self.value {
            Value::Counter(value) | Value::Gauge(value) => Reading::Number(*value),
            Value::Histogram {
                bounds,
                counts,
                sum,
            } => Reading::Histogram {
                bounds,
                counts: counts.clone(),
                sum: *sum,
            },
        };
        Point {
            base: Arc::clone(base),
            own: own.clone(),
            start_ns: self.start_ns,
            time_ns,
            reading,
        }
    }

    /// The points to push. A counter that nobody has seen yet and that is past zero comes with a zero at its beginning:
    /// without it `increase()` would not see the first event, which for an action is often the only one.
    pub(super) fn tell(
        &mut self,
        base: &Arc<Attributes>,
        own: &Attributes,
        time_ns: u64,
    ) -> Vec<Point> {
        if self.absent {
            let news = self.changed && self.known;
            self.changed = false;
            return Vec::from_iter(news.then(|| self.end(base, own, time_ns)));
        }
        let now = self.point(base, own, time_ns);
        let zero = match &self.value {
            Value::Counter(total) if *total > 0.0 => Some(Reading::Number(0.0)),
            Value::Histogram { bounds, counts, .. } if counts.iter().any(|count| *count > 0) => {
                Some(Reading::Histogram {
                    bounds,
                    counts: vec![0; counts.len()],
                    sum: 0.0,
                })
            }
            _ => None,
        };
        let first = !self.known;
        (self.known, self.changed) = (true, false);
        match zero {
            Some(reading) if first => {
                // Prometheus counts in milliseconds: two points in the same one would be duplicates.
                let time_ns = self.start_ns.min(time_ns.saturating_sub(1_000_000));
                vec![
                    Point {
                        time_ns,
                        start_ns: time_ns,
                        reading,
                        ..now.clone()
                    },
                    now,
                ]
            }
            _ => vec![now],
        }
    }

    pub(super) fn end(&self, base: &Arc<Attributes>, own: &Attributes, time_ns: u64) -> Point {
        Point {
            reading: Reading::Gone,
            ..self.point(base, own, time_ns)
        }
    }
}
