//! Signals sent to known processes, and by whom: the hook runs in the sender's context.

use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::debug;
use loopwarden_abi::{EventKind, SLOT_PENDING};

use crate::kernel::Task;
use crate::maps::{Caller, TASKS, event, send};

/// Signals that end, stop or continue a process; the others (a SIGCHLD for every child) say nothing here.
const TELLING: u64 = bit(1) | bit(2) | bit(3) | bit(9) | bit(15) | bit(18) | bit(19) | bit(20);

const fn bit(signal: u32) -> u64 {
    1 << signal
}

#[inline(always)]
pub fn generated(ctx: &RawTracePointContext) {
    let signal: i32 = ctx.arg(0);
    if !(1..64).contains(&signal) || TELLING >> signal & 1 == 0 {
        return;
    }
    let task = Task(ctx.arg(2));
    let Some(tgid) = task.tgid() else {
        return;
    };
    let Some(entry) = TASKS.get_ptr(tgid) else {
        return;
    };
    let sender = Caller::current();
    let mut sent = event(
        EventKind::Signalled,
        SLOT_PENDING,
        Caller {
            tgid,
            tid: task.pid().unwrap_or(tgid),
        },
    );
    // SAFETY: the pointer comes from the map and is checked.
    sent.since = unsafe { (*entry).start_ns };
    sent.arg = sender.tgid;
    sent.id = signal;
    debug!(ctx, "signal {} from {} to {}", signal, sender.tgid, tgid);
    send(&sent);
}
