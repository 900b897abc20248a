//! Which processes are watched, and what procfs knows of them: identity, namespaces, container, threads.
//!
//! Reads procfs and decides nothing. What can block (`cmdline`, `exe` of a dying mount) is read here, on the scout's
//! thread, never on the rescue thread.

pub mod cgroup;
pub mod freezer;
pub mod mounts;
pub mod scout;
pub mod sight;
