//! One process: found once, read when asked.

use super::error::Error;
use super::frames::Stack;
use super::gil::GilState;
use super::image::{self, Interpreter, Maps};
use super::memory::Memory;
use super::object::Objects;
use super::threads::{self, ThreadState};
use crate::pipeline::{Frame, Pid, Tid};

/// Threads of a process whose ids are translated.
const TASKS: usize = 4096;

/// A process that runs CPython.
#[derive(Debug)]
pub struct Python {
    pid: Pid,
    memory: Memory,
    interpreter: Interpreter,
    musl: bool,
}

/// A program that a process runs: another one in the same process is another.
#[derive(Debug)]
pub struct Program(Memory);

impl Program {
    /// What the process runs now.
    pub fn of(pid: Pid) -> Result<Self, Error> {
        Memory::open(pid).map(Self)
    }

    /// Whether the process still runs it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.is_alive()
    }
}

/// A thread and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its id as the agent sees it.
    pub tid: Tid,
    /// Its stack.
    pub stack: Stack,
}

/// The interpreter lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gil {
    /// The thread that holds it, if one does.
    pub holder: Option<Tid>,
    /// Where that thread is, if it is another one than was asked about.
    pub frame: Option<Frame>,
    /// Whether the thread asked about sleeps because it wants it.
    pub is_wanted: bool,
}

impl Python {
    /// Finds the interpreter of a process. Its memory stays that of the program that runs now.
    pub fn find(pid: Pid) -> Result<Self, Error> {
        let memory = Memory::open(pid)?;
        let maps = Maps::read(pid)?;
        let interpreter = image::find(&memory, &maps)?;
        Ok(Self {
            pid,
            memory,
            interpreter,
            musl: maps.musl,
        })
    }

    /// `CPython 3.11`.
    #[must_use]
    pub fn version(&self) -> String {
        format!("CPython 3.{}", self.interpreter.layout.minor)
    }

    /// Whether the process still runs the program in which the interpreter was found.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.memory.is_alive()
    }

    /// A new request begins, with a new allowance of reads.
    pub fn begin(&self) {
        self.memory.refill();
    }

    /// The stack of a thread.
    pub fn stack(&self, tid: Tid) -> Result<Stack, Error> {
        let native = self.native(tid)?;
        self.objects().stack(|| self.state(native, tid))
    }

    /// Who holds the interpreter lock, while thread `tid` sleeps in a futex at that address, or in none.
    pub fn gil(&self, tid: Tid, futex: Option<u64>) -> Result<Gil, Error> {
        let state = self.state(self.native(tid)?, tid)?;
        let gil = GilState::read(&self.memory, &self.interpreter, state.interpreter)?;
        let is_wanted = futex.is_some_and(|futex| gil.contains(futex));
        let states = threads::list(&self.memory, &self.interpreter, self.musl)?;
        let holder = states.into_iter().find(|state| state.at == gil.holder);
        let holder_tid = holder.and_then(|holder| self.tid(holder.native));
        let frame = match (holder, holder_tid) {
            (Some(holder), Some(other)) if other != tid => {
                let stack = self.objects().stack(|| self.state(holder.native, other));
                stack.ok().and_then(|stack| stack.frames.into_iter().next())
            }
            _ => None,
        };
        Ok(Gil {
            holder: holder_tid,
            frame,
            is_wanted,
        })
    }

    /// The thread that holds the lock that thread `tid` waits for, asleep on a futex at that address, where that can be shown.
    pub fn lock_holder(&self, tid: Tid, futex: u64) -> Result<Option<Thread>, Error> {
        let state = self.state(self.native(tid)?, tid)?;
        let Some(place) = self.objects().innermost(state)? else {
            return Ok(None);
        };
        let Some(owner) = self.objects().lock_owner(place, futex)? else {
            return Ok(None);
        };
        let states = threads::list(&self.memory, &self.interpreter, self.musl)?;
        let Some(holder) = states.into_iter().find(|state| state.ident == owner) else {
            return Ok(None);
        };
        let Some(other) = self.tid(holder.native).filter(|other| *other != tid) else {
            return Ok(None);
        };
        let stack = self.objects().stack(|| self.state(holder.native, other))?;
        // Read last: had the lock gone to another thread meanwhile, this one would be shown for nothing.
        if self.objects().lock_owner(place, futex)? != Some(owner) {
            return Ok(None);
        }
        Ok(Some(Thread { tid: other, stack }))
    }

    fn objects(&self) -> Objects<'_> {
        Objects {
            memory: &self.memory,
            python: &self.interpreter,
        }
    }

    fn state(&self, native: u32, tid: Tid) -> Result<ThreadState, Error> {
        threads::list(&self.memory, &self.interpreter, self.musl)?
            .into_iter()
            .find(|state| state.native == native)
            .ok_or(Error::NoThread(tid))
    }

    /// The id of a thread in the process's own PID namespace, which is what the interpreter knows.
    fn native(&self, tid: Tid) -> Result<u32, Error> {
        let path = format!("/proc/{}/task/{tid}/status", self.pid);
        let status = std::fs::read(&path).map_err(|source| Error::File { path, source })?;
        innermost_id(&String::from_utf8_lossy(&status)).ok_or(Error::NoThread(tid))
    }

    /// The way back: which thread has that id.
    fn tid(&self, native: u32) -> Option<Tid> {
        if self.native(Tid(native)).ok() == Some(native) {
            return Some(Tid(native));
        }
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        tasks
            .take(TASKS)
            .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok().map(Tid))
            .find(|tid| self.native(*tid).ok() == Some(native))
    }
}

fn innermost_id(status: &str) -> Option<u32> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
}
