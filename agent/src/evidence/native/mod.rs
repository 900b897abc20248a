//! Native stacks of a blocked or running thread: unwound from its registers in user space, with names.
//!
//! It must never stop, signal or write to the process. Registers come from `kernel/`; memory, `/proc/PID/maps`, ELF files and
//! perf maps are read here, all of them made by others and some of them able to hang: this runs in the disposable helper
//! process only. What goes back is a bounded list of [`Frame`]s with harmless text, or the reason why there is none.
//!
//! `maps` says what lies where, `image` opens ELF files, `memory` copies stacks, `unwind` walks, `symbols` and `perf_map` name
//! the places, and `mutex` finds who holds a lock.

mod image;
mod maps;
mod memory;
mod mutex;
mod perf_map;
mod symbols;
mod text;
mod unwind;

use std::io;

use serde::{Deserialize, Serialize};

use crate::pipeline::registers::Registers;
use crate::pipeline::{Frame, Pid, Tid};
use image::Images;
use maps::Maps;
use memory::Memory;
use unwind::Unwinding;

pub use mutex::mutex_owner;

/// Processes whose unwinding tables are kept; the longest unused one goes first.
const KEPT_PROCESSES: usize = 16;

/// Files that are made ready before they are needed.
const PREPARED: usize = 4;

/// What one stack may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Frames, innermost first; the outer ones are left out.
    pub frames: usize,
    /// Bytes of the stack that are copied.
    pub stack_bytes: usize,
    /// Debug information larger than this is not read: names come from the symbol table, without file and line.
    pub debug_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frames: 128,
            stack_bytes: 128 * 1024,
            debug_bytes: 32 * 1024 * 1024,
        }
    }
}

/// A stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeStack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why the outermost frames are missing, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

/// Why there is no stack.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// What lies where in the process could not be read.
    #[error("{path}: {error}")]
    Maps {
        /// The file.
        path: String,
        /// What came back.
        error: io::Error,
    },
    /// Its memory could not be read.
    #[error(
        "reading {bytes} bytes at {address:#x} of process {pid} failed: {error}. CAP_SYS_PTRACE is needed"
    )]
    Memory {
        /// The process.
        pid: Pid,
        /// From where.
        address: u64,
        /// How much.
        bytes: usize,
        /// What came back.
        error: io::Error,
    },
    /// The thread went on while its stack was being read: what was read belongs to no one moment.
    #[error("thread {tid} went on while its stack was being read")]
    Moved {
        /// Which.
        tid: Tid,
    },
    /// It has ended.
    #[error("process {pid} has no thread {tid} any more")]
    Gone {
        /// The process.
        pid: Pid,
        /// The thread.
        tid: Tid,
    },
}

/// Reads stacks, and keeps what is worth keeping between two: opened files, unwinding tables, symbols.
#[derive(Debug, Default)]
pub struct Stacks {
    images: Images,
    /// Most recently used last.
    processes: Vec<(Pid, Unwinding)>,
}

impl Stacks {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens and indexes what the first stack of a process would otherwise have to: the largest of its code.
    pub fn prepare(&mut self, pid: Pid, limits: Limits) -> Result<(), NativeError> {
        let maps = Maps::read(pid)?;
        let mut unwinding = self.take(pid);
        unwinding.check(&maps);
        let mut largest: Vec<_> = maps.executable().filter(|code| code.inode != 0).collect();
        largest.sort_by_key(|code| std::cmp::Reverse(code.end - code.start));
        let places: Vec<_> = largest
            .iter()
            .take(PREPARED)
            .map(|code| code.start)
            .collect();
        for code in largest.into_iter().take(PREPARED) {
            unwinding.learn(pid, &maps, code, &mut self.images);
        }
        // The first name asked for makes the index of all.
        symbols::name(pid, &places, &maps, &unwinding, limits);
        self.keep(pid, unwinding);
        Ok(())
    }

    /// The stack of a thread that was seen with these registers.
    pub fn read(
        &mut self,
        pid: Pid,
        tid: Tid,
        registers: &Registers,
        limits: Limits,
    ) -> Result<NativeStack, NativeError> {
        let maps = Maps::read(pid)?;
        let mut memory = Memory::of(pid, registers, limits.stack_bytes);
        let mut unwinding = self.take(pid);
        unwinding.check(&maps);
        let walk = unwinding.walk(
            pid,
            registers,
            limits.frames,
            &maps,
            &mut self.images,
            &mut memory,
        );
        let error = memory.take_error().filter(|_| walk.places.len() < 2);
        let still = error.map_or_else(|| check_still(pid, tid, registers), Err);
        let mut frames = match still {
            Ok(()) => symbols::name(pid, &walk.places, &maps, &unwinding, limits),
            Err(_) => Vec::new(),
        };
        self.keep(pid, unwinding);
        still?;
        let mut cut = walk.cut;
        if frames.len() > limits.frames {
            frames.truncate(limits.frames);
            cut = Some(format!("more than {} frames", limits.frames));
        }
        Ok(NativeStack { frames, cut })
    }

    /// Forgets a process that has ended.
    pub fn forget(&mut self, pid: Pid) {
        self.processes.retain(|(known, _)| *known != pid);
    }

    fn take(&mut self, pid: Pid) -> Unwinding {
        let place = self.processes.iter().position(|(known, _)| *known == pid);
        place.map_or_else(Unwinding::default, |place| self.processes.remove(place).1)
    }

    fn keep(&mut self, pid: Pid, unwinding: Unwinding) {
        if self.processes.len() >= KEPT_PROCESSES {
            self.processes.remove(0);
        }
        self.processes.push((pid, unwinding));
    }
}

/// A blocked thread's stack was read bit by bit: that is one stack only if it has not run meanwhile.
fn check_still(pid: Pid, tid: Tid, registers: &Registers) -> Result<(), NativeError> {
    let Some(switches) = registers.switches else {
        return Ok(());
    };
    let path = format!("/proc/{pid}/task/{tid}/status");
    let status = std::fs::read_to_string(path).map_err(|_| NativeError::Gone { pid, tid })?;
    if switches_in(&status) == Some(switches) {
        Ok(())
    } else {
        Err(NativeError::Moved { tid })
    }
}

/// Context switches, of both kinds.
fn switches_in(status: &str) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(number("voluntary_ctxt_switches:")? + number("nonvoluntary_ctxt_switches:")?)
}

#[cfg(test)]
mod tests;
