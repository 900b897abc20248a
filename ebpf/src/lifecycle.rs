//! Fork, exec and exit of watched processes and their descendants, and the list of all processes.

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::bpf_seq_write;
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::debug;
use loopwarden_abi::{
    Counter, EventKind, SLOT_IGNORED, SLOT_PENDING, TASK_DESCENDANT, TASK_WATCHED, TaskEntry,
    TaskListing,
};

use crate::global;
use crate::kernel::Task;
use crate::maps::{Caller, SETTINGS, TASKS, THREADS, count, event, now, send};

/// `sched_process_fork(parent, child)`: a child of a known process is known from its first instant.
#[inline(always)]
pub fn forked(ctx: &RawTracePointContext) {
    let maker = Caller::current();
    let Some(entry) = TASKS.get_ptr(maker.tgid) else {
        return;
    };
    // SAFETY: the pointer comes from the map and is checked.
    let flags = unsafe { (*entry).flags };
    let (parent, child) = (Task(ctx.arg(0)), Task(ctx.arg(1)));
    // Plain values with a default instead of options: the compiler keeps an unset stack slot for the empty case of those,
    // which the verifier of Linux 5.10 takes for a use of it.
    let pid = child.pid().unwrap_or(0);
    let tgid = child.tgid().unwrap_or(0);
    let start_ns = child.start_ns().unwrap_or(0);
    if pid == 0 || pid != tgid || start_ns == 0 {
        return;
    }
    // Not always the caller: CLONE_PARENT makes a sibling.
    let parent_tgid = child.parent_tgid().unwrap_or(maker.tgid);
    let known = TaskEntry {
        start_ns,
        parent: parent_tgid,
        flags: flags & TASK_WATCHED | TASK_DESCENDANT,
    };
    if TASKS.insert(tgid, known, 0).is_err() {
        count(Counter::TasksFull);
    }
    let mut made = event(EventKind::Forked, SLOT_PENDING, Caller { tgid, tid: pid });
    made.since = start_ns;
    made.arg = parent_tgid;
    // What wait4 of the parent will call it.
    let level = parent.level().unwrap_or(u32::MAX);
    if level != u32::MAX {
        made.id = child.number_at(level).unwrap_or(0);
    }
    made.extra = known.flags;
    debug!(ctx, "process {} made by {}", tgid, parent_tgid);
    send(&made);
}

/// `sched_process_exec(task, old_pid, bprm)`, in the context of the process that runs the new program.
#[inline(always)]
pub fn execed(ctx: &RawTracePointContext) {
    let caller = Caller::current();
    let known = TASKS.get_ptr(caller.tgid).is_some();
    if !known && global!(SETTINGS.all_execs) == 0 {
        return;
    }
    if known {
        // The thread that called exec takes over the leader's id; what was recorded under either is over.
        let old: i32 = ctx.arg(1);
        let _ = THREADS.remove(old as u32);
        let _ = THREADS.remove(caller.tgid);
    }
    let task = Task(ctx.arg(0));
    let mut ran = event(EventKind::Execed, SLOT_PENDING, caller);
    ran.since = task.start_ns().unwrap_or(0);
    ran.arg = task.parent_tgid().unwrap_or(0);
    if task.exe_name(&mut ran.exe).is_none() {
        ran.exe[0] = 0;
    }
    send(&ran);
}

/// `sched_process_exit(task)`, once for every thread.
#[inline(always)]
pub fn exited(ctx: &RawTracePointContext) {
    let caller = Caller::current();
    if TASKS.get_ptr(caller.tgid).is_none() {
        return;
    }
    if let Some(entry) = THREADS.get_ptr(caller.tid) {
        // SAFETY: the pointer comes from the map and is checked.
        let slot = unsafe { (*entry).slot };
        let _ = THREADS.remove(caller.tid);
        if slot != SLOT_PENDING && slot != SLOT_IGNORED {
            send(&event(EventKind::ThreadEnded, slot, caller));
        }
    }
    let task = Task(ctx.arg(0));
    // The last thread of a process, leader or not: only then is the process ending.
    if task.live_threads() != Some(0) {
        return;
    }
    let mut ended = event(EventKind::Exited, SLOT_PENDING, caller);
    ended.since = task.start_ns().unwrap_or(0);
    ended.id = task.exit_code().unwrap_or(0);
    ended.time = now();
    // Removed before its id can be given out again: whoever still finds the entry knows that the process had not ended.
    let _ = TASKS.remove(caller.tgid);
    debug!(ctx, "process {} ended", caller.tgid);
    send(&ended);
}

/// The start of `struct bpf_iter__task`.
#[repr(C)]
pub struct TaskIterator {
    meta: *const IteratorMeta,
    task: *const u8,
}

impl TaskIterator {
    /// Where to write, and the task.
    ///
    /// # Safety
    /// Only on the context of a task iterator.
    #[inline(always)]
    pub unsafe fn parts(&self) -> (*mut seq_file, Task) {
        // SAFETY: the verifier knows the layout of the context and follows these two typed pointers itself.
        unsafe { ((*self.meta).seq, Task(self.task)) }
    }
}

/// The start of `struct bpf_iter_meta`.
#[repr(C)]
struct IteratorMeta {
    seq: *mut seq_file,
}

/// Lists every process with its exact start time: procfs knows it in hundredths of a second only.
#[inline(always)]
pub fn list(iterator: *const TaskIterator) {
    // SAFETY: the verifier knows the layout of the context and follows these two typed pointers itself.
    let (seq, task) = unsafe { ((*(*iterator).meta).seq, Task((*iterator).task)) };
    if task.0.is_null() {
        return;
    }
    // Plain values with a default instead of options: the compiler keeps an unset register for the empty case of those,
    // which the verifier takes for a use of it.
    let tgid = task.tgid().unwrap_or(0);
    if tgid == 0 || task.pid().unwrap_or(0) != tgid {
        return;
    }
    let listing = TaskListing {
        tgid,
        parent: task.parent_tgid().unwrap_or(0),
        start_ns: task.start_ns().unwrap_or(0),
    };
    // SAFETY: the pointer is to a value of that size; a full page makes the kernel call again.
    unsafe {
        bpf_seq_write(
            seq,
            (&raw const listing).cast(),
            size_of::<TaskListing>() as u32,
        )
    };
}
