//! Kernel histograms, two buckets a power of two, folded to the bounds that are exported.

use crate::export::metric::{ITERATION_BOUNDS, SCAN_BOUNDS};
use crate::pipeline::Histogram;

/// A count as the exporters carry it.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact to 2^53, and a reader sees doubles anyway"
)]
pub(super) const fn number(count: u64) -> f64 {
    count as f64
}

/// Iterations of several loops, by [`ITERATION_BOUNDS`].
pub(super) fn iterations<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Vec<u64> {
    let mut counts = vec![0u64; ITERATION_BOUNDS.len() + 1];
    for histogram in histograms {
        add(histogram, &ITERATION_BOUNDS, &mut counts);
    }
    counts
}

/// Lateness of scans, by [`SCAN_BOUNDS`].
pub(super) fn scans(histogram: &Histogram) -> Vec<u64> {
    let mut counts = vec![0u64; SCAN_BOUNDS.len() + 1];
    add(histogram, &SCAN_BOUNDS, &mut counts);
    counts
}

/// A bucket goes where its upper bound lies: exact where the bounds are bounds of the kernel too, and never too short.
fn add(histogram: &Histogram, bounds: &[f64], counts: &mut [u64]) {
    for (upper, count) in histogram.bounds.iter().zip(&histogram.counts) {
        // Half a nanosecond of slack: the bounds in seconds are rounded.
        let bucket = bounds.partition_point(|bound| bound * 1e9 + 0.5 < number(*upper));
        if let Some(place) = counts.get_mut(bucket) {
            *place = place.saturating_add(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::{BUCKETS, bucket_bound, bucket_of};

    use super::*;

    #[test]
    fn a_folded_duration_lies_between_the_bounds_of_its_bucket() {
        for nanos in (0..62).flat_map(|shift| {
            [
                (1u64 << shift) - 1,
                1 << shift,
                (1 << shift) + 1,
                3 << shift,
            ]
        }) {
            let mut kernel = Histogram {
                bounds: (0..BUCKETS).map(bucket_bound).collect(),
                counts: vec![0; BUCKETS],
            };
            kernel.counts[bucket_of(nanos)] = 1;
            let folded = iterations([&kernel, &kernel].into_iter());
            let bucket = folded.iter().position(|count| *count == 2).unwrap();
            let seconds = number(nanos) / 1e9;
            assert!(
                bucket == ITERATION_BOUNDS.len() || seconds <= ITERATION_BOUNDS[bucket],
                "{nanos} in {bucket}"
            );
            assert!(
                bucket == 0 || seconds >= ITERATION_BOUNDS[bucket - 1],
                "{nanos} in {bucket}"
            );
        }
    }

    #[test]
    fn an_empty_histogram_folds_to_zeros() {
        assert_eq!(scans(&Histogram::default()), vec![0; SCAN_BOUNDS.len() + 1]);
    }
}
