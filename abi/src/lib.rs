//! Types that cross between the kernel half (`ebpf/`) and the user half (`agent/src/kernel/`).
//!
//! Everything is `#[repr(C)]` with explicit padding; no `bool`, `usize`, `Option` or enum crosses. Sizes are asserted at
//! compile time, so that a change of layout is a build error on both sides. Nothing here decides anything.
#![no_std]

mod event;
mod record;
mod registers;

pub use event::*;
pub use record::*;
pub use registers::*;

/// Loops that can be watched at once; further ones are counted in [`Counter::SlotsFull`] by user space.
pub const MAX_LOOPS: u32 = 4096;
/// Processes (watched ones and their descendants) known at once.
pub const MAX_TASKS: u32 = 32_768;
/// Threads of watched processes that ever polled.
pub const MAX_THREADS: u32 = 32_768;
/// Ports that are watched for probes.
pub const MAX_PORTS: u32 = 4096;
/// Connections to these ports that are followed at once; the oldest give way.
pub const MAX_CONNECTIONS: u32 = 8192;
/// Ports of the own machine to which watched processes connect, each counted for itself.
pub const MAX_CONNECTS: u32 = 2048;
/// Bytes of the ring of rare events.
pub const RING_BYTES: u32 = 1 << 20;

/// Names of maps, globals and programs, so that no string stands twice.
pub mod names {
    /// Watched processes and their descendants, by tgid.
    pub const TASKS: &str = "TASKS";
    /// Threads of watched processes that poll, by tid.
    pub const THREADS: &str = "THREADS";
    /// One [`crate::LoopRecord`] a slot, mapped into user space.
    pub const LOOPS: &str = "LOOPS";
    /// Ring of rare events.
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU counters, indexed by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Global of type [`crate::Offsets`].
    pub const OFFSETS: &str = "OFFSETS";
    /// Global of type [`crate::RegisterFacts`].
    pub const REGISTER_FACTS: &str = "REGISTER_FACTS";
    /// The one thread whose registers are asked for, by tid.
    pub const WANTED_THREAD: &str = "WANTED_THREAD";
    /// Task iterators that read them, best first: with a helper of Linux 5.15, and without.
    pub const READ_REGISTERS: [&str; 2] = ["read_registers", "read_registers_by_stack"];
    /// Ports that are probed, of any network namespace.
    pub const PORTS: &str = "PORTS";
    /// Ports that are probed, by network namespace and port.
    pub const LISTENERS: &str = "LISTENERS";
    /// Global of type [`crate::SocketFacts`].
    pub const SOCKET_FACTS: &str = "SOCKET_FACTS";
    /// Raw tracepoint on changes of a connection's state.
    pub const CONNECTION_CHANGED: &str = "connection_changed";
    /// [`crate::ConnectCount`]s by [`crate::ConnectKey`].
    pub const CONNECTS: &str = "CONNECTS";
    /// Raw tracepoint on bytes that are taken out of a TCP connection.
    pub const BYTES_TAKEN: &str = "bytes_taken";
    /// Global of type [`crate::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
}

/// What the kernel half counts: every loss and every impossible reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// The ring was full: an event is gone.
    RingFull = 0,
    /// `TASKS` was full: a descendant is not followed.
    TasksFull = 1,
    /// `THREADS` was full: a poller is not seen.
    ThreadsFull = 2,
    /// A clock or counter went backwards.
    Backwards = 3,
    /// Reading kernel or user memory failed.
    ReadFailed = 4,
    /// A slot number pointed outside of `LOOPS`.
    BadSlot = 5,
    /// User space: no slot was free for a loop.
    SlotsFull = 6,
    /// A map of connections was full: one is not counted.
    ConnectsFull = 7,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 8;
    /// All of them, in the order of their index.
    pub const ALL: [Counter; Self::COUNT as usize] = [
        Counter::RingFull,
        Counter::TasksFull,
        Counter::ThreadsFull,
        Counter::Backwards,
        Counter::ReadFailed,
        Counter::BadSlot,
        Counter::SlotsFull,
        Counter::ConnectsFull,
    ];

    /// The word used in metrics and in `lost` lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Counter::RingFull => "ring_full",
            Counter::TasksFull => "tasks_full",
            Counter::ThreadsFull => "threads_full",
            Counter::Backwards => "clock_backwards",
            Counter::ReadFailed => "read_failed",
            Counter::BadSlot => "bad_slot",
            Counter::SlotsFull => "slots_full",
            Counter::ConnectsFull => "connects_full",
        }
    }
}

/// What user space tells the kernel half before it is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Report every exec of the machine (1), or only those of known processes (0).
    pub all_execs: u32,
    /// Inode of the node's network namespace.
    pub node_netns: u32,
}

/// Byte offsets of kernel fields, read from the running kernel's BTF: Rust code cannot carry CO-RE relocations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.real_parent`
    pub task_real_parent: u32,
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`
    pub task_start_boottime: u32,
    /// `task_struct.thread_pid`
    pub task_thread_pid: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `task_struct.exit_code`
    pub task_exit_code: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `pid.level`
    pub pid_level: u32,
    /// `pid.numbers`
    pub pid_numbers: u32,
    /// Size of `struct upid`
    pub upid_size: u32,
    /// `upid.nr`
    pub upid_nr: u32,
    /// `mm_struct.exe_file`
    pub mm_exe_file: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `pt_regs` of the system-call arguments, in order (user ABI, but kept here beside the others)
    pub regs: [u32; 5],
}

/// Byte offsets of the fields of a TCP socket; all 0 where one is lacking, and then no connection is followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketFacts {
    /// `sock.__sk_common.skc_family`
    pub family: u32,
    /// `sock.__sk_common.skc_num`: the own port, in the machine's byte order
    pub num: u32,
    /// `sock.__sk_common.skc_dport`: the other's port, in network byte order
    pub dport: u32,
    /// `sock.__sk_common.skc_rcv_saddr`: the own IPv4 address
    pub saddr: u32,
    /// `sock.__sk_common.skc_daddr`: the other's
    pub daddr: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`, its last word; 0 without IPv6
    pub v6_saddr: u32,
    /// `sock.__sk_common.skc_v6_daddr`, its last word; 0 without IPv6
    pub v6_daddr: u32,
    /// `sock.__sk_common.skc_net.net`
    pub net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `tcp_sock.bytes_received`
    pub bytes_received: u32,
    /// `sock.sk_err`
    pub err: u32,
}

const _: () = assert!(size_of::<SocketFacts>() == 44);
const _: () = assert!(size_of::<Settings>() == 8);
const _: () = assert!(size_of::<Offsets>() == 88);
