//! Copies of a process's memory: never more than a stack's worth, by a call that cannot stop it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, IoSliceMut};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};

use super::NativeError;
use crate::pipeline::Pid;
use crate::pipeline::registers::Registers;

/// What is copied at a time.
const PAGE: u64 = 4096;

/// The stack of one thread, as far as it is asked for.
pub(super) enum Memory<'a> {
    /// Pages of the process, read when first asked for.
    Live {
        pid: Pid,
        pages: HashMap<u64, Option<Box<[u8]>>>,
        left: usize,
        error: Option<NativeError>,
    },
    /// A copy that came with the registers. Nothing else may be read: the thread has run on.
    Copy { address: u64, bytes: &'a [u8] },
}

impl<'a> Memory<'a> {
    /// The stack that belongs to these registers.
    pub(super) fn of(pid: Pid, registers: &'a Registers, limit: usize) -> Self {
        match &registers.stack {
            Some(copy) => Self::Copy {
                address: copy.address,
                bytes: &copy.bytes,
            },
            None => Self::Live {
                pid,
                pages: HashMap::new(),
                left: limit / usize::try_from(PAGE).unwrap_or(usize::MAX),
                error: None,
            },
        }
    }

    /// A word of 8 bytes.
    pub(super) fn word(&mut self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        match self {
            Self::Copy {
                address: start,
                bytes: copy,
            } => {
                let at = usize::try_from(address.checked_sub(*start)?).ok()?;
                bytes.copy_from_slice(copy.get(at..at.checked_add(8)?)?);
            }
            Self::Live { .. } => {
                for (place, byte) in (0..).zip(&mut bytes) {
                    *byte = self.byte(address.checked_add(place)?)?;
                }
            }
        }
        Some(u64::from_ne_bytes(bytes))
    }

    fn byte(&mut self, address: u64) -> Option<u8> {
        let Self::Live {
            pid,
            pages,
            left,
            error,
        } = self
        else {
            return None;
        };
        let page = address / PAGE;
        let bytes = match pages.entry(page) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                *left = left.checked_sub(1)?;
                let read = read(*pid, page * PAGE, usize::try_from(PAGE).ok()?);
                let read = read.map_err(|failed| error.get_or_insert(failed)).ok();
                new.insert(read.map(Vec::into_boxed_slice))
            }
        };
        let bytes = bytes.as_deref()?;
        bytes.get(usize::try_from(address % PAGE).ok()?).copied()
    }

    /// The first failure, if there was one.
    pub(super) fn take_error(&mut self) -> Option<NativeError> {
        match self {
            Self::Live { error, .. } => error.take(),
            Self::Copy { .. } => None,
        }
    }
}

/// Copies bytes of a process: all that were asked for, or an error.
pub(super) fn read(pid: Pid, address: u64, bytes: usize) -> Result<Vec<u8>, NativeError> {
    let failed = |error: io::Error| NativeError::Memory {
        pid,
        address,
        bytes,
        error,
    };
    let raw = i32::try_from(pid.0).map_err(|error| failed(io::Error::other(error)))?;
    let base = usize::try_from(address).map_err(|error| failed(io::Error::other(error)))?;
    let mut buffer = vec![0; bytes];
    let copied = process_vm_readv(
        nix::unistd::Pid::from_raw(raw),
        &mut [IoSliceMut::new(&mut buffer)],
        &[RemoteIoVec { base, len: bytes }],
    )
    .map_err(|error| failed(error.into()))?;
    if copied < bytes {
        return Err(failed(io::Error::other(format!(
            "only {copied} bytes are mapped"
        ))));
    }
    Ok(buffer)
}
