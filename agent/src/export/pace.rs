//! When an immediate push may go out: soon, many notices together, and not endlessly many.
//!
//! Pure. A loop that stalls ten times a second must not turn into ten pushes a second for hours.

use std::time::Duration;

use crate::pipeline::Mono;

/// How long a push waits for others of the same moment.
pub const COALESCE: Duration = Duration::from_millis(50);
/// Pushes that may follow each other directly; then one for each [`REFILL`].
const BURST: f64 = 10.0;
/// Time that earns one more push.
const REFILL: Duration = Duration::from_secs(1);

/// How many pushes may go out now.
#[derive(Debug)]
pub struct Pace {
    tokens: f64,
    counted: Mono,
}

impl Pace {
    /// A full burst.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        Self {
            tokens: BURST,
            counted: now,
        }
    }

    /// Takes one push and says how long it has to wait.
    pub fn take(&mut self, now: Mono) -> Duration {
        let earned = now.since(self.counted).as_secs_f64() / REFILL.as_secs_f64();
        self.tokens = (self.tokens + earned).min(BURST) - 1.0;
        self.counted = now;
        if self.tokens >= 0.0 {
            COALESCE
        } else {
            REFILL.mul_f64(-self.tokens).max(COALESCE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_out_at_once_then_one_a_second() {
        let start = Mono(1_000_000_000);
        let mut pace = Pace::new(start);
        for _ in 0..10 {
            assert_eq!(pace.take(start), COALESCE);
        }
        assert_eq!(pace.take(start), REFILL);
        assert_eq!(pace.take(start.plus(REFILL)), REFILL);
        assert_eq!(pace.take(start.plus(Duration::from_mins(1))), COALESCE);
    }
}
