//! Reading fields of kernel structures at the offsets user space found in the kernel's BTF, and of user memory.

use aya_ebpf::helpers::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes, bpf_probe_read_user,
};
use loopwarden_abi::{Counter, EXE_BYTES, NO_DEADLINE};

use crate::global;
use crate::maps::{OFFSETS, count};

/// A `struct task_struct *`.
#[derive(Clone, Copy)]
pub struct Task(pub *const u8);

/// Reads a field of a kernel structure; a failure is counted and gives nothing.
#[inline(always)]
pub fn field<T: Copy>(base: *const u8, offset: u32) -> Option<T> {
    if base.is_null() {
        return None;
    }
    // SAFETY: the helper checks the address itself.
    match unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) } {
        Ok(value) => Some(value),
        Err(_) => {
            count(Counter::ReadFailed);
            None
        }
    }
}

/// Reads a value of the caller's memory; a failure is counted and gives nothing.
#[inline(always)]
pub fn user<T: Copy>(address: u64) -> Option<T> {
    if address == 0 {
        return None;
    }
    // SAFETY: the helper checks the address itself.
    let value = unsafe { bpf_probe_read_user(address as *const T) };
    if value.is_err() {
        count(Counter::ReadFailed);
    }
    value.ok()
}

impl Task {
    #[inline(always)]
    pub fn pid(self) -> Option<u32> {
        field(self.0, global!(OFFSETS.task_pid))
    }

    #[inline(always)]
    pub fn tgid(self) -> Option<u32> {
        field(self.0, global!(OFFSETS.task_tgid))
    }

    #[inline(always)]
    pub fn start_ns(self) -> Option<u64> {
        let leader: *const u8 = field(self.0, global!(OFFSETS.task_group_leader))?;
        field(leader, global!(OFFSETS.task_start_boottime))
    }

    #[inline(always)]
    pub fn parent_tgid(self) -> Option<u32> {
        let parent: *const u8 = field(self.0, global!(OFFSETS.task_real_parent))?;
        field(parent, global!(OFFSETS.task_tgid))
    }

    /// Threads of the process that have not ended.
    #[inline(always)]
    pub fn live_threads(self) -> Option<i32> {
        let signal: *const u8 = field(self.0, global!(OFFSETS.task_signal))?;
        field(signal, global!(OFFSETS.signal_live))
    }

    #[inline(always)]
    pub fn exit_code(self) -> Option<i32> {
        field(self.0, global!(OFFSETS.task_exit_code))
    }

    /// Depth of the PID namespace the task lives in.
    #[inline(always)]
    pub fn level(self) -> Option<u32> {
        let pid: *const u8 = field(self.0, global!(OFFSETS.task_thread_pid))?;
        field(pid, global!(OFFSETS.pid_level))
    }

    /// The task's number in the PID namespace at a depth.
    #[inline(always)]
    pub fn number_at(self, level: u32) -> Option<i32> {
        let pid: *const u8 = field(self.0, global!(OFFSETS.task_thread_pid))?;
        // Namespaces nest at most 32 deep; the bound keeps a misread level from reaching far.
        let level = level & 31;
        field(
            pid,
            global!(OFFSETS.pid_numbers)
                + level * global!(OFFSETS.upid_size)
                + global!(OFFSETS.upid_nr),
        )
    }

    /// Basename of the executable: the name of its directory entry, so that a script counts as its interpreter and
    /// "(deleted)" never shows.
    #[inline(always)]
    pub fn exe_name(self, name: &mut [u8; EXE_BYTES]) -> Option<()> {
        let mm: *const u8 = field(self.0, global!(OFFSETS.task_mm))?;
        let file: *const u8 = field(mm, global!(OFFSETS.mm_exe_file))?;
        let dentry: *const u8 = field(file, global!(OFFSETS.file_dentry))?;
        let text: *const u8 = field(dentry, global!(OFFSETS.dentry_name))?;
        // SAFETY: the helper checks the address and never writes past the slice.
        match unsafe { bpf_probe_read_kernel_str_bytes(text, name) } {
            Ok(_) => Some(()),
            Err(_) => {
                count(Counter::ReadFailed);
                None
            }
        }
    }
}

/// The moment a time-out in milliseconds ends; negative means none.
#[inline(always)]
pub fn deadline_ms(now: u64, timeout_ms: i32) -> u64 {
    if timeout_ms < 0 {
        NO_DEADLINE
    } else {
        now.saturating_add(timeout_ms as u64 * 1_000_000)
    }
}

/// The moment a `timespec` (or `timeval`, with `unit_ns` 1000) in user memory ends; a null pointer means none.
#[inline(always)]
pub fn deadline_at(now: u64, address: u64, unit_ns: u64) -> u64 {
    match user::<[u64; 2]>(address) {
        Some([seconds, fraction]) => {
            // Times past this are as good as none, and the product must not wrap.
            if seconds > 1 << 30 {
                return NO_DEADLINE;
            }
            now.saturating_add(seconds * 1_000_000_000)
                .saturating_add((fraction & 0xffff_ffff) * unit_ns)
        }
        None => NO_DEADLINE,
    }
}
