//! What a loop is stuck on, as lines, journal and metrics show it.

use serde::{Deserialize, Serialize};

use super::ids::{NsPid, Pid};

/// Kind of a stall's cause: the words of the contract.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// Waiting for a child process.
    ChildWait,
    /// Waiting for a lock, and nothing burns CPU.
    LockWait,
    /// Another thread of the interpreter holds its lock and runs.
    GilWait,
    /// Waiting for one socket.
    NetworkWait,
    /// Waiting for a pipe.
    PipeWait,
    /// Waiting for a file or the block layer.
    DiskWait,
    /// Waiting for a file lock.
    FileLock,
    /// Sleeping on purpose.
    Sleep,
    /// Computing.
    CpuBusy,
    /// Runnable, and not given a CPU.
    CpuStarved,
    /// Waiting for memory.
    MemoryStall,
    /// Stopped, traced or frozen.
    Stopped,
    /// None of these can be shown.
    #[default]
    Unknown,
}

impl CauseKind {
    /// All kinds.
    pub const ALL: [CauseKind; 13] = [
        CauseKind::ChildWait,
        CauseKind::LockWait,
        CauseKind::GilWait,
        CauseKind::NetworkWait,
        CauseKind::PipeWait,
        CauseKind::DiskWait,
        CauseKind::FileLock,
        CauseKind::Sleep,
        CauseKind::CpuBusy,
        CauseKind::CpuStarved,
        CauseKind::MemoryStall,
        CauseKind::Stopped,
        CauseKind::Unknown,
    ];

    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CauseKind::ChildWait => "child_wait",
            CauseKind::LockWait => "lock_wait",
            CauseKind::GilWait => "gil_wait",
            CauseKind::NetworkWait => "network_wait",
            CauseKind::PipeWait => "pipe_wait",
            CauseKind::DiskWait => "disk_wait",
            CauseKind::FileLock => "file_lock",
            CauseKind::Sleep => "sleep",
            CauseKind::CpuBusy => "cpu_busy",
            CauseKind::CpuStarved => "cpu_starved",
            CauseKind::MemoryStall => "memory_stall",
            CauseKind::Stopped => "stopped",
            CauseKind::Unknown => "unknown",
        }
    }
}

/// The child a loop waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildCause {
    /// Its id on the host.
    pub pid: Pid,
    /// Its id as the loop's process sees it.
    pub ns_pid: NsPid,
    /// Basename of its executable, empty if it could not be told.
    pub exe: String,
    /// State letter of procfs, spelled out.
    pub state: String,
    /// How long ago the loop's process told it to end.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "in_microseconds"
    )]
    pub told_to_end_ms_ago: Option<f64>,
    /// Who told it to end first, whoever that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signalled: Option<Signalled>,
}

/// A signal that told a process to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signalled {
    /// By whom.
    pub by: Pid,
    /// Basename of the sender's executable, empty if it is no process that is followed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by_exe: String,
    /// Which signal.
    pub signal: String,
    /// How long ago.
    #[serde(serialize_with = "to_microseconds")]
    pub ms_ago: f64,
}

/// Ages are sums of spans: what lies below a microsecond is noise of the arithmetic.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn to_microseconds<S: serde::Serializer>(ms: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((ms * 1000.0).round() / 1000.0)
}

#[expect(clippy::ref_option, reason = "serde hands it over so")]
fn in_microseconds<S: serde::Serializer>(
    ms: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match ms {
        Some(ms) => to_microseconds(ms, serializer),
        None => serializer.serialize_none(),
    }
}

/// Why a runnable thread gets no CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StarvedBy {
    /// Its cgroup, or one above, has used up its quota.
    CgroupQuota,
    /// Others have its CPU while other CPUs are idle: a pinned or real-time neighbour, or small weight.
    Competition,
    /// No CPU of the machine is idle.
    BusyMachine,
}

impl StarvedBy {
    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            StarvedBy::CgroupQuota => "cgroup_quota",
            StarvedBy::Competition => "competition",
            StarvedBy::BusyMachine => "busy_machine",
        }
    }
}

/// What holds a thread that is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// SIGSTOP or job control.
    Signal,
    /// A debugger.
    Tracer,
    /// Its cgroup's freezer.
    Freezer,
}

impl StoppedBy {
    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            StoppedBy::Signal => "signal",
            StoppedBy::Tracer => "tracer",
            StoppedBy::Freezer => "freezer",
        }
    }
}

/// Why a loop does not come back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Cause {
    /// What kind.
    pub kind: CauseKind,
    /// System call the thread is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscall: Option<String>,
    /// The child waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<ChildCause>,
    /// The other end of the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The file waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The process that holds what is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_pid: Option<Pid>,
    /// Basename of its executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_exe: Option<String>,
    /// `tcp`, `udp` or `unix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// State of the socket, as the kernel names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_state: Option<String>,
    /// The other end answers names: the thread waits for a look-up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dns: bool,
    /// Why it gets no CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starved_by: Option<StarvedBy>,
    /// What stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<StoppedBy>,
    /// Where in the kernel it sleeps, if that is what there is to go by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_function: Option<String>,
}

/// One frame of a stack, innermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Function name.
    pub function: String,
    /// Source file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_serialised_form() {
        for kind in CauseKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
