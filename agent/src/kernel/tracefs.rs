//! Ids of tracepoints, and attaching to them, without touching the machine's mounts.
//!
//! aya finds tracefs only where it is mounted. Many containers and some hosts do not mount it, so the agent opens a
//! detached instance of its own (`fsopen`, `fsmount`): nothing is mounted anywhere, and it goes with the agent.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::error::KernelError;

/// Where tracefs is usually mounted.
const MOUNTED: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// An open tracefs.
#[derive(Debug)]
pub struct Tracefs {
    root: OwnedFd,
    /// Where it comes from, for `doctor`.
    pub origin: &'static str,
}

impl Tracefs {
    /// Opens the mounted tracefs, else a detached one.
    pub fn open() -> Result<Self, KernelError> {
        for path in MOUNTED {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if let Ok(root) = rustix::fs::open(path, flags, Mode::empty()) {
                let found = Self { root, origin: path };
                if found.id("sched", "sched_process_exit").is_ok() {
                    return Ok(found);
                }
            }
        }
        Self::detached().map_err(|error| {
            KernelError::Tracefs(format!(
                "tracefs is mounted neither at {} nor at {}, and opening a detached one failed: {error}. \
                 Mount it (mount -t tracefs none /sys/kernel/tracing) or give the agent CAP_SYS_ADMIN",
                MOUNTED[0], MOUNTED[1]
            ))
        })
    }

    fn detached() -> io::Result<Self> {
        let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(context.as_fd())?;
        let root = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        Ok(Self {
            root,
            origin: "detached",
        })
    }

    /// The id of a tracepoint; `NotFound` if this kernel or machine has none of that name.
    pub fn id(&self, category: &str, name: &str) -> io::Result<u64> {
        let path = format!("events/{category}/{name}/id");
        let file = openat(
            &self.root,
            &path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = String::new();
        std::fs::File::from(file).read_to_string(&mut text)?;
        text.trim()
            .parse()
            .map_err(|_| io::Error::other(format!("{path} holds `{}`, not a number", text.trim())))
    }
}

/// A program that runs at a tracepoint for as long as this lives.
#[derive(Debug)]
pub struct TracepointLink(
    #[expect(dead_code, reason = "held open: closing it detaches the program")] OwnedFd,
);

/// Attaches a loaded program to the tracepoint with that id.
pub fn attach(program: BorrowedFd<'_>, id: u64) -> io::Result<TracepointLink> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    // `struct perf_event_attr`, first version (64 bytes): type, size, config, then zeroes.
    let mut attributes = [0u64; 8];
    attributes[0] = u64::from(PERF_TYPE_TRACEPOINT) | (64 << 32);
    attributes[1] = id;
    // One descriptor on CPU 0 is enough: the program is bound to the tracepoint, not to the event, and runs on all CPUs.
    // SAFETY: the pointer is to 64 valid bytes, as the size within them says; the other arguments are plain numbers.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned this descriptor, and nobody else has it.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: both descriptors are open; this request takes the program's as its argument.
    if unsafe {
        libc::ioctl(
            event.as_raw_fd(),
            PERF_EVENT_IOC_SET_BPF,
            program.as_raw_fd(),
        )
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open; this request takes no argument.
    if unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TracepointLink(event))
}
