//! Names of the system calls that loops poll, wait and block in, by this machine's numbers.

/// A table row: number and name.
macro_rules! table {
    ($($(#[$when:meta])? $constant:ident $name:literal,)*) => {
        &[$($(#[$when])? (libc::$constant, $name),)*]
    };
}

const NAMES: &[(libc::c_long, &str)] = table! {
    #[cfg(target_arch = "x86_64")] SYS_epoll_wait "epoll_wait",
    SYS_epoll_pwait "epoll_pwait",
    SYS_epoll_pwait2 "epoll_pwait2",
    #[cfg(target_arch = "x86_64")] SYS_poll "poll",
    SYS_ppoll "ppoll",
    #[cfg(target_arch = "x86_64")] SYS_select "select",
    SYS_pselect6 "pselect6",
    SYS_wait4 "wait4",
    SYS_waitid "waitid",
    SYS_futex "futex",
    SYS_read "read",
    SYS_write "write",
    SYS_readv "readv",
    SYS_writev "writev",
    SYS_pread64 "pread64",
    SYS_pwrite64 "pwrite64",
    SYS_recvfrom "recvfrom",
    SYS_recvmsg "recvmsg",
    SYS_sendto "sendto",
    SYS_sendmsg "sendmsg",
    SYS_connect "connect",
    SYS_accept "accept",
    SYS_accept4 "accept4",
    SYS_nanosleep "nanosleep",
    SYS_clock_nanosleep "clock_nanosleep",
    SYS_flock "flock",
    SYS_fcntl "fcntl",
    SYS_fsync "fsync",
    SYS_fdatasync "fdatasync",
    SYS_openat "openat",
    SYS_openat2 "openat2",
    SYS_close "close",
    SYS_getdents64 "getdents64",
    SYS_newfstatat "newfstatat",
    SYS_statx "statx",
    SYS_fstat "fstat",
    SYS_statfs "statfs",
    SYS_fstatfs "fstatfs",
    SYS_faccessat "faccessat",
    SYS_faccessat2 "faccessat2",
    SYS_readlinkat "readlinkat",
    SYS_mkdirat "mkdirat",
    SYS_unlinkat "unlinkat",
    SYS_renameat2 "renameat2",
    SYS_ftruncate "ftruncate",
    SYS_fallocate "fallocate",
    SYS_fchmodat "fchmodat",
    SYS_utimensat "utimensat",
    SYS_rt_sigtimedwait "rt_sigtimedwait",
    SYS_rt_sigsuspend "rt_sigsuspend",
    #[cfg(target_arch = "x86_64")] SYS_pause "pause",
    SYS_msgrcv "msgrcv",
    SYS_msgsnd "msgsnd",
    SYS_semop "semop",
    SYS_semtimedop "semtimedop",
    SYS_mq_timedreceive "mq_timedreceive",
    SYS_mq_timedsend "mq_timedsend",
    SYS_io_getevents "io_getevents",
    SYS_io_uring_enter "io_uring_enter",
    SYS_futex_waitv "futex_waitv",
    SYS_ioctl "ioctl",
    SYS_getrandom "getrandom",
    SYS_execve "execve",
    #[cfg(target_arch = "x86_64")] SYS_open "open",
    #[cfg(target_arch = "x86_64")] SYS_creat "creat",
    #[cfg(target_arch = "x86_64")] SYS_stat "stat",
    #[cfg(target_arch = "x86_64")] SYS_lstat "lstat",
    #[cfg(target_arch = "x86_64")] SYS_access "access",
    #[cfg(target_arch = "x86_64")] SYS_readlink "readlink",
    #[cfg(target_arch = "x86_64")] SYS_mkdir "mkdir",
    #[cfg(target_arch = "x86_64")] SYS_rmdir "rmdir",
    #[cfg(target_arch = "x86_64")] SYS_unlink "unlink",
    #[cfg(target_arch = "x86_64")] SYS_rename "rename",
    SYS_sync "sync",
    SYS_syncfs "syncfs",
    SYS_msync "msync",
    SYS_preadv "preadv",
    SYS_pwritev "pwritev",
    SYS_preadv2 "preadv2",
    SYS_pwritev2 "pwritev2",
    SYS_sendfile "sendfile",
    SYS_splice "splice",
    SYS_copy_file_range "copy_file_range",
    SYS_recvmmsg "recvmmsg",
    SYS_sendmmsg "sendmmsg",
    SYS_restart_syscall "restart_syscall",
    SYS_sched_yield "sched_yield",
};

/// The name of a system call, or its number in words.
#[must_use]
pub fn name(number: i64) -> String {
    known(number).map_or_else(|| format!("syscall_{number}"), str::to_owned)
}

/// Whether the first argument of a call is a descriptor that the call is about.
#[must_use]
pub fn is_about_descriptor(name: &str) -> bool {
    const ABOUT: [&str; 34] = [
        "epoll_wait",
        "epoll_pwait",
        "epoll_pwait2",
        "read",
        "write",
        "readv",
        "writev",
        "pread64",
        "pwrite64",
        "preadv",
        "pwritev",
        "preadv2",
        "pwritev2",
        "recvfrom",
        "recvmsg",
        "recvmmsg",
        "sendto",
        "sendmsg",
        "sendmmsg",
        "connect",
        "accept",
        "accept4",
        "flock",
        "fcntl",
        "fsync",
        "fdatasync",
        "syncfs",
        "getdents64",
        "fstat",
        "fstatfs",
        "ftruncate",
        "fallocate",
        "sendfile",
        "splice",
    ];
    ABOUT.contains(&name)
}

/// The name of a system call of the table.
#[must_use]
pub fn known(number: i64) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(known, _)| *known == number)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_names_and_unknown_ones_stay_numbers() {
        assert_eq!(name(libc::SYS_wait4), "wait4");
        assert_eq!(name(99_999), "syscall_99999");
    }
}
