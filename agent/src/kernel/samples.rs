//! Where a running thread is: a few samples of its registers and stack by `perf_event_open`, over a short bounded time.
//!
//! The kernel copies both while a timer interrupts the thread, so that they belong together although the thread runs on.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags};

use crate::pipeline::Tid;
use crate::pipeline::registers::{Registers, StackCopy};

/// Longest wait for samples.
pub const LIMIT: Duration = Duration::from_millis(50);
/// Samples that are enough.
const ENOUGH: u32 = 5;
/// One sample for that much CPU time of the thread: five take 20 ms.
const PERIOD_NS: u64 = 4_000_000;
/// Copied of the stack at most; a record cannot hold more than 64 KiB.
const STACK_BYTES: u32 = 32 * 1024;
/// Bytes of the buffer: all samples fit, so that it never wraps. 256 KiB is within what the kernel lets anybody lock.
const BUFFER: usize = 256 * 1024;

const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_REGS_USER: u64 = 1 << 12;
const SAMPLE_STACK_USER: u64 = 1 << 13;
const RECORD_SAMPLE: u32 = 9;
/// `PERF_SAMPLE_REGS_ABI_64`.
const ABI_64: u64 = 2;

/// Registers to copy, by perf's numbers; they arrive in this order.
#[cfg(target_arch = "x86_64")]
const WANTED: [u32; 3] = [6, 7, 8];
#[cfg(target_arch = "aarch64")]
const WANTED: [u32; 4] = [29, 30, 31, 32];

/// Samples a thread; empty if it was not seen on a CPU.
pub(super) fn take(tid: Tid) -> io::Result<Vec<Registers>> {
    let buffer = Buffer::open(tid)?;
    let timeout = Timespec::try_from(LIMIT).map_err(io::Error::other)?;
    // Ends early when there are enough samples or the thread has ended.
    match poll(
        &mut [PollFd::new(&buffer.event, PollFlags::IN)],
        Some(&timeout),
    ) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    buffer.stop()?;
    Ok(samples(&buffer.bytes()))
}

/// The event and its mapped buffer.
struct Buffer {
    event: OwnedFd,
    start: NonNull<libc::c_void>,
    page: usize,
}

impl Buffer {
    fn open(tid: Tid) -> io::Result<Self> {
        let event = match open_event(tid, false) {
            // Without CAP_PERFMON the kernel may still allow what happens in user code.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => open_event(tid, true)?,
            other => other?,
        };
        let page = rustix::param::page_size();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                page + BUFFER,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                event.as_fd(),
                0,
            )
        }?;
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mapped at null"))?;
        let buffer = Self { event, start, page };
        buffer.control(0x2400)?;
        Ok(buffer)
    }

    /// Nothing is written to the buffer after this.
    fn stop(&self) -> io::Result<()> {
        self.control(0x2401)
    }

    fn control(&self, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: the descriptor is open; these requests take no argument.
        if unsafe { libc::ioctl(self.event.as_raw_fd(), request, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// What the kernel wrote. Call it after [`Self::stop`].
    fn bytes(&self) -> Vec<u8> {
        const DATA_HEAD: usize = 1024;
        // SAFETY: the first page of the mapping holds the head, aligned, for as long as the mapping lives.
        let head = unsafe { self.start.cast::<AtomicU64>().add(DATA_HEAD / 8).as_ref() };
        let head = head.load(Ordering::Acquire);
        let base = self.start.as_ptr().cast::<u8>();
        let length = usize::try_from(head).unwrap_or(0).min(BUFFER);
        let mut bytes = vec![0; length];
        // SAFETY: within the mapping, and nobody writes to it any more.
        unsafe { std::ptr::copy_nonoverlapping(base.add(self.page), bytes.as_mut_ptr(), length) };
        bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and nothing refers to it any more. A failure would leave it mapped.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.page + BUFFER) };
    }
}

