//! Who is alive, and what state a process is in.

use anyhow::{Context as _, Result, bail};

use super::limit;
use crate::sys;

/// The state letter of a process; `None` if there is no such process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Fails if the process has ended, be it reaped or not.
pub(crate) fn must_live(name: &str, pid: u32) -> Result<()> {
    match state(pid) {
        None => bail!("{name} ({pid}) is gone: it must not have been signalled"),
        Some('Z' | 'X') => bail!("{name} ({pid}) has ended: it must not have been signalled"),
        Some(_) => Ok(()),
    }
}

/// Waits until a process is in a state that no event tells of.
pub(crate) fn until_state(pid: u32, wanted: char) -> Result<()> {
    until(&format!("{pid} is in state {wanted}"), || {
        state(pid) == Some(wanted)
    })
}

/// Looks until a condition holds that nothing tells of.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let end = sys::mono_ns() + u64::try_from(limit().as_nanos())?;
    while !holds() {
        if sys::mono_ns() > end {
            bail!("waited in vain until {what}");
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Sends a signal to a victim.
pub(crate) fn signal(pid: u32, number: i32) -> Result<()> {
    let raw = i32::try_from(pid)?;
    sys::signal(raw, number).with_context(|| format!("cannot send signal {number} to {pid}"))
}
