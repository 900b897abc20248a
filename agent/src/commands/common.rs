//! What the commands that watch have in common.

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::kernel::{self, Sensor};

/// Takes the signals that end or reload the agent out of the hands of its threads. Call it before any thread starts.
pub(super) fn catch_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        set.add(signal);
    }
    set.thread_block().context("cannot block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot make a signalfd")
}

/// Says that the rescue thread has ended though nobody asked it to.
pub(super) fn announce_end() {
    log::error!(
        "the rescue thread has ended unexpectedly: nothing is watched and nothing is rescued any more. What it said last is above; \
         please report it"
    );
}

/// Says which plan is in force where that is not the usual one.
pub(super) fn announce(sensor: &dyn Sensor) {
    let plan = sensor.plan();
    if plan.way == kernel::Way::Sampling {
        let why = plan
            .verdicts
            .get("way.tracepoint")
            .map_or("", |verdict| verdict.reason());
        log::warn!(
            "eBPF cannot be used here, so loops are sampled through procfs: slower to notice, and who told a child to end \
             stays unknown ({why}). See `loopwarden doctor`"
        );
    }
}
