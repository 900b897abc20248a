//! The shells: one program for each system call and each way to attach, around the same bodies.
//!
//! `enter_X`/`exit_X` are tracepoints of one system call, `fentry_X`/`fexit_X` sit on its entry function in the kernel.
//! Which set is loaded is user space's plan.

use aya_ebpf::{
    macros::{fentry, fexit, raw_tracepoint, tracepoint},
    programs::{FEntryContext, FExitContext, RawTracePointContext, TracePointContext},
};

use crate::connection;
use crate::engine;
use crate::global;
use crate::kernel::field;
use crate::lifecycle::{self, TaskIterator};
use crate::maps::{Caller, OFFSETS};
use crate::poll::{self, Call};
use crate::signal;
use crate::wait::{self, Wanted};

/// Arguments of a `sys_enter_X` tracepoint: they follow the common fields and the call's number.
#[inline(always)]
fn tracepoint_args(ctx: &TracePointContext) -> Option<(u32, [u64; 5])> {
    // SAFETY: reads within the record that the tracepoint hands over; the helper behind it checks.
    unsafe {
        let nr: i32 = ctx.read_at(8).ok()?;
        let args: [u64; 5] = ctx.read_at(16).ok()?;
        Some((nr as u32, args))
    }
}

/// Arguments of a system-call function of the kernel: it gets the user's registers.
#[inline(always)]
fn register_args(registers: *const u8) -> Option<[u64; 5]> {
    let mut args = [0u64; 5];
    let mut place = 0;
    while place < 5 {
        args[place] = field(registers, global!(OFFSETS.regs[place]))?;
        place += 1;
    }
    Some(args)
}

macro_rules! poll_hooks {
    ($($nr:literal $call:expr => $enter:ident $exit:ident $fentry:ident $fexit:ident;)*) => {$(
        #[tracepoint]
        pub fn $enter(ctx: TracePointContext) -> u32 {
            if let Some(caller) = Caller::watched()
                && let Some((nr, args)) = tracepoint_args(&ctx)
            {
                poll::enter(caller, $call, nr, args);
            }
            0
        }
        #[tracepoint]
        pub fn $exit(_ctx: TracePointContext) -> u32 {
            poll::exit();
            0
        }
        #[fentry]
        pub fn $fentry(ctx: FEntryContext) -> u32 {
            if let Some(caller) = Caller::watched()
                && let Some(args) = register_args(ctx.arg(0))
            {
                poll::enter(caller, $call, $nr, args);
            }
            0
        }
        #[fexit]
        pub fn $fexit(_ctx: FExitContext) -> u32 {
            poll::exit();
            0
        }
    )*};
}

// The numbers are only names for what user space shows (x86-64's; on arm64 user space maps them by name).
poll_hooks! {
    232 Call::Epoll => enter_epoll_wait exit_epoll_wait fentry_epoll_wait fexit_epoll_wait;
    281 Call::Epoll => enter_epoll_pwait exit_epoll_pwait fentry_epoll_pwait fexit_epoll_pwait;
    441 Call::EpollTimespec => enter_epoll_pwait2 exit_epoll_pwait2 fentry_epoll_pwait2 fexit_epoll_pwait2;
    7 Call::Poll => enter_poll exit_poll fentry_poll fexit_poll;
    271 Call::PollTimespec => enter_ppoll exit_ppoll fentry_ppoll fexit_ppoll;
    23 Call::Select => enter_select exit_select fentry_select fexit_select;
    270 Call::SelectTimespec => enter_pselect6 exit_pselect6 fentry_pselect6 fexit_pselect6;
}

macro_rules! wait_hooks {
    ($($wanted:path => $enter:ident $exit:ident $fentry:ident $fexit:ident;)*) => {$(
        #[tracepoint]
        pub fn $enter(ctx: TracePointContext) -> u32 {
            if let Some(caller) = Caller::watched()
                && let Some((_, args)) = tracepoint_args(&ctx)
            {
                wait::enter(caller, $wanted(args));
            }
            0
        }
        #[tracepoint]
        pub fn $exit(ctx: TracePointContext) -> u32 {
            // SAFETY: the return value follows the common fields and the number; the helper behind it checks.
            if let Ok(result) = unsafe { ctx.read_at::<i64>(16) } {
                wait::exit(result);
            }
            0
        }
        #[fentry]
        pub fn $fentry(ctx: FEntryContext) -> u32 {
            if let Some(caller) = Caller::watched()
                && let Some(args) = register_args(ctx.arg(0))
            {
                wait::enter(caller, $wanted(args));
            }
            0
        }
        #[fexit]
        pub fn $fexit(ctx: FExitContext) -> u32 {
            // The function has one argument, so its return value is the second.
            wait::exit(ctx.arg::<i64>(1));
            0
        }
    )*};
}

wait_hooks! {
    Wanted::wait4 => enter_wait4 exit_wait4 fentry_wait4 fexit_wait4;
    Wanted::waitid => enter_waitid exit_waitid fentry_waitid fexit_waitid;
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    lifecycle::forked(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    lifecycle::execed(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    lifecycle::exited(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_generate(ctx: RawTracePointContext) -> i32 {
    signal::generated(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn connection_changed(ctx: RawTracePointContext) -> i32 {
    connection::changed(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "tcp_rcv_space_adjust")]
pub fn bytes_taken(ctx: RawTracePointContext) -> i32 {
    engine::reads(ctx.arg(0));
    0
}

/// Task iterator: aya-ebpf has no attribute for it, so the section is named by hand.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn list_tasks(ctx: *const TaskIterator) -> i32 {
    lifecycle::list(ctx);
    0
}
