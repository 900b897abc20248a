//! A loop that times system calls.

use std::hint::black_box;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::super::sys::mono_ns;
use super::{Order, Poller, report};

/// Nanoseconds a call.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::measure) struct Costs {
    /// `epoll_wait` with timeout 0: what the agent's hooks are on.
    pub(in crate::measure) epoll_wait: f64,
    /// `getppid`: stands for every other system call.
    pub(in crate::measure) getppid: f64,
}

/// The best of so many batches: others on the machine only ever make a batch slower.
const BATCHES: u64 = 5;

pub(super) fn run(count: u64) -> Result<()> {
    let poller = Poller::start()?;
    while poller.order()? == Order::Go {
        let mut best = Costs {
            epoll_wait: f64::INFINITY,
            getppid: f64::INFINITY,
        };
        for _ in 0..BATCHES {
            let calls = count / BATCHES;
            best.epoll_wait = best.epoll_wait.min(each(calls, || {
                let _ = poller.wait(0);
            }));
            best.getppid = best.getppid.min(each(calls, || {
                black_box(std::os::unix::process::parent_id());
            }));
        }
        report(&best)?;
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and spans far below 2^53"
)]
fn each(calls: u64, mut call: impl FnMut()) -> f64 {
    let start = mono_ns();
    let mut done = 0;
    while done < calls {
        call();
        done += 1;
    }
    (mono_ns() - start) as f64 / calls.max(1) as f64
}
