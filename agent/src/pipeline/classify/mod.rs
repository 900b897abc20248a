//! What a stalled thread is stuck on, from what procfs and its record show at one moment. Says `unknown` rather than guess.
//!
//! Where the accounts of the time since the last look are there, the kind is what took most of that time, so that a thread
//! that computes and is met in a short call is not blamed on that call.

mod calls;
mod facts;
mod shares;

use super::cause::{Cause, CauseKind, StarvedBy, StoppedBy};
use super::evidence::SocketDetail;
use super::interpreter::Word;

pub use facts::{Descriptor, Doing, Scheduled, ThreadFacts};
pub use shares::Shares;

/// Below this, counters that move once in a period of 100 ms say nothing.
const WHOLE_PERIOD_NS: u64 = 90_000_000;
/// A thread that is given a CPU this often is woken again and again: it naps.
const NAP_NS: u64 = 20_000_000;

/// Names the cause.
#[must_use]
pub fn classify(facts: &ThreadFacts) -> Cause {
    let kind = kind(facts);
    let on_cpu = matches!(kind, CauseKind::CpuBusy | CauseKind::CpuStarved);
    let mut cause = Cause {
        kind,
        syscall: match &facts.doing {
            Doing::Call { name, .. } if !on_cpu => Some(name.clone()),
            _ => None,
        },
        ..Cause::default()
    };
    let details = &facts.details;
    match kind {
        CauseKind::ChildWait => cause.child.clone_from(&facts.child),
        CauseKind::NetworkWait => name_socket(&mut cause, details.socket.as_ref()),
        CauseKind::PipeWait | CauseKind::DiskWait | CauseKind::FileLock => {
            cause.file.clone_from(&details.file);
        }
        CauseKind::CpuStarved => cause.starved_by = starved_by(facts),
        CauseKind::Stopped => {
            cause.stopped_by = stopped_by(facts);
            cause.holder_pid = facts.stopper;
        }
        _ => {}
    }
    let held = !matches!(
        kind,
        CauseKind::ChildWait | CauseKind::Sleep | CauseKind::CpuBusy | CauseKind::Unknown
    );
    if let Some(holder) = details.holder.as_ref().filter(|_| held) {
        cause.holder_pid = Some(holder.pid);
        cause.holder_exe = (!holder.exe.is_empty()).then(|| holder.exe.clone());
    }
    if matches!(
        kind,
        CauseKind::DiskWait | CauseKind::MemoryStall | CauseKind::Unknown
    ) {
        cause.kernel_function.clone_from(&facts.kernel_function);
    }
    cause
}

/// Whether a look that shows another kind than before is clear enough to say so: on a busy machine a thread that computes
/// is given a CPU more in one tenth of a second and less in the next, and that is one stall with one cause.
#[must_use]
pub fn is_clear(facts: &ThreadFacts, before: CauseKind, after: CauseKind) -> bool {
    use CauseKind::{CpuBusy, CpuStarved, Unknown};
    let Some(times) = facts.scheduled else {
        return true;
    };
    let part_ns = match (before, after) {
        (Unknown, _) => return true,
        (_, CpuBusy) => times.run_ns,
        (_, CpuStarved) => times.wait_ns.max(quota_ns(facts)),
        (CpuBusy | CpuStarved, _) if !facts.waits => times.blocked_ns(),
        _ => return true,
    };
    before == after || part_ns.saturating_mul(3) > times.window_ns.saturating_mul(2)
}

fn name_socket(cause: &mut Cause, socket: Option<&SocketDetail>) {
    if let Some(socket) = socket {
        cause.peer.clone_from(&socket.peer);
        cause.protocol = Some(socket.protocol.clone());
        cause.socket_state.clone_from(&socket.state);
        cause.dns = calls::is_name_service(socket);
    }
}

