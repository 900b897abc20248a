//! How long to wait before the next try. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
/// A server that cannot be reached loses nothing by being asked again: when it is back, it is to be noticed soon.
const UNREACHABLE: Duration = Duration::from_secs(4);
/// One that answers, and refuses or is overloaded, is left alone for longer.
const REFUSING: Duration = Duration::from_secs(30);

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// No answer, or none in time.
    NoAnswer,
    /// An answer that is an error.
    Refused,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The wait before the next try: twice as long each time. `noise` from 0 to 1 takes up to half of it away, so that a thousand nodes
    /// do not come back in the same moment.
    pub(super) fn next(&mut self, wrong: Wrong, noise: f64) -> Duration {
        let most = match wrong {
            Wrong::NoAnswer => UNREACHABLE,
            Wrong::Refused => REFUSING,
        };
        let span = FIRST.saturating_mul(1 << self.tries.min(16)).min(most);
        self.tries = self.tries.saturating_add(1);
        span.mul_f64(1.0 - noise.clamp(0.0, 1.0) / 2.0)
    }

    /// It went well.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_of_their_kind() {
        let waits = |wrong| {
            let mut backoff = Backoff::default();
            std::iter::repeat_with(|| backoff.next(wrong, 0.0).as_millis())
                .take(40)
                .collect::<Vec<_>>()
        };
        let unreachable = waits(Wrong::NoAnswer);
        assert_eq!(unreachable[..6], [250, 500, 1000, 2000, 4000, 4000]);
        assert_eq!(unreachable[39], 4000);
        assert_eq!(waits(Wrong::Refused)[39], 30_000);
        let mut backoff = Backoff { tries: 9 };
        assert_eq!(backoff.next(Wrong::NoAnswer, 1.0).as_millis(), 2000);
        backoff.reset();
        assert_eq!(backoff.next(Wrong::Refused, 0.0), FIRST);
    }
}
