//! The shared types as plain bytes, for maps, globals and ring items.

use aya::Pod;
use loopwarden_abi::{
    ConnectCount, ConnectKey, Event, LoopRecord, Offsets, RegisterFacts, Settings, SocketFacts,
    TaskEntry, TaskListing, ThreadEntry, ThreadRegisters,
};

/// A type of `loopwarden_abi`: `repr(C)`, no padding that is not a field, any bit pattern valid.
///
/// # Safety
/// Only for types with these properties.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: repr(C), integers and arrays of integers only, padding explicit (sizes are asserted in the abi crate).
unsafe impl Plain for Event {}
// SAFETY: as above.
unsafe impl Plain for LoopRecord {}
// SAFETY: as above.
unsafe impl Plain for Offsets {}
// SAFETY: as above.
unsafe impl Plain for RegisterFacts {}
// SAFETY: as above.
unsafe impl Plain for Settings {}
// SAFETY: as above.
unsafe impl Plain for SocketFacts {}
// SAFETY: as above.
unsafe impl Plain for ThreadRegisters {}
// SAFETY: as above.
unsafe impl Plain for TaskListing {}

/// The bytes of a value.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` says that every byte of the value is initialised, and the lifetime is the value's.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value at the start of some bytes; `None` if they are too few.
#[must_use]
pub fn read_plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, `Plain` says that any of them make a value, and the read does not need alignment.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// A map value (aya wants its own marker on types of ours).
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct TaskValue(pub TaskEntry);

/// A map value (aya wants its own marker on types of ours).
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct ThreadValue(pub ThreadEntry);

/// A map key (aya wants its own marker on types of ours).
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct ConnectName(pub ConnectKey);

/// A map value (aya wants its own marker on types of ours).
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct ConnectValue(pub ConnectCount);

// SAFETY: repr(transparent) over a repr(C) type of integers without hidden padding.
unsafe impl Pod for ConnectName {}
// SAFETY: as above.
unsafe impl Pod for ConnectValue {}
// SAFETY: as above.
unsafe impl Pod for TaskValue {}
// SAFETY: as above.
unsafe impl Pod for ThreadValue {}
