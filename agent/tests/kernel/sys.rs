//! System calls that the victims make exactly as named here: a library would choose another one (`epoll_pwait` for
//! `epoll_wait`), and which one is called is what the tests are about.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Which poll call a loop uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PollCall {
    EpollWait,
    EpollPwait,
    EpollPwait2,
    Poll,
    Ppoll,
    Select,
    Pselect6,
}

impl PollCall {
    pub(crate) const ALL: [Self; 7] = [
        Self::EpollWait,
        Self::EpollPwait,
        Self::EpollPwait2,
        Self::Poll,
        Self::Ppoll,
        Self::Select,
        Self::Pselect6,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::EpollWait => "epoll_wait",
            Self::EpollPwait => "epoll_pwait",
            Self::EpollPwait2 => "epoll_pwait2",
            Self::Poll => "poll",
            Self::Ppoll => "ppoll",
            Self::Select => "select",
            Self::Pselect6 => "pselect6",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.name() == name)
    }
}

fn checked(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Waits until `fd` can be read or the time is over; true if it can. `epoll` is used by the epoll calls only. A negative
/// time has no end.
pub(crate) fn wait_readable(
    call: PollCall,
    epoll: Option<&OwnedFd>,
    fd: BorrowedFd<'_>,
    milliseconds: i32,
) -> io::Result<bool> {
    let epoll = epoll.map_or(-1, OwnedFd::as_raw_fd);
    let raw = fd.as_raw_fd();
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let mut pollfd = libc::pollfd {
        fd: raw,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: an all-zero fd_set is the empty set.
    let mut set: libc::fd_set = unsafe { std::mem::zeroed() };
    // SAFETY: the victims have few descriptors, all below FD_SETSIZE.
    unsafe { libc::FD_SET(raw, &raw mut set) };
    let forever = milliseconds < 0;
    let mut span = libc::timespec {
        tv_sec: i64::from(milliseconds.max(0) / 1000),
        tv_nsec: i64::from(milliseconds.max(0) % 1000) * 1_000_000,
    };
    let mut short = libc::timeval {
        tv_sec: span.tv_sec,
        tv_usec: span.tv_nsec / 1000,
    };
    let none = std::ptr::null_mut::<libc::c_void>();
    let spec = if forever {
        none
    } else {
        (&raw mut span).cast()
    };
    let val = if forever {
        none
    } else {
        (&raw mut short).cast()
    };
    // SAFETY: every pointer is to a local that lives until the call returns, with the size the call expects; null is
    // allowed where null is passed.
    let result = unsafe {
        match call {
            PollCall::EpollWait => {
                libc::syscall(libc::SYS_epoll_wait, epoll, &raw mut event, 1, milliseconds)
            }
            PollCall::EpollPwait => libc::syscall(
                libc::SYS_epoll_pwait,
                epoll,
                &raw mut event,
                1,
                milliseconds,
                none,
                8,
            ),
            PollCall::EpollPwait2 => libc::syscall(
                libc::SYS_epoll_pwait2,
                epoll,
                &raw mut event,
                1,
                spec,
                none,
                8,
            ),
            PollCall::Poll => libc::syscall(libc::SYS_poll, &raw mut pollfd, 1, milliseconds),
            PollCall::Ppoll => libc::syscall(libc::SYS_ppoll, &raw mut pollfd, 1, spec, none, 8),
            PollCall::Select => {
                libc::syscall(libc::SYS_select, raw + 1, &raw mut set, none, none, val)
            }
            PollCall::Pselect6 => libc::syscall(
                libc::SYS_pselect6,
                raw + 1,
                &raw mut set,
                none,
                none,
                spec,
                none,
            ),
        }
    };
    match checked(result) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sleeps as Python did before 3.11.
pub(crate) fn sleep_in_select(span: std::time::Duration) -> io::Result<()> {
    let mut time = libc::timeval {
        tv_sec: libc::time_t::try_from(span.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: span.subsec_micros().into(),
    };
    let none = std::ptr::null_mut();
    // SAFETY: there are no sets, and the time is a local.
    checked(unsafe { libc::select(0, none, none, none, &raw mut time) }.into()).map(|_| ())
}

/// What a wait brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    Exited(i32),
    Killed(i32),
    /// Nothing yet (with WNOHANG), or nothing that ended.
    Nothing,
}

/// `wait4`, called again when a signal interrupts it.
pub(crate) fn wait4(pid: i32, options: i32) -> io::Result<Waited> {
    let mut status = 0;
    let none = std::ptr::null_mut::<libc::c_void>();
    loop {
        // SAFETY: `status` is a local; no usage is asked for.
        let result = unsafe { libc::syscall(libc::SYS_wait4, pid, &raw mut status, options, none) };
        match checked(result) {
            Ok(0) => return Ok(Waited::Nothing),
            Ok(_) if libc::WIFSIGNALED(status) => {
                return Ok(Waited::Killed(libc::WTERMSIG(status)));
            }
            Ok(_) => return Ok(Waited::Exited(libc::WEXITSTATUS(status))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits in `wait4` until [`WAKE`] comes; an error if the child ends first.
pub(crate) fn wait4_until_woken(pid: i32) -> io::Result<()> {
    be_wakeable()?;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: neither a status nor the usage is asked for.
    let result = unsafe { libc::syscall(libc::SYS_wait4, pid, none, 0, none) };
    match checked(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            // The next one is for the nap that follows.
            WOKEN.store(false, Ordering::SeqCst);
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the child has ended")),
    }
}

/// Reaps any child, and does not ask which.
pub(crate) fn reap_any_unasked() -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: no details are asked for.
    let result =
        unsafe { libc::syscall(libc::SYS_waitid, libc::P_ALL, 0, none, libc::WEXITED, none) };
    checked(result).map(|_| ())
}

/// `waitid`, likewise.
pub(crate) fn waitid(kind: libc::idtype_t, id: i32, options: i32) -> io::Result<Waited> {
    // SAFETY: an all-zero siginfo_t is valid; its fields are read only after the call filled them.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let none = std::ptr::null_mut::<libc::c_void>();
    loop {
        // SAFETY: `info` is a local of the expected size.
        let result =
            unsafe { libc::syscall(libc::SYS_waitid, kind, id, &raw mut info, options, none) };
        match checked(result) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: waitid filled the child's fields, or left them zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match info.si_code {
        _ if pid == 0 => Waited::Nothing,
        libc::CLD_EXITED => Waited::Exited(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => Waited::Killed(status),
        _ => Waited::Nothing,
    })
}

/// Sends a signal to a process that this program or its test started.
pub(crate) fn signal(pid: i32, number: i32) -> io::Result<()> {
    assert!(pid > 1, "signals go to single processes of the test: {pid}");
    #[expect(
        clippy::disallowed_methods,
        reason = "the tests stop, free and end the processes they started"
    )]
    // SAFETY: the call takes two numbers.
    let result = unsafe { libc::kill(pid, number) };
    checked(result.into()).map(|_| ())
}

/// Ignores a signal, here and after exec.
pub(crate) fn ignore(number: i32) -> io::Result<()> {
    // SAFETY: SIG_IGN is no function that could run.
    let before = unsafe { libc::signal(number, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Is ended by a signal, here and after exec.
pub(crate) fn hear(number: i32) -> io::Result<()> {
    // SAFETY: SIG_DFL is no function that could run.
    let before = unsafe { libc::signal(number, libc::SIG_DFL) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What ends a [`nap`].
pub(crate) const WAKE: i32 = libc::SIGUSR1;

/// [`WAKE`] has come.
static WOKEN: AtomicBool = AtomicBool::new(false);

/// From now on [`WAKE`] interrupts calls, and does nothing else.
pub(crate) fn be_wakeable() -> io::Result<()> {
    extern "C" fn awake(_: i32) {
        WOKEN.store(true, Ordering::SeqCst);
    }
    let handler: extern "C" fn(i32) = awake;
    // SAFETY: all-zero is a valid sigaction: no flags (so that calls are not begun again), an empty mask. The handler only sets a flag.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(WAKE, &raw const action, std::ptr::null_mut())
    };
    checked(set.into()).map(|_| ())
}

/// Sleeps until [`WAKE`] comes; not at all if it has come since the last sleep.
pub(crate) fn nap() -> io::Result<()> {
    be_wakeable()?;
    let hour = libc::timespec {
        tv_sec: 3600,
        tv_nsec: 0,
    };
    while !WOKEN.swap(false, Ordering::SeqCst) {
        // SAFETY: the time is a local, and how much was left is not asked for.
        let slept = unsafe { libc::nanosleep(&raw const hour, std::ptr::null_mut()) };
        match checked(slept.into()) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Leaves namespaces for new ones.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: the call takes a number; the victims that call it share nothing across threads that it would pull apart.
    checked(unsafe { libc::unshare(flags) }.into()).map(|_| ())
}

/// Joins a namespace.
pub(crate) fn setns(namespace: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: the call takes a descriptor and a number.
    checked(unsafe { libc::setns(namespace.as_raw_fd(), flags) }.into()).map(|_| ())
}

/// Forks; 0 in the child.
pub(crate) fn fork() -> io::Result<i32> {
    // SAFETY: the victims that fork have one thread, so the child may go on as it likes.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pid)
}

/// Ends the calling thread alone, without a word to the threads library.
pub(crate) fn end_thread() {
    // SAFETY: nothing of this thread is used by others.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Traces a process without stopping it.
pub(crate) fn ptrace_seize(pid: i32) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no address and no data.
    checked(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) }).map(|_| ())
}

/// Sleeps until a signal ends this process.
pub(crate) fn pause_for_ever() -> ! {
    loop {
        // SAFETY: the call takes nothing.
        unsafe { libc::pause() };
    }
}

/// Makes signals wait until [`take_signal`].
pub(crate) fn block(signals: &[i32]) -> io::Result<libc::sigset_t> {
    // SAFETY: an all-zero set is valid memory for sigemptyset, which makes it the empty set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a local; the old mask is not asked for.
    unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
    }
    Ok(set)
}

/// Waits for one of the blocked signals.
pub(crate) fn take_signal(set: &libc::sigset_t) -> io::Result<i32> {
    let mut number = 0;
    // SAFETY: both pointers are to live values.
    let failed = unsafe { libc::sigwait(set, &raw mut number) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    Ok(number)
}

/// `CLOCK_MONOTONIC` in nanoseconds, as the lines have it.
pub(crate) fn mono_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let second = u64::try_from(now.tv_sec).unwrap_or(0);
    second * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Whether the kernel is too old for `epoll_pwait2`.
pub(crate) fn lacks_epoll_pwait2() -> bool {
    let result = wait_readable(PollCall::EpollPwait2, None, rustix::stdio::stdin(), 0);
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::ENOSYS))
}
