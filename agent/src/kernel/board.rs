//! The per-loop records, mapped into the agent: reading them takes no system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use loopwarden_abi::{LoopRecord, MAX_LOOPS, PollKey};

use super::error::KernelError;

/// The mapped array. Each record has one writer in the kernel (the loop's own thread) and the agent's few fields.
#[derive(Debug)]
pub struct Board {
    base: NonNull<LoopRecord>,
    bytes: usize,
}

// SAFETY: the mapping lives as long as the value, and all access is volatile, checked by the record's sequence number.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// Maps the records of a loaded array map.
    pub fn map(map: impl AsFd) -> Result<Self, KernelError> {
        let bytes = size_of::<LoopRecord>() * MAX_LOOPS as usize;
        // SAFETY: a fresh shared mapping of the map's memory; the kernel checks length and access.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        let failed = || KernelError::Map {
            step: "map",
            map: "LOOPS".into(),
            error: io::Error::last_os_error().to_string(),
        };
        if base == libc::MAP_FAILED {
            return Err(failed());
        }
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or_else(failed)?,
            bytes,
        })
    }

    fn at(&self, slot: u32) -> Option<*mut LoopRecord> {
        if slot >= MAX_LOOPS {
            return None;
        }
        // SAFETY: the slot is below the number of records that were mapped.
        Some(unsafe { self.base.as_ptr().add(slot as usize) })
    }

    /// A consistent copy of a record. `None` for a slot that does not exist, or if the loop changed it at every try:
    /// then it is moving, and the next look will do.
    #[must_use]
    pub fn read(&self, slot: u32) -> Option<LoopRecord> {
        let record = self.at(slot)?;
        for _ in 0..64 {
            // SAFETY: the pointer is into the mapping; volatile, because the kernel writes the memory meanwhile.
            let before = unsafe { (&raw const (*record).seq).read_volatile() };
            if before % 2 == 1 {
                std::hint::spin_loop();
                continue;
            }
            fence(Ordering::Acquire);
            // SAFETY: as above; a torn copy is thrown away below, and any bytes make a valid record.
            let copy = unsafe { record.read_volatile() };
            fence(Ordering::Acquire);
            // SAFETY: as above.
            let after = unsafe { (&raw const (*record).seq).read_volatile() };
            if before == after {
                return Some(copy);
            }
        }
        None
    }

    /// Writes a whole record, before the kernel is told of the slot.
    pub fn reset(&self, slot: u32, initial: &LoopRecord) {
        if let Some(record) = self.at(slot) {
            // SAFETY: the pointer is into the mapping, and no thread has the slot.
            unsafe { record.write_volatile(*initial) };
        }
    }

    /// Tells the kernel which poller is the loop's own.
    pub fn set_own(&self, slot: u32, own: PollKey) {
        if let Some(record) = self.at(slot) {
            // SAFETY: the pointer is into the mapping; only the agent writes this field.
            unsafe { (&raw mut (*record).own).write_volatile(own) };
        }
    }

    /// Asks for an event at the next entry to the loop's own poller.
    pub fn notify(&self, slot: u32) {
        if let Some(record) = self.at(slot) {
            // SAFETY: the pointer is into the mapping; the kernel only clears this field.
            unsafe { (&raw mut (*record).notify).write_volatile(1) };
            fence(Ordering::SeqCst);
        }
    }

    /// Sets from which length on an iteration is reported.
    pub fn set_stall_after(&self, slot: u32, nanoseconds: u64) {
        if let Some(record) = self.at(slot) {
            // SAFETY: the pointer is into the mapping; only the agent writes this field.
            unsafe { (&raw mut (*record).stall_after_ns).write_volatile(nanoseconds) };
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
