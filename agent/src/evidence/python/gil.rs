//! Who holds the interpreter lock, and who waits for it.

use super::error::Error;
use super::image::Interpreter;
use super::layout::{GIL_SIZE, GilLayout};
use super::memory::Memory;

/// The interpreter lock at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GilState {
    /// The state of the thread that holds it; 0 if nobody does.
    pub holder: u64,
    /// Where the lock is.
    pub at: u64,
}

impl GilState {
    /// Reads the lock of an interpreter.
    pub(super) fn read(
        memory: &Memory,
        python: &Interpreter,
        interpreter: u64,
    ) -> Result<Self, Error> {
        match python.layout.gil {
            GilLayout::Runtime { current, gil } => Ok(Self {
                holder: memory.word(python.runtime.wrapping_add(current))?,
                at: python.runtime.wrapping_add(gil),
            }),
            GilLayout::Interpreter {
                pointer,
                holder,
                locked,
            } => {
                let at = memory.word(interpreter.wrapping_add(pointer))?;
                let is_locked = i32::from_ne_bytes(memory.array(at.wrapping_add(locked))?) > 0;
                let holder = if is_locked {
                    memory.word(at.wrapping_add(holder))?
                } else {
                    0
                };
                Ok(Self { holder, at })
            }
        }
    }

    /// Whether a thread that sleeps in `futex` on this address waits for this lock: its mutexes and conditions are inside it.
    pub(super) fn contains(self, futex: u64) -> bool {
        (self.at..self.at.saturating_add(GIL_SIZE)).contains(&futex)
    }
}
