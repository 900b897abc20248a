//! The helper's side: reads requests until its input ends, answers each.
//!
//! It holds what was found out about processes, so that a stack is quick to read. Must never: keep a descriptor of the agent, grow
//! without bound, or live longer than the agent.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;

use super::confine;
use super::protocol::{
    Answer, Found, GilView, LONGEST_ANSWER, LONGEST_REQUEST, Numbered, Outcome, Request,
    ThreadView, Want,
};
use crate::evidence::native::{Limits, Stacks, mutex_owner};
use crate::evidence::python::{self, Error, Program, Python};
use crate::pipeline::evidence::{Stack, StackKind};
use crate::pipeline::registers::Registers;
use crate::pipeline::{Pid, PidKey, Tid};
use crate::proc;

/// Processes that are held ready. Each costs a descriptor and less than a kilobyte.
const PROCESSES: usize = 512;
/// Options of `loopwarden evidence-helper`.
#[derive(Debug, Parser)]
pub struct Args {
    /// Who started it: with that process it ends.
    #[arg(long)]
    parent: u32,
}

/// Answers requests until standard input ends.
pub fn serve(args: &Args) -> anyhow::Result<u8> {
    confine::confine(args.parent)?;
    let mut server = Server::default();
    let mut input = BufReader::new(io::stdin().lock());
    let mut output = io::stdout().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = LONGEST_REQUEST as u64;
        (&mut input).take(most).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(0);
        }
        let request: Numbered<Request> =
            serde_json::from_slice(&line).context("reading a request from the agent failed")?;
        let answer = Numbered {
            id: request.id,
            what: Answer {
                outcome: server.handle(&request.what),
            },
        };
        let mut text = serde_json::to_vec(&answer)?;
        if text.len() >= LONGEST_ANSWER {
            bail!("an answer of {} bytes is too long to be sent", text.len());
        }
        text.push(b'\n');
        output.write_all(&text)?;
        output.flush()?;
    }
}

/// What a process runs.
#[derive(Debug)]
enum Known {
    Python(Box<Python>),
    /// Something else: its stacks are native ones.
    Other(Program),
}

