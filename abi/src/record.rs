//! The per-loop record and the entries of the hash maps.

/// Buckets of the iteration histogram.
pub const BUCKETS: usize = 56;
/// Smallest power of two (nanoseconds) that has a bucket of its own: 2^10 ns, about a microsecond.
pub const BUCKET_MIN_SHIFT: u32 = 10;
/// Different pollers remembered for a thread until one is known to be its own.
pub const KEYS: usize = 4;

/// `ThreadEntry.slot` of a thread that was reported and waits for user space's verdict.
pub const SLOT_PENDING: u32 = u32::MAX;
/// `ThreadEntry.slot` of a thread that user space has judged to be no loop.
pub const SLOT_IGNORED: u32 = u32::MAX - 1;

/// The process is watched: its pollers are reported and recorded.
pub const TASK_WATCHED: u32 = 1;
/// The process is a descendant of a watched one (its signals, exec and exit are reported).
pub const TASK_DESCENDANT: u32 = 2;

/// No poll seen since the slot was given out.
pub const STATE_UNKNOWN: u32 = 0;
/// Inside its own poller.
pub const STATE_POLLING: u32 = 1;
/// Between the return of its own poller and the next call of it.
pub const STATE_BUSY: u32 = 2;

/// `epoll_wait`, `epoll_pwait`, `epoll_pwait2`.
pub const CLASS_EPOLL: u32 = 1;
/// `poll`, `ppoll`.
pub const CLASS_POLL: u32 = 2;
/// `select`, `pselect6`.
pub const CLASS_SELECT: u32 = 3;

/// A poll without timeout.
pub const NO_DEADLINE: u64 = u64::MAX;

/// A process the kernel half knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskEntry {
    /// `task_struct.start_boottime` of the leader; 0 if it was not known when user space added the process.
    pub start_ns: u64,
    /// Parent at the time of the fork.
    pub parent: u32,
    /// `TASK_*`
    pub flags: u32,
}

/// A thread of a watched process that has polled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ThreadEntry {
    /// Index into `LOOPS`, or `SLOT_*`.
    pub slot: u32,
    /// Unused.
    pub pad: u32,
}

/// What a thread polls: the class of call and the epoll descriptor, or the first descriptor of the set.
///
/// A poll or select set changes with every connection, but its first (lowest) descriptor is the loop's wake-up pipe or
/// listener and stays: that makes it the recurring call's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PollKey {
    /// `CLASS_*`, 0 for none.
    pub class: u32,
    /// Descriptor, -1 for an empty set.
    pub fd: i32,
}

/// How often a thread has polled one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KeyCount {
    /// What was polled.
    pub key: PollKey,
    /// How often.
    pub count: u64,
}

/// One loop thread, written only in that thread's own context (so by one CPU at a time), read by user space from mapped
/// memory. `seq` is odd while it is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct LoopRecord {
    /// Odd while the kernel half writes.
    pub seq: u64,
    /// `STATE_*`
    pub state: u32,
    /// System call number of the last poll of its own.
    pub syscall: u32,
    /// When `state` began (`CLOCK_MONOTONIC`).
    pub since: u64,
    /// When the poll it is in must return, or [`NO_DEADLINE`].
    pub deadline: u64,
    /// Finished iterations.
    pub iterations: u64,
    /// Time in finished polls.
    pub idle_ns: u64,
    /// Time in finished iterations.
    pub busy_ns: u64,
    /// Longest finished iteration.
    pub max_ns: u64,
    /// Polls of something else within iterations.
    pub nested: u64,
    /// The nested poll it is in: what, since when (0: none), and its deadline.
    pub nested_key: PollKey,
    /// See `nested_key`.
    pub nested_since: u64,
    /// See `nested_key`.
    pub nested_deadline: u64,
    /// First entry of the same nested poll in this iteration (a call entered again after a signal is the same one).
    pub nested_first: u64,
    /// The wait episode: time of the first entry, 0 for none.
    pub wait_start: u64,
    /// Entry of the wait call it is in, 0 if it is between calls.
    pub wait_call: u64,
    /// Entry of the episode's last wait call.
    pub wait_last: u64,
    /// Longest time between two entries of the episode.
    pub wait_gap: u64,
    /// Wait calls of the episode.
    pub wait_calls: u32,
    /// `P_*` of waitid, or for wait4 what its pid argument means.
    pub wait_which: u32,
    /// The number waited for, in the caller's PID namespace (or a pidfd).
    pub wait_id: i32,
    /// Options of the call.
    pub wait_options: u32,
    /// Where waitid writes what it found (user memory), 0 for wait4.
    pub wait_info: u64,
    /// 1 once the episode was sent as an event.
    pub wait_announced: u32,
    /// 1 if the call is waitid: it waits for an exit only when told so.
    pub wait_waitid: u32,
    /// Pollers seen so far.
    pub keys: [KeyCount; KEYS],
    /// Finished iterations by length, see [`bucket_of`].
    pub hist: [u64; BUCKETS],
    /// Written by user space only: the loop's own poller.
    pub own: PollKey,
    /// Written by user space only: an iteration of at least this length is reported when it ends.
    pub stall_after_ns: u64,
    /// Written by user space only: report the next entry to the own poller (1).
    pub notify: u32,
    /// Written by user space only: thread the slot belongs to, 0 when free.
    pub tid: u32,
}

