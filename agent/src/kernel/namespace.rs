//! Whether the agent sees the kernel's own process ids.

/// Inode number of the initial PID namespace: constant in every kernel (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether this process lives in the initial PID namespace. If the link cannot be read, it is not shown, so no.
#[must_use]
pub fn is_initial() -> bool {
    std::fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|name| name.as_os_str() == INITIAL_PID_NAMESPACE)
}

/// Whether the mounted procfs numbers processes as this process's own PID namespace does. A procfs of another namespace
/// would lend its numbers to a pidfd of this one, which would be about some other process.
#[must_use]
pub fn procfs_is_ours() -> bool {
    std::fs::read_link("/proc/self")
        .is_ok_and(|name| name.as_os_str() == std::process::id().to_string().as_str())
}