impl Known {
    fn is_running(&self) -> bool {
        match self {
            Self::Python(python) => python.is_running(),
            Self::Other(program) => program.is_running(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    start_ns: u64,
    known: Known,
    /// Number of the request that used it last.
    used: u64,
}

#[derive(Debug, Default)]
struct Server {
    processes: HashMap<Pid, Entry>,
    native: Stacks,
    requests: u64,
}

impl Server {
    fn handle(&mut self, request: &Request) -> Outcome {
        self.requests += 1;
        let outcome = match &request.want {
            Want::Prepare => self.prepare(request).map(|()| Outcome::Prepared {
                runtime: self.runtime(request.pid),
            }),
            Want::Stack { tid, registers } => self.stack(request, *tid, registers.as_ref()),
            Want::Forget => {
                self.native.forget(request.pid);
                self.processes.remove(&request.pid);
                return Outcome::Forgotten;
            }
        };
        // Every error here names its cause itself.
        outcome.unwrap_or_else(|error| Outcome::Failed {
            why: error.to_string(),
        })
    }

    fn runtime(&self, pid: Pid) -> Option<String> {
        match &self.processes.get(&pid)?.known {
            Known::Python(python) => Some(python.version()),
            Known::Other(_) => None,
        }
    }

    /// Looks at the process unless it is known.
    fn prepare(&mut self, request: &Request) -> anyhow::Result<()> {
        if let Some(entry) = self.processes.get_mut(&request.pid)
            && entry.start_ns == request.start_ns
            && entry.known.is_running()
        {
            entry.used = self.requests;
            return Ok(());
        }
        self.native.forget(request.pid);
        self.processes.remove(&request.pid);
        // First: if the process runs another program a moment later, this one is found to have ended.
        let program = Program::of(request.pid)?;
        let found = Python::find(request.pid);
        // After its memory was opened: what was opened is the process that was meant, or it is not used.
        same_process(request)?;
        let known = match found {
            Ok(python) => Known::Python(Box::new(python)),
            Err(Error::NotPython) => {
                // What cannot be made ready now is tried again with the first stack, which tells why.
                let _ = self.native.prepare(request.pid, Limits::default());
                Known::Other(program)
            }
            Err(error) => return Err(error.into()),
        };
        if self.processes.len() >= PROCESSES {
            let oldest = self.processes.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(pid) = oldest.map(|(pid, _)| *pid) {
                self.processes.remove(&pid);
            }
        }
        let entry = Entry {
            start_ns: request.start_ns,
            known,
            used: self.requests,
        };
        self.processes.insert(request.pid, entry);
        Ok(())
    }

    fn stack(
        &mut self,
        request: &Request,
        tid: Tid,
        registers: Option<&Registers>,
    ) -> anyhow::Result<Outcome> {
        self.prepare(request)?;
        self.known_stack(request.pid, tid, registers)
    }

    fn known_stack(
        &mut self,
        pid: Pid,
        tid: Tid,
        registers: Option<&Registers>,
    ) -> anyhow::Result<Outcome> {
        match self.processes.get(&pid).map(|entry| &entry.known) {
            Some(Known::Python(python)) => match python_stack(python, pid, tid) {
                Ok(found) => Ok(Outcome::Found(Box::new(found))),
                // A thread of its own that a library made, such as a pool's.
                Err(Error::NoThread(_)) if registers.is_some() => {
                    self.native_stack(pid, tid, registers)
                }
                Err(error) => Err(error.into()),
            },
            _ => self.native_stack(pid, tid, registers),
        }
    }

    fn native_stack(
        &mut self,
        pid: Pid,
        tid: Tid,
        registers: Option<&Registers>,
    ) -> anyhow::Result<Outcome> {
        let Some(registers) = registers else {
            bail!("the registers of thread {tid} of process {pid} are not known");
        };
        let stack = self.native.read(pid, tid, registers, Limits::default())?;
        let owner = futex(pid, tid).and_then(|address| mutex_owner(pid, address));
        Ok(Outcome::Found(Box::new(Found {
            runtime: None,
            stack: Stack {
                kind: StackKind::Native,
                frames: stack.frames,
            },
            cut: stack.cut,
            is_moving: false,
            gil: None,
            lock_holder: owner.map(|owner| ThreadView {
                tid: owner,
                name: thread_name(pid, owner),
                stack: None,
            }),
        })))
    }
}

fn same_process(request: &Request) -> anyhow::Result<()> {
    let pid = request.pid;
    let stat = proc::stat(pid).map_err(|error| anyhow!("process {pid} has ended: {error}"))?;
    let found = PidKey {
        pid,
        start_ns: proc::start_ns(&stat),
    };
    let meant = PidKey {
        pid,
        start_ns: request.start_ns,
    };
    if !found.matches(meant) {
        bail!("process {pid} has ended, and its id is another process's now");
    }
    Ok(())
}

fn python_stack(python: &Python, pid: Pid, tid: Tid) -> Result<Found, Error> {
    python.begin();
    let stack = python.stack(tid)?;
    if stack.frames.is_empty() {
        // Known to the interpreter, and in no Python code: it starts, ends, or is a library's.
        return Err(Error::NoThread(tid));
    }
    let futex = futex(pid, tid);
    // Locks are a bonus: without them the stack is as good.
    let gil = python.gil(tid, futex).ok();
    let waits_for_gil = gil.as_ref().is_some_and(|gil| gil.is_wanted);
    let holder = match futex {
        Some(futex) if !waits_for_gil => python.lock_holder(tid, futex).ok().flatten(),
        _ => None,
    };
    Ok(Found {
        runtime: Some(python.version()),
        cut: stack.is_cut.then(|| "too many frames".to_owned()),
        is_moving: stack.is_moving,
        stack: shown(stack),
        gil: gil.map(|gil| gil_view(pid, gil)),
        lock_holder: holder.map(|holder| ThreadView {
            tid: holder.tid,
            name: thread_name(pid, holder.tid),
            stack: Some(shown(holder.stack)),
        }),
    })
}

fn shown(stack: python::Stack) -> Stack {
    Stack {
        kind: StackKind::Python,
        frames: stack.frames,
    }
}

fn gil_view(pid: Pid, gil: python::Gil) -> GilView {
    let state = gil
        .holder
        .and_then(|holder| proc::thread_stat(pid, holder).ok());
    GilView {
        holder: gil.holder,
        is_holder_running: state.is_some_and(|stat| stat.state == 'R'),
        holder_frame: gil.frame,
        is_wanted: gil.is_wanted,
    }
}

/// A thread's name as the kernel has it, empty if it has ended; the process chooses it, so it is made harmless.
fn thread_name(pid: Pid, tid: Tid) -> String {
    let name = std::fs::read(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    name.trim_end_matches('\n').chars().map(plain).collect()
}

/// The address that a thread sleeps on in `futex`.
fn futex(pid: Pid, tid: Tid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    if words.next()?.parse() != Ok(libc::SYS_futex) {
        return None;
    }
    u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()
}
