//! Saved user registers of one thread, as the task iterator of `ebpf/src/registers.rs` writes them.

/// Bytes of the larger of the two forms: arm64's `user_pt_regs` (31 registers, sp, pc, pstate). x86-64's has 168.
pub const REGISTER_BYTES: usize = 272;

/// What user space tells the programs about this kernel before they are loaded. All zero: they read nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RegisterFacts {
    /// `task_struct.stack`
    pub task_stack: u32,
    /// `task_struct.on_cpu`
    pub task_on_cpu: u32,
    /// `task_struct.nvcsw`
    pub task_nvcsw: u32,
    /// `task_struct.nivcsw`
    pub task_nivcsw: u32,
    /// `task_struct.__state`, before Linux 5.14 `task_struct.state`
    pub task_state: u32,
    /// Bytes of the user registers, at the start of `struct pt_regs`.
    pub bytes: u32,
    /// Where the registers begin above the start of the kernel stack, for kernels that have no helper that says it.
    pub above_stack: u32,
    /// Unused.
    pub pad: u32,
}

/// What the iterator writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ThreadRegisters {
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Start of the process, nanoseconds since boot.
    pub start_ns: u64,
    /// Context switches of the thread before the registers were read.
    pub switches: u64,
    /// The same afterwards: another number means that it ran meanwhile.
    pub switches_after: u64,
    /// 1 if it was on a CPU before or after: what was saved last is not where it is.
    pub on_cpu: u32,
    /// 1 if the registers could be read.
    pub read: u32,
    /// What it waits for, as the kernel numbers it; 0 if it could run.
    pub state: u32,
    /// Unused.
    pub pad: u32,
    /// The registers, in the machine's own order.
    pub registers: [u8; REGISTER_BYTES],
}

const _: () = assert!(size_of::<RegisterFacts>() == 32);
const _: () = assert!(size_of::<ThreadRegisters>() == 48 + REGISTER_BYTES);
