//! Which thread holds the lock that another one waits for: told by the lock itself, or not at all.
//!
//! Of Python's locks only `RLock` knows its owner. The one that a thread waits for is on the evaluation stack of its innermost frame, or is
//! what a method there is bound to. Slots above the top of that stack may hold leftovers, so a lock counts only if what the thread
//! sleeps on belongs to it.

use super::code::Place;
use super::error::Error;
use super::layout::OBJECT_TYPE;
use super::memory::Struct;
use super::object::Objects;

/// Slots of a frame that are looked at: variables and evaluation stack.
const SLOTS: usize = 256;
/// In a bound method, also of a builtin type: what it is bound to.
const BOUND_TO: u64 = 24;
/// In an `RLock`, since 3.8: what sleepers sleep on, and the owner's ident.
const LOCK: usize = 16;
const OWNER: usize = 24;
/// Size of `sem_t`.
const SEMAPHORE: u64 = 32;
/// Of `PyMutex`, which an `RLock` is made of since 3.14: locked, and somebody waits.
const LOCKED_AND_WAITED_FOR: u8 = 3;

impl Objects<'_> {
    /// The ident of the thread that owns the `RLock` that the thread with this innermost frame waits for, asleep on `futex`.
    pub(super) fn lock_owner(&self, innermost: Place, futex: u64) -> Result<Option<u64>, Error> {
        let layout = &self.python.layout;
        let code = Struct(self.memory.bytes(innermost.code, 128)?);
        if self.memory.word(innermost.code + OBJECT_TYPE as u64)? != self.python.code_type {
            return Ok(None);
        }
        let count = |offset: usize| usize::try_from(code.int(offset)).unwrap_or(0).min(SLOTS);
        // Before 3.11 cells and free variables are not in that number; they come before the stack, so a few slots of it may be missed.
        let slots = (count(layout.code_locals) + count(layout.code_stack_size)).min(SLOTS);
        let from = innermost.frame.wrapping_add(layout.frame_locals as u64);
        let mut buffer = vec![0; slots * 8];
        let slots = self.memory.read(from, &mut buffer)?;
        let mut owner = None;
        for slot in slots
            .chunks_exact(8)
            .filter_map(|slot| slot.try_into().ok())
        {
            let object = u64::from_ne_bytes(slot) & !7;
            let Some(found) = self.owner_of(object, futex) else {
                continue;
            };
            if owner.is_some_and(|owner| owner != found) {
                return Ok(None);
            }
            owner = Some(found);
        }
        Ok(owner)
    }

    fn owner_of(&self, object: u64, futex: u64) -> Option<u64> {
        let name = self.type_name(object).ok()?;
        let lock = match name.as_str() {
            "_thread.RLock" => object,
            "builtin_function_or_method" | "method" => {
                let bound = self.memory.word(object.wrapping_add(BOUND_TO)).ok()?;
                (self.type_name(bound).ok()? == "_thread.RLock").then_some(bound)?
            }
            _ => return None,
        };
        let lock = Struct(self.memory.bytes(lock, 40).ok()?);
        let is_the_one = if self.python.layout.minor < 14 {
            let semaphore = lock.word(LOCK);
            (semaphore..semaphore.saturating_add(SEMAPHORE)).contains(&futex)
        } else {
            // A sleeper has a semaphore of its own there; that somebody sleeps is what the lock tells.
            lock.byte(LOCK) == LOCKED_AND_WAITED_FOR
        };
        let owner = lock.word(OWNER);
        (is_the_one && owner != 0).then_some(owner)
    }
}