fn kind(facts: &ThreadFacts) -> CauseKind {
    if stopped_by(facts).is_some() {
        return CauseKind::Stopped;
    }
    let function = facts.kernel_function.as_deref().unwrap_or_default();
    if calls::is_memory(function) {
        return CauseKind::MemoryStall;
    }
    if facts.waits {
        return CauseKind::ChildWait;
    }
    if let Some(kind) = on_cpu(facts) {
        return kind;
    }
    match &facts.doing {
        // Uninterruptible outside of any system call: in a page fault.
        Doing::Elsewhere if facts.state == 'D' => CauseKind::MemoryStall,
        Doing::Elsewhere | Doing::Running if faults(facts) => CauseKind::MemoryStall,
        Doing::Call { name, args, .. } if name == "futex" => futex(facts, *args),
        Doing::Call {
            name,
            descriptor,
            args,
            ..
        } if !facts.in_own_poll => calls::kind(name, *descriptor, args, facts.state, function),
        _ => CauseKind::Unknown,
    }
}

fn stopped_by(facts: &ThreadFacts) -> Option<StoppedBy> {
    match facts.state {
        'T' => Some(StoppedBy::Signal),
        't' => Some(StoppedBy::Tracer),
        _ if facts.frozen => Some(StoppedBy::Freezer),
        _ => None,
    }
}

/// Running and waiting for a CPU look the same from outside; the scheduler's accounts tell them apart.
fn on_cpu(facts: &ThreadFacts) -> Option<CauseKind> {
    let times = facts.scheduled?;
    if times.is_most(times.run_ns) {
        Some(CauseKind::CpuBusy)
    } else if times.is_most(times.wait_ns) || times.is_most(quota_ns(facts)) {
        Some(CauseKind::CpuStarved)
    } else {
        None
    }
}

/// Throttled time of a thread that is runnable: whether it counts as waiting differs between kernels.
fn quota_ns(facts: &ThreadFacts) -> u64 {
    match (&facts.doing, facts.scheduled) {
        (Doing::Running, Some(times)) => times.throttled_ns.unwrap_or(0).min(times.blocked_ns()),
        _ => 0,
    }
}

fn starved_by(facts: &ThreadFacts) -> Option<StarvedBy> {
    let times = facts.scheduled?;
    let throttled_ns = times.throttled_ns.unwrap_or(0);
    // How long is known when a throttling ends, that it is throttled when it begins.
    let goes_on = times.throttlings.unwrap_or(0) > 0 && throttled_ns == 0;
    if goes_on || (throttled_ns > 0 && throttled_ns.saturating_mul(2) >= times.wait_ns) {
        return Some(StarvedBy::CgroupQuota);
    }
    // A throttling that began before this time may show only after it.
    if times.window_ns < WHOLE_PERIOD_NS {
        return None;
    }
    let busy = times.idle_ns?.saturating_mul(10) < times.window_ns;
    match (busy, times.throttled_ns) {
        (true, _) => Some(StarvedBy::BusyMachine),
        (false, Some(_)) => Some(StarvedBy::Competition),
        // Its quota cannot be seen from here.
        (false, None) => None,
    }
}

/// Whether most of the time went into faults that had to wait: it was neither on a CPU nor waiting for one.
fn faults(facts: &ThreadFacts) -> bool {
    facts
        .scheduled
        .is_some_and(|times| times.major_faults > 1 && times.is_most(times.blocked_ns()))
}

/// A lock of the program, or the interpreter's own. The last is taken in naps of some milliseconds, while its holder runs.
fn futex(facts: &ThreadFacts, args: [u64; 6]) -> CauseKind {
    let timed = args[3] != 0;
    let naps = facts.scheduled.map(|times| {
        let often = times.slices.saturating_mul(NAP_NS) > times.window_ns;
        timed && times.slices > 1 && often
    });
    let another_runs = facts.scheduled.is_some_and(|times| {
        let ran = times.others_ran_ns.unwrap_or(0);
        ran.saturating_mul(10) > times.window_ns.saturating_mul(7)
    });
    match facts.word {
        Word::InterpreterLock => CauseKind::GilWait,
        // An interpreter within the interpreter has a lock of its own on the heap.
        Word::OfProgram if naps == Some(true) && another_runs => CauseKind::Unknown,
        Word::OfProgram | Word::Plain => CauseKind::LockWait,
        Word::Unknown | Word::Interpreted if !timed => CauseKind::LockWait,
        Word::Unknown | Word::Interpreted => match naps {
            Some(false) => CauseKind::LockWait,
            Some(true) if another_runs && facts.word == Word::Interpreted => CauseKind::GilWait,
            _ => CauseKind::Unknown,
        },
    }
}

#[cfg(test)]
mod tests;
