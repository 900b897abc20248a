//! Who holds a pthread mutex of glibc that a thread waits for in `futex`.

use crate::pipeline::{Pid, Tid};

use super::memory;

/// Threads of a process that are compared with the owner's id.
const THREADS: usize = 4096;
/// `futex` words of mutexes that inherit priority hold the owner's id and these flags.
const FUTEX_WAITERS: u32 = 1 << 31;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

/// The thread that holds the mutex at `address`, the first argument of the `futex` call that waits for it. Only if the memory
/// there shows a locked mutex with waiters, and the owner in it is a living thread of the process: locks of musl, Rust and Go
/// name no owner.
#[must_use]
pub fn mutex_owner(pid: Pid, address: u64) -> Option<Tid> {
    let inner = owner_in(&memory::read(pid, address, 24).ok()?)?;
    let owner = thread_with_inner_id(pid, inner)?;
    // The same again, now that the owner is known to live: a mutex that changed hands meanwhile shows nobody.
    (owner_in(&memory::read(pid, address, 24).ok()?) == Some(inner)).then_some(owner)
}

/// `pthread_mutex_t`: lock, count, owner, users, kind.
fn owner_in(bytes: &[u8]) -> Option<u32> {
    let word = |place: usize| {
        let bytes = bytes.get(place * 4..place * 4 + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let (lock, owner, users, kind) = (word(0)?, word(2)?, word(3)?, word(4)?);
    // Four types, and flags up to "no elision" at bit 9.
    let plausible = kind & 0xf <= 3 && kind < 1 << 10;
    let waited_for = lock == 2 || lock & FUTEX_WAITERS != 0 && lock & FUTEX_TID_MASK == owner;
    (plausible && waited_for && users > 0 && owner > 1 && owner <= FUTEX_TID_MASK).then_some(owner)
}

/// The thread that has this id in the innermost PID namespace, which is the one glibc knows.
fn thread_with_inner_id(pid: Pid, inner: u32) -> Option<Tid> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks.take(THREADS).flatten().find_map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        if inner_id(&status)? != inner {
            return None;
        }
        task.file_name().to_str()?.parse().ok().map(Tid)
    })
}

/// The last number of `NSpid`; nothing for a thread that has ended.
fn inner_id(status: &str) -> Option<u32> {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    if line("State:")?.trim_start().starts_with(['Z', 'X']) {
        return None;
    }
    line("NSpid:")?.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_locked_mutex_with_waiters_has_an_owner() {
        let table = [
            ([2, 0, 77, 1, 0, 0], Some(77)),
            ([2, 3, 77, 1, 1 | 128, 0], Some(77)),
            ([1, 0, 77, 1, 0, 0], None),
            ([0, 0, 0, 0, 0, 0], None),
            ([2, 0, 0, 1, 0, 0], None),
            ([2, 0, 77, 0, 0, 0], None),
            ([2, 0, 77, 1, 5, 0], None),
            ([2, 0, 77, 1, 0x1000, 0], None),
            // Priority inheritance: the word holds the owner itself.
            ([0x4d | FUTEX_WAITERS, 0, 0x4d, 1, 32, 0], Some(0x4d)),
            ([0x4e | FUTEX_WAITERS, 0, 0x4d, 1, 32, 0], None),
        ];
        for (words, owner) in table {
            let bytes: Vec<u8> = words
                .iter()
                .flat_map(|word: &u32| word.to_ne_bytes())
                .collect();
            assert_eq!(owner_in(&bytes), owner, "{words:?}");
        }
        assert_eq!(owner_in(&[2, 0, 0]), None);
    }

    #[test]
    fn the_id_that_the_process_itself_knows_is_compared() {
        assert_eq!(
            inner_id("State:\tS (sleeping)\nNSpid:\t900\t31\t7\n"),
            Some(7)
        );
        assert_eq!(inner_id("State:\tZ (zombie)\nNSpid:\t900\t7\n"), None);
        assert_eq!(inner_id(""), None);
    }
}
