//! A histogram as the kernel keeps it: counts by length, two buckets a power of two.

use std::time::Duration;

/// Counts of durations. `bounds[i]` is the exclusive upper bound of `counts[i]` in nanoseconds; the last is `u64::MAX`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Upper bounds, ascending.
    pub bounds: Vec<u64>,
    /// Durations below the bound and not below the one before.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// How many durations it holds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Takes in the counts of another one of the same bounds.
    pub fn absorb(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.clone_from(other);
            return;
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own = own.saturating_add(*more);
        }
    }

    /// The bound below which the share `q` (0 to 1) of the durations lie, never more than `max`; `None` if it is empty.
    #[must_use]
    pub fn quantile(&self, q: f64, max: Duration) -> Option<Duration> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a share of a count needs no more than 53 bits"
        )]
        let wanted = q * total as f64;
        let mut seen = 0u64;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            seen = seen.saturating_add(*count);
            #[expect(clippy::cast_precision_loss, reason = "as above")]
            let reached = seen as f64 >= wanted;
            if reached && seen > 0 {
                return Some(Duration::from_nanos(*bound).min(max));
            }
        }
        Some(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[u64]) -> Histogram {
        Histogram {
            bounds: vec![10, 20, u64::MAX],
            counts: counts.to_vec(),
        }
    }

    #[test]
    fn quantiles_are_bounds_and_never_pass_the_maximum() {
        let max = Duration::from_nanos(500);
        let nanos = |counts: &[u64], q| histogram(counts).quantile(q, max).map(|d| d.as_nanos());
        assert_eq!(nanos(&[0, 0, 0], 0.5), None);
        assert_eq!(nanos(&[90, 9, 1], 0.5), Some(10));
        assert_eq!(nanos(&[90, 9, 1], 0.99), Some(20));
        assert_eq!(nanos(&[90, 9, 1], 1.0), Some(500));
        assert_eq!(nanos(&[0, 0, 1], 0.5), Some(500));
    }
}
