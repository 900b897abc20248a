//! The user registers that the kernel saved when a thread last entered it: where a stalled thread's stack begins.
//!
//! Read only when user space asks, through a task iterator; nothing here is attached to anything that threads run through.
//! The kernel does not let one read another task's user stack here, so only registers go up; user space reads the rest.

use aya_ebpf::helpers::{bpf_seq_write, bpf_task_pt_regs, generated};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use loopwarden_abi::{REGISTER_BYTES, RegisterFacts, ThreadRegisters};

use crate::global;
use crate::kernel::{Task, field};
use crate::lifecycle::TaskIterator;

#[map]
static WANTED_THREAD: Array<u32> = Array::with_max_entries(1, 0);

/// Set by user space before the load.
#[unsafe(no_mangle)]
static REGISTER_FACTS: RegisterFacts = RegisterFacts {
    task_stack: 0,
    task_on_cpu: 0,
    task_nvcsw: 0,
    task_nivcsw: 0,
    task_state: 0,
    bytes: 0,
    above_stack: 0,
    pad: 0,
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn read_registers(iterator: *const TaskIterator) -> i32 {
    // SAFETY: `task` is the typed pointer of the iterator and is not null here, which is all the helper asks.
    read(iterator, |task| unsafe {
        bpf_task_pt_regs(task.0.cast_mut().cast()) as *const u8
    })
}

/// For kernels without that helper: at the upper end of the kernel stack.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn read_registers_by_stack(iterator: *const TaskIterator) -> i32 {
    read(iterator, |task| {
        let stack: *const u8 =
            field(task.0, global!(REGISTER_FACTS.task_stack)).unwrap_or(core::ptr::null());
        stack.wrapping_add(global!(REGISTER_FACTS.above_stack) as usize)
    })
}

#[inline(always)]
fn read(iterator: *const TaskIterator, place: impl Fn(Task) -> *const u8) -> i32 {
    // SAFETY: the verifier knows the layout of the context and follows these two typed pointers itself.
    let (seq, task) = unsafe { (*iterator).parts() };
    if task.0.is_null() {
        return 0;
    }
    let tid = task.pid().unwrap_or(0);
    let wanted = WANTED_THREAD.get(0).copied().unwrap_or(0);
    if tid == 0 || tid != wanted {
        return 0;
    }
    let mut found = ThreadRegisters {
        tid,
        tgid: task.tgid().unwrap_or(0),
        start_ns: task.start_ns().unwrap_or(0),
        switches: switches(task),
        switches_after: 0,
        on_cpu: on_cpu(task),
        read: 0,
        state: 0,
        pad: 0,
        registers: [0; REGISTER_BYTES],
    };
    let from = place(task);
    let bytes = global!(REGISTER_FACTS.bytes);
    if !from.is_null() && bytes as usize <= REGISTER_BYTES {
        // SAFETY: the helper checks the address itself and writes at most as many bytes as there are.
        let result = unsafe {
            generated::bpf_probe_read_kernel(
                found.registers.as_mut_ptr().cast(),
                bytes,
                from.cast(),
            )
        };
        found.read = u32::from(result == 0 && bytes != 0);
    }
    found.on_cpu |= on_cpu(task);
    found.state = field(task.0, global!(REGISTER_FACTS.task_state)).unwrap_or(0);
    found.switches_after = switches(task);
    // SAFETY: the pointer is to a value of that size; a full page makes the kernel call again.
    unsafe {
        bpf_seq_write(
            seq,
            (&raw const found).cast(),
            size_of::<ThreadRegisters>() as u32,
        )
    };
    0
}

/// Not known counts as running: registers are then not trusted.
#[inline(always)]
fn on_cpu(task: Task) -> u32 {
    let running: i32 = field(task.0, global!(REGISTER_FACTS.task_on_cpu)).unwrap_or(1);
    u32::from(running != 0)
}

#[inline(always)]
fn switches(task: Task) -> u64 {
    let by_itself: u64 = field(task.0, global!(REGISTER_FACTS.task_nvcsw)).unwrap_or(0);
    let forced: u64 = field(task.0, global!(REGISTER_FACTS.task_nivcsw)).unwrap_or(0);
    by_itself.wrapping_add(forced)
}