/// `wait_which`: any child (`P_ALL`).
pub const WAIT_ANY: u32 = 0;
/// `wait_which`: one process (`P_PID`).
pub const WAIT_PID: u32 = 1;
/// `wait_which`: a process group (`P_PGID`; id 0 is the caller's own group).
pub const WAIT_GROUP: u32 = 2;
/// `wait_which`: a pidfd (`P_PIDFD`).
pub const WAIT_PIDFD: u32 = 3;

/// The bucket of a duration: two a power of two, from 2^10 ns (bucket 1) on; bucket 0 holds what is shorter, the last one
/// what is longer.
#[must_use]
#[expect(
    clippy::inline_always,
    reason = "the BPF target can only call what is inlined or verified on its own"
)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "below 110: twice the 54 shifts there can be"
)]
#[inline(always)]
pub const fn bucket_of(ns: u64) -> usize {
    if ns < 1 << BUCKET_MIN_SHIFT {
        return 0;
    }
    // No `leading_zeros`: the BPF target has no such instruction and the library call is not inlined everywhere.
    let mut shift = 0;
    let mut rest = ns;
    if rest >= 1 << 32 {
        rest >>= 32;
        shift += 32;
    }
    if rest >= 1 << 16 {
        rest >>= 16;
        shift += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        shift += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        shift += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        shift += 2;
    }
    if rest >= 1 << 1 {
        shift += 1;
    }
    let half = (ns >> (shift - 1)) & 1;
    let index = 1 + ((shift - BUCKET_MIN_SHIFT as u64) * 2 + half) as usize;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// The exclusive upper bound of a bucket in nanoseconds; `u64::MAX` for the last.
#[must_use]
pub const fn bucket_bound(index: usize) -> u64 {
    if index + 1 >= BUCKETS {
        return u64::MAX;
    }
    if index == 0 {
        return 1 << BUCKET_MIN_SHIFT;
    }
    let octave = 1u64 << (BUCKET_MIN_SHIFT as usize + (index - 1) / 2);
    if (index - 1).is_multiple_of(2) {
        octave + octave / 2
    } else {
        octave * 2
    }
}

const _: () = assert!(size_of::<TaskEntry>() == 16);
const _: () = assert!(size_of::<ThreadEntry>() == 8);
const _: () = assert!(size_of::<LoopRecord>() == 704);
const _: () = assert!(align_of::<LoopRecord>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_the_bound_of_its_bucket_and_not_below_the_one_before() {
        let edges = (0..63).flat_map(|s| [(1u64 << s) - 1, 1 << s, (1 << s) + (1 << s) / 2]);
        for ns in edges.chain([0, 999, 1_000_000, 100_000_000, u64::MAX - 1]) {
            let bucket = bucket_of(ns);
            assert!(ns < bucket_bound(bucket), "{ns} in {bucket}");
            assert!(
                bucket == 0 || ns >= bucket_bound(bucket - 1),
                "{ns} in {bucket}"
            );
        }
    }

    #[test]
    fn the_histogram_reaches_past_two_minutes() {
        assert!(bucket_bound(BUCKETS - 2) > 120_000_000_000);
    }
}
