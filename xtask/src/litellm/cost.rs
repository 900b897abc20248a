//! What evidence about one incident costs a guard: CPU time of the threads that gather it and of its helper process, and the memory
//! that all of it takes more at its highest than before.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::process;

/// The guard's threads that do nothing else.
const THREADS: &str = "evidence";

/// The state of a guard before an incident.
#[derive(Debug)]
pub(crate) struct Before {
    guard: u32,
    cpu_ns: u64,
    resident_kib: u64,
}

/// What came on top.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    pub(crate) cpu_ms: f64,
    pub(crate) memory_mib: f64,
}

impl Before {
    /// Takes the state, and lets the kernel count the highest memory anew.
    pub(crate) fn of(guard: u32) -> Result<Self> {
        for pid in processes(guard) {
            let path = format!("/proc/{pid}/clear_refs");
            fs::write(&path, "5").with_context(|| format!("cannot write {path}"))?;
        }
        Ok(Self {
            guard,
            cpu_ns: cpu_ns(guard)?,
            resident_kib: memory_kib(guard, "VmRSS:")?,
        })
    }

    /// The difference so far.
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds and MiB of one process"
    )]
    pub(crate) fn until_now(&self) -> Result<Cost> {
        let cpu = cpu_ns(self.guard)?.saturating_sub(self.cpu_ns);
        let memory = memory_kib(self.guard, "VmHWM:")?.saturating_sub(self.resident_kib);
        Ok(Cost {
            cpu_ms: cpu as f64 / 1e6,
            memory_mib: memory as f64 / 1024.0,
        })
    }
}

/// The guard and its helper.
fn processes(guard: u32) -> Vec<u32> {
    let helpers = process::children(guard).into_iter().map(|child| child.pid);
    std::iter::once(guard).chain(helpers).collect()
}

fn cpu_ns(guard: u32) -> Result<u64> {
    let folder = format!("/proc/{guard}/task");
    let threads = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    let gathering = threads
        .filter_map(|thread| Some(thread.ok()?.path()))
        .filter(|thread| {
            fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with(THREADS))
        });
    let helpers = process::children(guard)
        .into_iter()
        .map(|child| format!("/proc/{}", child.pid).into());
    gathering.chain(helpers).map(|place| run_ns(&place)).sum()
}

/// Time on a CPU so far, of a thread or of a process with one thread.
fn run_ns(place: &Path) -> Result<u64> {
    let path = place.join("schedstat");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let first = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    first.with_context(|| format!("{} begins with no number: {text:?}", path.display()))
}

fn memory_kib(guard: u32, field: &str) -> Result<u64> {
    let of = |pid: u32| {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        kib_in(&text, field).with_context(|| format!("{path} has no {field}"))
    };
    processes(guard).into_iter().map(of).sum()
}

fn kib_in(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_its_field() {
        let status = "VmHWM:\t   48992 kB\nVmRSS:\t   25908 kB\n";
        assert_eq!(kib_in(status, "VmRSS:"), Some(25_908));
        assert_eq!(kib_in(status, "VmHWM:"), Some(48_992));
        assert_eq!(kib_in(status, "VmSwap:"), None);
    }
}
