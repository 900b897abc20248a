//! Entry and exit of wait4 and waitid by loop threads, grouped into episodes.

use loopwarden_abi::{
    EventKind, LoopRecord, WAIT_ANY, WAIT_END_FAILED, WAIT_END_OTHER, WAIT_END_REAPED, WAIT_GROUP,
    WAIT_PID,
};

use crate::kernel::user;
use crate::maps::{Caller, event, now, send};
use crate::poll;

const WNOHANG: u32 = 1;
const ECHILD: i64 = 10;
/// `si_pid` in `siginfo_t` on 64-bit machines.
const SI_PID: u64 = 16;

/// What a call waits for.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub which: u32,
    pub id: i32,
    pub options: u32,
    /// Where waitid writes what it found, 0 for wait4.
    pub info: u64,
    /// 1 for waitid.
    pub waitid: u32,
}

impl Wanted {
    #[inline(always)]
    pub fn wait4(args: [u64; 5]) -> Self {
        let pid = args[0] as i32;
        let (which, id) = if pid > 0 {
            (WAIT_PID, pid)
        } else if pid == -1 {
            (WAIT_ANY, 0)
        } else {
            (WAIT_GROUP, pid.wrapping_neg())
        };
        Self {
            which,
            id,
            options: args[2] as u32,
            info: 0,
            waitid: 0,
        }
    }

    #[inline(always)]
    pub fn waitid(args: [u64; 5]) -> Self {
        Self {
            which: args[0] as u32,
            id: args[1] as i32,
            options: args[3] as u32,
            info: args[2],
            waitid: 1,
        }
    }
}

#[inline(always)]
pub fn enter(caller: Caller, wanted: Wanted) {
    let Some((slot, record)) = caller.record() else {
        return;
    };
    // SAFETY: the record belongs to this thread, so nothing else in the kernel writes it meanwhile.
    let record = unsafe { &mut *record };
    let now = now();
    record.seq = record.seq.wrapping_add(1);
    poll::must_have_left(record, now);
    let same =
        record.wait_start != 0 && record.wait_which == wanted.which && record.wait_id == wanted.id;
    if !same {
        if record.wait_start != 0 {
            end_episode(caller, slot, record, WAIT_END_OTHER, 0);
        }
        record.wait_start = now;
        record.wait_gap = 0;
        record.wait_calls = 0;
        record.wait_announced = 0;
        record.wait_which = wanted.which;
        record.wait_id = wanted.id;
    } else {
        let gap = now.wrapping_sub(record.wait_last);
        if gap > record.wait_gap {
            record.wait_gap = gap;
        }
    }
    record.wait_last = now;
    record.wait_calls = record.wait_calls.wrapping_add(1);
    record.wait_options = wanted.options;
    record.wait_info = wanted.info;
    record.wait_waitid = wanted.waitid;
    record.wait_call = now;
    // One look with WNOHANG is no wait; the second one in the same iteration is.
    if record.wait_announced == 0 && (wanted.options & WNOHANG == 0 || record.wait_calls > 1) {
        record.wait_announced = 1;
        let mut began = event(EventKind::WaitBegan, slot, caller);
        began.since = record.wait_start;
        began.arg = wanted.which;
        began.id = wanted.id;
        began.extra = wanted.options;
        began.flags = wanted.waitid;
        send(&began);
    }
    record.seq = record.seq.wrapping_add(1);
}

#[inline(always)]
pub fn exit(result: i64) {
    let Some(caller) = Caller::watched() else {
        return;
    };
    let Some((slot, record)) = caller.record() else {
        return;
    };
    // SAFETY: the record belongs to this thread, so nothing else in the kernel writes it meanwhile.
    let record = unsafe { &mut *record };
    record.seq = record.seq.wrapping_add(1);
    if record.wait_call != 0 {
        record.wait_call = 0;
        if reaped(record, result) {
            end_episode(caller, slot, record, WAIT_END_REAPED, result as i32);
        } else if result == -ECHILD {
            end_episode(caller, slot, record, WAIT_END_FAILED, result as i32);
        }
        // Anything else (nothing yet, interrupted) leaves the episode open: the same call comes again.
    }
    record.seq = record.seq.wrapping_add(1);
}

/// wait4 returns the child; waitid returns 0 and writes it, unless it was told not to block and found none.
#[inline(always)]
fn reaped(record: &LoopRecord, result: i64) -> bool {
    if result > 0 {
        return true;
    }
    if result != 0 || record.wait_waitid == 0 {
        return false;
    }
    if record.wait_options & WNOHANG == 0 {
        return true;
    }
    // Where it wants no details (no place for them), nobody can tell.
    record.wait_info != 0 && user::<i32>(record.wait_info.wrapping_add(SI_PID)).unwrap_or(0) != 0
}

#[inline(always)]
pub fn end_episode(caller: Caller, slot: u32, record: &mut LoopRecord, how: u32, result: i32) {
    if record.wait_announced != 0 {
        let mut ended = event(EventKind::WaitEnded, slot, caller);
        ended.since = record.wait_start;
        ended.arg = how;
        ended.id = result;
        send(&ended);
    }
    record.wait_start = 0;
    record.wait_call = 0;
    record.wait_calls = 0;
    record.wait_announced = 0;
}
