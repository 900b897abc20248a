//! Waiting that Ctrl-C ends.
//!
//! The signal only sets a flag; every wait of a run looks at it and returns an error, so that what the run has started is ended
//! by the same destructors as after any other error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cmd;

const STEP: Duration = Duration::from_millis(20);

static STOPPED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on SIGINT, SIGTERM and SIGHUP end the run in an orderly way.
pub(crate) fn listen() -> Result<()> {
    let flag = STOPPED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, flag.clone())
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    Ok(())
}

/// Fails when the run was told to stop.
pub(crate) fn check() -> Result<()> {
    if STOPPED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
    {
        bail!("interrupted; everything that was started has been ended");
    }
    Ok(())
}

/// Sleeps until a moment.
pub(crate) fn sleep_until(moment: Instant) -> Result<()> {
    loop {
        check()?;
        let left = moment.saturating_duration_since(cmd::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(STEP));
    }
}

/// Asks again and again until there is an answer; None when the limit has passed.
pub(crate) fn wait_for<T>(
    limit: Duration,
    pause: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let end = cmd::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if cmd::now() >= end {
            return Ok(None);
        }
        sleep_until(cmd::now() + pause)?;
    }
}
