//! Rare events, sent through the ring buffer.

use crate::PollKey;

/// Bytes of an executable's basename that are kept.
pub const EXE_BYTES: usize = 64;

/// What an [`Event`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A thread of a watched process polled for the first time: `key`.
    PollerSeen = 1,
    /// A loop thread began to wait on children: `since` is the first entry of the episode, `arg` the which, `id` the
    /// number, `extra` the options.
    WaitBegan = 2,
    /// The episode that began at `since` is over: `arg` is a `WAIT_END_*`, `id` the return value.
    WaitEnded = 3,
    /// A loop thread entered a nested poll on one descriptor: `key`, `since` its entry.
    NestedPoll = 4,
    /// The loop entered its own poller after an iteration that was long or that user space asked about: `since` is the
    /// start of that iteration.
    LoopPolled = 5,
    /// A poll returned later than its own timeout by more than the stall threshold: `since` is the deadline.
    PollOverran = 6,
    /// A process was made: `tgid` is the child, `arg` its parent, `id` its number in the parent's PID namespace,
    /// `since` its start time.
    Forked = 7,
    /// A process ran another program: `exe`, `since` its start time.
    Execed = 8,
    /// A process ended: all threads are gone; `id` is its exit code as wait sees it, `since` its start time.
    Exited = 9,
    /// A thread that had a slot ended.
    ThreadEnded = 10,
    /// A signal was sent to a known process: `arg` is the sender's tgid, `id` the signal, `since` the start time of the
    /// target as known.
    Signalled = 11,
    /// A connection to a watched port is complete: `tgid` asked for it at `since`, in the network namespace `extra`; the port
    /// is `id`, in the network namespace `arg`.
    ProbeBegan = 12,
    /// That connection is over for who asked for it: `flags` is a `PROBE_*`, the rest as when it began.
    ProbeEnded = 13,
    /// A known process listens: the port is `id`, in the network namespace `arg`; `extra` is the last word of the address, 0 for
    /// any, and `flags` a `FAMILY_*`.
    Listening = 14,
    /// A known process has taken bytes out of the first connection to such a port: `id` and `arg` as then.
    Accepted = 15,
}

/// IPv4, also in an IPv6 socket.
pub const FAMILY_V4: u16 = 4;
/// IPv6.
pub const FAMILY_V6: u16 = 6;

/// Who connected where on its own machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ConnectKey {
    /// The process.
    pub tgid: u32,
    /// Its network namespace, by inode.
    pub netns: u32,
    /// The port.
    pub port: u16,
    /// `FAMILY_*`
    pub family: u16,
    /// Last word of the address.
    pub address: u32,
}

/// How often, and when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ConnectCount {
    /// Handshakes that were completed.
    pub ok: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// When the first of the last run of refused ones was refused, without a completed one between; 0 if none was.
    pub first_refused: u64,
    /// One was completed since then.
    pub answered: u64,
    /// When the last of all these was.
    pub last: u64,
}

/// Something was sent back before the end.
pub const PROBE_ANSWERED: u32 = 0;
/// Who asked closed it, without an answer.
pub const PROBE_GIVEN_UP: u32 = 1;
/// The other side closed it, without an answer.
pub const PROBE_REFUSED: u32 = 2;

/// The episode ended because a child was reaped.
pub const WAIT_END_REAPED: u32 = 0;
/// The episode ended because the call failed (no such child).
pub const WAIT_END_FAILED: u32 = 1;
/// The episode ended because the thread went back to its poller.
pub const WAIT_END_POLLED: u32 = 2;
/// The episode ended because the thread waits on something else now.
pub const WAIT_END_OTHER: u32 = 3;

/// One event. The meaning of the plain fields depends on `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// [`EventKind`]
    pub kind: u32,
    /// Slot of the loop, or `SLOT_PENDING` where none is meant.
    pub slot: u32,
    /// Process the event is about.
    pub tgid: u32,
    /// Thread the event is about.
    pub tid: u32,
    /// When it happened (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// See `kind`.
    pub since: u64,
    /// See `kind`.
    pub arg: u32,
    /// See `kind`.
    pub id: i32,
    /// See `kind`.
    pub extra: u32,
    /// [`EventKind::WaitBegan`]: 1 for waitid. [`EventKind::ProbeEnded`]: how.
    pub flags: u32,
    /// See `kind`.
    pub key: PollKey,
    /// Basename of the executable, ended by a NUL if shorter (exec only).
    pub exe: [u8; EXE_BYTES],
}

/// One process as the task iterator lists it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskListing {
    /// Process id in the initial PID namespace.
    pub tgid: u32,
    /// Its parent.
    pub parent: u32,
    /// `task_struct.start_boottime`
    pub start_ns: u64,
}

const _: () = assert!(size_of::<Event>() == 120);
const _: () = assert!(size_of::<TaskListing>() == 16);
const _: () = assert!(size_of::<ConnectKey>() == 16);
const _: () = assert!(size_of::<ConnectCount>() == 40);
