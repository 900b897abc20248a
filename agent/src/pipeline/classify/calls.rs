//! Which cause a system call stands for, and what functions of the kernel say.

use super::Descriptor;
use crate::pipeline::cause::CauseKind;
use crate::pipeline::evidence::SocketDetail;

const F_SETLKW: u64 = 7;
const F_OFD_SETLKW: u64 = 38;

/// Calls that move bytes over the descriptor that is their first argument.
const TRANSFERS: [&str; 13] = [
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
    "sendfile",
    "splice",
    "copy_file_range",
];

/// Calls on a socket, whatever procfs can show of it.
const SOCKETS: [&str; 9] = [
    "connect", "recvfrom", "recvmsg", "recvmmsg", "sendto", "sendmsg", "sendmmsg", "accept",
    "accept4",
];

/// Calls that work on file systems: uninterruptible in one of these, a thread waits for storage.
const FILES: [&str; 33] = [
    "open",
    "openat",
    "openat2",
    "creat",
    "close",
    "stat",
    "lstat",
    "fstat",
    "newfstatat",
    "statx",
    "access",
    "faccessat",
    "faccessat2",
    "getdents64",
    "readlink",
    "readlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "ftruncate",
    "fallocate",
    "execve",
    "execveat",
    "chmod",
    "fchmodat",
    "statfs",
    "fstatfs",
    "utimensat",
];

/// Calls that write what is in memory to storage.
const SYNCS: [&str; 6] = [
    "fsync",
    "fdatasync",
    "sync",
    "syncfs",
    "sync_file_range",
    "msync",
];

/// The kind of a call that a thread sleeps in.
pub(super) fn kind(
    name: &str,
    descriptor: Option<Descriptor>,
    args: &[u64; 6],
    state: char,
    function: &str,
) -> CauseKind {
    match name {
        "nanosleep" | "clock_nanosleep" => CauseKind::Sleep,
        "poll" | "ppoll" | "select" | "pselect6" => polled(name, descriptor, args),
        "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => polled_one(descriptor),
        "flock" => CauseKind::FileLock,
        "fcntl" if matches!(args[1], F_SETLKW | F_OFD_SETLKW) => CauseKind::FileLock,
        _ if SYNCS.contains(&name) => CauseKind::DiskWait,
        _ if SOCKETS.contains(&name) => CauseKind::NetworkWait,
        _ if TRANSFERS.contains(&name) => transfer(descriptor, state, function),
        _ if FILES.contains(&name) => file(state, function),
        _ => CauseKind::Unknown,
    }
}

/// A poll of nothing with a timeout is how older Pythons and portable programs sleep.
fn polled(name: &str, descriptor: Option<Descriptor>, args: &[u64; 6]) -> CauseKind {
    let (nothing, timed) = match name {
        "poll" => (args[1] == 0, args[2] & 0xffff_ffff < 1 << 31),
        "ppoll" => (args[1] == 0, args[2] != 0),
        _ => (args[0] == 0, args[4] != 0),
    };
    // The first of several is known: of a few pipes it stands for all (`communicate`), else it may not be the one.
    let several = name.contains("poll") && args[1] > 1;
    match (nothing, timed) {
        (true, true) => CauseKind::Sleep,
        (true, false) => CauseKind::Unknown,
        _ if several && descriptor != Some(Descriptor::Pipe) => CauseKind::Unknown,
        _ => polled_one(descriptor),
    }
}

fn polled_one(descriptor: Option<Descriptor>) -> CauseKind {
    match descriptor {
        Some(Descriptor::Socket) => CauseKind::NetworkWait,
        Some(Descriptor::Pipe) => CauseKind::PipeWait,
        _ => CauseKind::Unknown,
    }
}

fn transfer(descriptor: Option<Descriptor>, state: char, function: &str) -> CauseKind {
    if is_pipe(function) {
        return CauseKind::PipeWait;
    }
    match descriptor {
        Some(Descriptor::Socket) => CauseKind::NetworkWait,
        Some(Descriptor::Pipe) => CauseKind::PipeWait,
        Some(Descriptor::File) => CauseKind::DiskWait,
        _ if state == 'D' => CauseKind::DiskWait,
        _ => CauseKind::Unknown,
    }
}

fn file(state: char, function: &str) -> CauseKind {
    if is_pipe(function) {
        CauseKind::PipeWait
    } else if state == 'D' || is_remote_storage(function) {
        CauseKind::DiskWait
    } else {
        CauseKind::Unknown
    }
}

/// `anon_pipe_read`, `fifo_pipe_write`, `pipe_read`, and the opening of a named pipe that nobody else has open.
fn is_pipe(function: &str) -> bool {
    function.contains("pipe_read")
        || function.contains("pipe_write")
        || matches!(function, "pipe_wait" | "wait_for_partner" | "fifo_open")
}

/// File systems served by another process or machine wait as their signals allow, not always uninterruptibly.
fn is_remote_storage(function: &str) -> bool {
    ["fuse_", "nfs", "rpc_wait", "cifs_", "smb", "p9_", "ceph_"]
        .iter()
        .any(|start| function.starts_with(start))
        || function == "request_wait_answer"
}

/// Functions in which a thread waits for memory and nothing else.
pub(super) fn is_memory(function: &str) -> bool {
    [
        "mem_cgroup_handle_over_high",
        "__mem_cgroup_handle_over_high",
        "mem_cgroup_oom_synchronize",
        "mem_cgroup_out_of_memory",
        "out_of_memory",
        "try_to_free_",
        "shrink_",
        "reclaim_throttle",
        "throttle_direct_reclaim",
        "throttle_vm_writeout",
        "congestion_wait",
        "wait_iff_congested",
        "do_swap_page",
        "swap_read",
        "swap_readpage",
        "handle_userfault",
        "migration_entry_wait",
        "do_numa_page",
        "hugetlb_fault",
        "__alloc_pages",
        "compact_zone",
        "zswap_",
    ]
    .iter()
    .any(|start| function.starts_with(start))
}

/// Whether the other end of a socket is a name service: DNS by its port, or the sockets of the local caches.
pub(super) fn is_name_service(socket: &SocketDetail) -> bool {
    const CACHES: [&str; 5] = [
        "/run/systemd/resolve/",
        "/run/nscd/",
        "/var/run/nscd/",
        "/run/avahi-daemon/",
        "/var/run/avahi-daemon/",
    ];
    let Some(peer) = &socket.peer else {
        return false;
    };
    match socket.protocol.as_str() {
        "unix" => CACHES.iter().any(|folder| peer.starts_with(folder)),
        _ => peer.rsplit_once(':').is_some_and(|(_, port)| port == "53"),
    }
}
