//! Maps and the few things one does with them: find the caller's record, count a loss, send an event.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use loopwarden_abi::{
    Counter, EXE_BYTES, Event, EventKind, LoopRecord, MAX_LOOPS, MAX_TASKS, MAX_THREADS, Offsets,
    PollKey, RING_BYTES, SLOT_IGNORED, SLOT_PENDING, Settings, TASK_WATCHED, TaskEntry,
    ThreadEntry,
};

#[map]
pub static TASKS: HashMap<u32, TaskEntry> = HashMap::with_max_entries(MAX_TASKS, 0);
#[map]
pub static THREADS: HashMap<u32, ThreadEntry> = HashMap::with_max_entries(MAX_THREADS, 0);
#[map]
pub static LOOPS: Array<LoopRecord> = Array::with_max_entries(MAX_LOOPS, BPF_F_MMAPABLE);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Set by user space before the load; read field by field with `global!`.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets {
    task_pid: 0,
    task_tgid: 0,
    task_real_parent: 0,
    task_group_leader: 0,
    task_start_boottime: 0,
    task_thread_pid: 0,
    task_signal: 0,
    task_exit_code: 0,
    task_mm: 0,
    signal_live: 0,
    pid_level: 0,
    pid_numbers: 0,
    upid_size: 0,
    upid_nr: 0,
    mm_exe_file: 0,
    file_dentry: 0,
    dentry_name: 0,
    regs: [0; 5],
};

#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    all_execs: 0,
    node_netns: 0,
};

/// A global as user space set it. Volatile, because the compiler sees only the zero it was declared with.
#[macro_export]
macro_rules! global {
    ($($place:tt)*) => {{
        let place = &raw const $($place)*;
        // SAFETY: a static of plain integers, never written once the program is loaded.
        unsafe { core::ptr::read_volatile(place) }
    }};
}

/// Counts a loss. Per-CPU slots, because BPF has no atomic addition that Rust could name.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer comes from the map and is checked; this CPU's slot has one writer at a time.
        unsafe { *slot = (*slot).wrapping_add(1) };
    }
}

/// The thread that runs a hook.
#[derive(Clone, Copy)]
pub struct Caller {
    pub tgid: u32,
    pub tid: u32,
}

impl Caller {
    #[inline(always)]
    pub fn current() -> Self {
        let both = bpf_get_current_pid_tgid();
        Self {
            tgid: (both >> 32) as u32,
            tid: both as u32,
        }
    }

    /// The thread that runs this hook if its process is watched: the one lookup after which all other threads leave.
    #[inline(always)]
    pub fn watched() -> Option<Self> {
        let caller = Self::current();
        let entry = TASKS.get_ptr(caller.tgid)?;
        // SAFETY: the pointer comes from the map and is checked.
        if unsafe { (*entry).flags } & TASK_WATCHED == 0 {
            return None;
        }
        Some(caller)
    }

    /// Its slot and record, if user space has given it one.
    #[inline(always)]
    pub fn record(self) -> Option<(u32, *mut LoopRecord)> {
        let entry = THREADS.get_ptr(self.tid)?;
        // SAFETY: the pointer comes from the map and is checked.
        let slot = unsafe { (*entry).slot };
        if slot == SLOT_PENDING || slot == SLOT_IGNORED {
            return None;
        }
        let record = LOOPS.get_ptr_mut(slot);
        if record.is_none() {
            count(Counter::BadSlot);
        }
        record.map(|record| (slot, record))
    }

    /// Marks a thread that polls for the first time; false if it is known already or the map is full.
    #[inline(always)]
    pub fn mark_pending(self) -> bool {
        let entry = ThreadEntry {
            slot: SLOT_PENDING,
            pad: 0,
        };
        match THREADS.insert(self.tid, entry, BPF_NOEXIST as u64) {
            Ok(()) => true,
            Err(code) => {
                // -EEXIST is the common case: waiting for user space's verdict, or judged to be no loop.
                if code != -17 {
                    count(Counter::ThreadsFull);
                }
                false
            }
        }
    }
}

/// A zeroed event about the caller.
#[inline(always)]
pub fn event(kind: EventKind, slot: u32, caller: Caller) -> Event {
    Event {
        kind: kind as u32,
        slot,
        tgid: caller.tgid,
        tid: caller.tid,
        time: now(),
        since: 0,
        arg: 0,
        id: 0,
        extra: 0,
        flags: 0,
        key: PollKey { class: 0, fd: -1 },
        exe: [0; EXE_BYTES],
    }
}

/// Sends an event, or counts that the ring was full.
#[inline(always)]
pub fn send(event: &Event) {
    if EVENTS.output::<Event>(event, 0).is_err() {
        count(Counter::RingFull);
    }
}

/// `CLOCK_MONOTONIC`, as user space reads it too.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes no pointer.
    unsafe { bpf_ktime_get_ns() }
}
