//! Real-time priority and locked memory for the rescue thread: a busy node must not delay it.

use std::io;

/// Low among real-time priorities: above every ordinary process, below what the operator runs as real-time on purpose.
const PRIORITY: i32 = 10;

/// Gives the calling thread real-time priority. The thread sleeps unless it has something to do, so it cannot starve
/// others, and children of it do not inherit the priority.
pub fn prefer_this_thread() -> Result<(), String> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: the pointer is to a valid structure; 0 is the calling thread.
    let result = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(format!(
        "sched_setscheduler(SCHED_FIFO, {PRIORITY}) failed: {error}; CAP_SYS_NICE allows it"
    ))
}

/// Keeps the agent's memory from being swapped out: reading it back may take as long as the stall it watches.
pub fn lock_memory() -> Result<(), String> {
    // On fault, not at once: the agent's address space is larger than what it uses.
    const MCL_ONFAULT: libc::c_int = 4;
    // SAFETY: takes flags only.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | MCL_ONFAULT) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(format!(
        "mlockall failed: {error}; CAP_IPC_LOCK or a higher RLIMIT_MEMLOCK allows it"
    ))
}