fn open_event(tid: Tid, user_only: bool) -> io::Result<OwnedFd> {
    const PERF_TYPE_SOFTWARE: u64 = 1;
    const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    const DISABLED: u64 = 1;
    const EXCLUDE_KERNEL: u64 = 1 << 5;
    let registers = WANTED.iter().fold(0, |mask, place| mask | 1u64 << place);
    // `struct perf_event_attr`, fifth version, 112 bytes, as words of 8.
    let mut attributes = [0u64; 14];
    attributes[0] = PERF_TYPE_SOFTWARE | (112 << 32);
    attributes[1] = PERF_COUNT_SW_CPU_CLOCK;
    attributes[2] = PERIOD_NS;
    attributes[3] = SAMPLE_TID | SAMPLE_REGS_USER | SAMPLE_STACK_USER;
    attributes[5] = DISABLED | if user_only { EXCLUDE_KERNEL } else { 0 };
    attributes[6] = u64::from(ENOUGH);
    attributes[10] = registers;
    attributes[11] = u64::from(STACK_BYTES);
    let tid = i32::try_from(tid.0).map_err(io::Error::other)?;
    // SAFETY: the pointer is to 112 valid bytes, as the size within them says; the other arguments are plain numbers.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            tid,
            -1,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The samples in a run of records; stops at the first that is not whole.
fn samples(mut bytes: &[u8]) -> Vec<Registers> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<8>() {
        let kind = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::from(u16::from_ne_bytes([header[6], header[7]]));
        let Some(record) = bytes.get(8..length) else {
            break;
        };
        if kind == RECORD_SAMPLE {
            found.extend(sample(record));
        }
        bytes = &bytes[length..];
    }
    found
}

/// One sample: ids, registers, stack. Nothing if it was in no 64-bit user code.
fn sample(record: &[u8]) -> Option<Registers> {
    let word = |place: usize| {
        let bytes = record.get(place * 8..place * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    // Word 0 holds the two ids.
    if word(1)? != ABI_64 {
        return None;
    }
    let first = 2;
    #[cfg(target_arch = "x86_64")]
    let (fp, lr, sp, ip) = (word(first)?, None, word(first + 1)?, word(first + 2)?);
    #[cfg(target_arch = "aarch64")]
    let (fp, lr, sp, ip) = (
        word(first)?,
        word(first + 1),
        word(first + 2)?,
        word(first + 3)?,
    );
    let stack_at = first + WANTED.len();
    let room = usize::try_from(word(stack_at)?).ok()?;
    let bytes = if room == 0 {
        Vec::new()
    } else {
        let start = (stack_at + 1) * 8;
        // How much of the room was filled follows it.
        let filled = word(stack_at + 1 + room / 8)?;
        let filled = usize::try_from(filled).ok()?.min(room);
        record.get(start..start + filled)?.to_vec()
    };
    Some(Registers {
        ip,
        sp,
        fp: Some(fp),
        lr,
        switches: None,
        stack: Some(StackCopy { address: sp, bytes }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_records_give_nothing_and_never_panic() {
        let mut record = vec![0u8; 8 + 8 + 8 + WANTED.len() * 8 + 8 + 16 + 8];
        let length = u16::try_from(record.len()).unwrap();
        record[0] = 9;
        record[6..8].copy_from_slice(&length.to_ne_bytes());
        record[16] = 2;
        let stack = 24 + WANTED.len() * 8;
        record[stack] = 16;
        record[stack + 8..stack + 12].copy_from_slice(&[1, 2, 3, 4]);
        record[stack + 24] = 4;
        let whole = samples(&record);
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].stack.as_ref().unwrap().bytes, [1, 2, 3, 4]);
        for length in 0..record.len() {
            assert_eq!(samples(&record[..length]), []);
        }
        for place in 0..record.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = record.clone();
                bytes[place] = value;
                let _ = samples(&bytes);
            }
        }
    }

    #[test]
    fn a_header_of_length_zero_ends_the_reading() {
        assert_eq!(samples(&[0; 64]), []);
    }
}
