//! The facts: from procfs, and by trying. Nothing is changed: a missing run directory is not made, and what is tried ends with the
//! command.

use std::fs;

use crate::action::RunDir;
use crate::kernel::{self, Way, realtime};
use crate::target::freezer::Freezer;

pub(super) const KILL: u32 = 5;
pub(super) const SYS_PTRACE: u32 = 19;
pub(super) const SYS_ADMIN: u32 = 21;
pub(super) const PERFMON: u32 = 38;
pub(super) const BPF: u32 = 39;

/// What the verdicts rest on.
#[derive(Debug, Clone)]
pub(in crate::commands) struct Facts {
    pub(super) way: Way,
    pub(super) is_root: bool,
    pub(super) realtime: Result<(), String>,
    pub(super) locked_memory: Result<(), String>,
    pub(super) run_dir: Result<(), String>,
    pub(super) freezer: Result<(), String>,
    pub(super) host_pid_namespace: bool,
    pub(super) procfs_is_ours: bool,
    /// `CapEff` of `/proc/self/status`.
    pub(super) capabilities: u64,
    /// `/proc/self/mountinfo`.
    pub(super) mounts: String,
    /// `/proc/1/cgroup`.
    pub(super) cgroups_of_init: String,
}

impl Facts {
    /// Looks, and tries what can only be tried.
    pub(in crate::commands) fn gather(way: Way) -> Self {
        // On a thread of its own, which takes the priority with it when it ends.
        let realtime = std::thread::spawn(realtime::prefer_this_thread).join();
        Self {
            way,
            is_root: rustix::process::geteuid().is_root(),
            realtime: realtime.unwrap_or_else(|_| Err("trying it panicked".to_owned())),
            locked_memory: realtime::lock_memory(),
            run_dir: RunDir::inspect().map_err(|error| error.to_string()),
            freezer: Freezer::find().check(),
            host_pid_namespace: kernel::in_host_pid_namespace(),
            procfs_is_ours: kernel::procfs_is_ours(),
            capabilities: capabilities(
                &fs::read_to_string("/proc/self/status").unwrap_or_default(),
            ),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            cgroups_of_init: fs::read_to_string("/proc/1/cgroup").unwrap_or_default(),
        }
    }

    pub(super) fn holds(&self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }

    pub(super) fn mounts(&self) -> impl Iterator<Item = Mount<'_>> {
        self.mounts.lines().filter_map(Mount::parse)
    }
}

pub(super) fn capabilities(status: &str) -> u64 {
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    held.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

/// The part of a line of mountinfo that matters here.
pub(super) struct Mount<'a> {
    pub(super) root: &'a str,
    pub(super) point: &'a str,
    pub(super) kind: &'a str,
    pub(super) options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        Some(Self {
            root: before.next()?,
            point: before.next()?,
            kind: after.next()?,
            options: after.nth(1)?,
        })
    }

    pub(super) fn option(&self, name: &str) -> Option<&'a str> {
        self.options
            .split(',')
            .find_map(|option| option.strip_prefix(name))
    }
}
