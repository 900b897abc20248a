//! What the helper gives up before it looks at anything.

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, Signal};

/// Address space: mapped files included, of which native stacks need large ones.
const ADDRESS_SPACE: u64 = 1 << 30;
const DESCRIPTORS: u64 = 1024;
/// Behind everything that serves somebody.
const NICE: i32 = 10;

/// Ends with the agent, keeps nothing of it, and takes little of the machine.
pub(super) fn confine(parent: u32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("asking to end with the agent failed")?;
    let is_parent =
        |pid: rustix::process::Pid| u32::try_from(pid.as_raw_nonzero().get()) == Ok(parent);
    if !rustix::process::getppid().is_some_and(is_parent) {
        bail!("the agent that started this helper has ended");
    }
    // SAFETY: nothing has been opened yet, so no descriptor above the standard ones is owned by anything here.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
    let limits = [
        (Resource::As, ADDRESS_SPACE),
        (Resource::Nofile, DESCRIPTORS),
        (Resource::Core, 0),
    ];
    for (resource, most) in limits {
        let maximum = rustix::process::getrlimit(resource).maximum;
        let most = maximum.map_or(most, |maximum| maximum.min(most));
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        rustix::process::setrlimit(resource, limit)
            .with_context(|| format!("limiting {resource:?} to {most} failed"))?;
    }
    // Neither is needed to work: a container may forbid both.
    let _ = rustix::process::nice(NICE);
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}
