//! How much CPU evidence may cost the node: a share of one core, with some saved up for many stalls at once.

use std::time::Duration;

use crate::pipeline::Mono;

/// What can be saved up: some tens of stalls that come together.
const MOST: Duration = Duration::from_millis(500);

/// CPU time that may be spent.
#[derive(Debug)]
pub(super) struct Budget {
    /// Below zero when the last capture cost more than was there.
    left_ns: i64,
    filled: Option<Mono>,
    /// Of one core.
    percent: u8,
}

impl Budget {
    pub(super) fn new(percent: u8) -> Self {
        Self {
            left_ns: signed(MOST),
            filled: None,
            percent,
        }
    }

    pub(super) fn set_share(&mut self, percent: u8) {
        self.percent = percent;
    }

    /// Why nothing more may be gathered now; `None` if it may.
    pub(super) fn refusal(&mut self, now: Mono) -> Option<String> {
        let since = self
            .filled
            .map_or(Duration::ZERO, |filled| now.since(filled));
        self.filled = Some(now);
        let gained = since.as_nanos() * u128::from(self.percent) / 100;
        let gained = i64::try_from(gained).unwrap_or(i64::MAX);
        self.left_ns = self.left_ns.saturating_add(gained).min(signed(MOST));
        (self.left_ns <= 0).then(|| {
            format!(
                "budget: evidence may take {} % of one core of this machine (`evidence.node_cpu_percent`)",
                self.percent
            )
        })
    }

    /// Takes what was used: by this thread, and by processes that work for it.
    pub(super) fn spend(&mut self, used: Duration) {
        self.left_ns = self.left_ns.saturating_sub(signed(used));
    }
}

fn signed(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_paid_back_at_two_percent() {
        let second = |count: u64| Mono(count * 1_000_000_000);
        let mut budget = Budget::new(2);
        assert_eq!(budget.refusal(second(1)), None);
        budget.spend(Duration::from_millis(520));
        assert!(budget.refusal(second(1)).is_some());
        // 20 ms a second.
        assert!(budget.refusal(second(2)).is_some());
        assert_eq!(budget.refusal(second(3)), None);
        budget.spend(Duration::from_millis(30));
        assert!(budget.refusal(second(3)).is_some());
        // No more than so much is saved up.
        assert_eq!(budget.refusal(second(1000)), None);
        budget.spend(MOST);
        assert!(budget.refusal(second(1000)).is_some());
        budget.set_share(100);
        assert_eq!(budget.refusal(second(1001)), None);
    }
}
