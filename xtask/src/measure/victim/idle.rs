//! A healthy loop with nothing to do.

use anyhow::Result;

use super::{Order, Poller, order};

pub(super) fn run(polls_per_second: u64) -> Result<()> {
    let timeout_ms = match polls_per_second {
        0 => -1,
        rate => i32::try_from(1000 / rate).unwrap_or(1),
    };
    let poller = Poller::start()?;
    loop {
        if poller.wait(timeout_ms)? && order()? == Order::End {
            return super::report(&());
        }
    }
}
