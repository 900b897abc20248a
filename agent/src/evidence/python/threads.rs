//! The interpreters' threads, and which thread of the kernel each of them is.

use super::error::{Error, implausible};
use super::image::Interpreter;
use super::memory::{Memory, Struct};

/// Interpreters of a process, and threads of an interpreter, that are looked at.
const INTERPRETERS: usize = 16;
const THREADS: usize = 2048;
/// Thread states are larger; what is needed lies within this.
const HEAD: usize = 256;

/// A thread as its interpreter knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ThreadState {
    /// Where it is.
    pub at: u64,
    /// Its interpreter.
    pub interpreter: u64,
    /// Python's id of the thread: glibc's or musl's `pthread_t`.
    pub ident: u64,
    /// The kernel's id of the thread, in the process's own PID namespace.
    pub native: u32,
    /// What leads to the current frame.
    pub frame: u64,
}

/// All threads of all interpreters.
pub(super) fn list(
    memory: &Memory,
    python: &Interpreter,
    musl: bool,
) -> Result<Vec<ThreadState>, Error> {
    let layout = &python.layout;
    let mut found = Vec::new();
    let mut interpreter = memory.word(python.runtime.wrapping_add(layout.interpreters))?;
    for _ in 0..INTERPRETERS {
        if interpreter == 0 {
            return Ok(found);
        }
        let mut at = memory.word(interpreter.wrapping_add(layout.threads))?;
        let mut count = 0;
        while at != 0 {
            count += 1;
            if count > THREADS {
                return implausible("end of the list of threads", interpreter);
            }
            let state = Struct(memory.bytes(at, HEAD)?);
            if state.word(layout.thread_interpreter) != interpreter {
                return implausible("thread state", at);
            }
            found.push(thread(memory, python, musl, at, &state));
            at = state.word(layout.thread_next);
        }
        interpreter = memory.word(interpreter.wrapping_add(layout.interpreter_next))?;
    }
    implausible("end of the list of interpreters", python.runtime)
}

fn thread(
    memory: &Memory,
    python: &Interpreter,
    musl: bool,
    at: u64,
    state: &Struct,
) -> ThreadState {
    let layout = &python.layout;
    let ident = state.word(layout.thread_ident);
    let native = match layout.thread_native {
        Some(offset) => u32::try_from(state.word(offset)).unwrap_or(0),
        // A state whose thread has not begun, or that an embedding program made, has none.
        None if ident == 0 => 0,
        None => memory
            .array(ident.wrapping_add(native_id_in_pthread(musl)))
            .map_or(0, u32::from_ne_bytes),
    };
    ThreadState {
        at,
        interpreter: state.word(layout.thread_interpreter),
        ident,
        native,
        frame: state.word(layout.thread_frame),
    }
}

/// Where `struct pthread` keeps the kernel's id. glibc's debugger interface has relied on the first two since 2.4; musl's struct has
/// been the same since 1.1.
fn native_id_in_pthread(musl: bool) -> u64 {
    match (musl, cfg!(target_arch = "aarch64")) {
        (false, false) => 0x2d0,
        (false, true) => 0xd0,
        (true, false) => 0x30,
        (true, true) => 0x20,
    }
}
