//! The user registers of a thread, without stopping it.
//!
//! A blocked or preempted thread has left them on its kernel stack: a BPF task iterator reads them there, and
//! `/proc/PID/task/TID/syscall` shows two of them where BPF is refused. What a running thread has saved last is old, so it is
//! sampled for a short time (`samples`). Each way that fails gives room to the next, and the error tells about all.

use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use aya::maps::{Array, MapData};
use aya::programs::{Iter, ProgramFd};
use aya::{Btf, Ebpf};
use loopwarden_abi::{RegisterFacts, ThreadRegisters, names};

use super::error::KernelError;
use super::plain::read_plain;
use super::plan::Verdict;
use super::samples;
use super::thread_call;
use crate::pipeline::registers::Registers;
use crate::pipeline::{Pid, Tid};

/// Reads registers; one owner, on a thread that may wait for some 50 ms.
#[derive(Debug)]
pub struct RegisterReader {
    iterator: Option<Iterator>,
}

/// Why there are no registers.
#[derive(Debug, thiserror::Error)]
pub enum RegistersError {
    /// It runs, and could not be sampled.
    #[error("thread {tid} is running, and sampling it failed: {error}")]
    Running {
        /// Which.
        tid: Tid,
        /// What came back.
        error: io::Error,
    },
    /// It is gone, or belongs to another process by now.
    #[error("process {pid} has no thread {tid} any more")]
    Gone {
        /// The process.
        pid: Pid,
        /// The thread.
        tid: Tid,
    },
    /// The kernel refused.
    #[error("reading the registers of thread {tid} failed: {error}")]
    Failed {
        /// Which.
        tid: Tid,
        /// What was tried, and what came back.
        error: String,
    },
    /// A program for another instruction set.
    #[error("thread {tid} runs 32-bit code, whose stacks are not read")]
    NotNative {
        /// Which.
        tid: Tid,
    },
}

impl RegisterReader {
    /// One that has only procfs and sampling.
    #[must_use]
    pub fn without_bpf() -> Self {
        Self { iterator: None }
    }

    /// Takes its programs and map out of the loaded object. The verdict says whether BPF will be used.
    pub(super) fn new(ebpf: &mut Ebpf, btf: &Btf) -> (Self, Verdict) {
        match Iterator::new(ebpf, btf) {
            Ok(iterator) => (
                Self {
                    iterator: Some(iterator),
                },
                Verdict::Ok,
            ),
            Err(error) => (
                Self::without_bpf(),
                Verdict::Unsupported(format!(
                    "{error}. Frame pointers of blocked threads are not known"
                )),
            ),
        }
    }

    /// Where a thread is: one reading if it is blocked, a few if it runs, innermost state of each. Waits for 50 ms at most, and
    /// only for a running thread.
    pub fn read(&mut self, pid: Pid, tid: Tid) -> Result<Vec<Registers>, RegistersError> {
        if let Some(registers) = self.saved(pid, tid, Trust::Blocked)? {
            return Ok(vec![registers]);
        }
        let error = match samples::take(tid) {
            Ok(samples) if !samples.is_empty() => return Ok(samples),
            Ok(_) => io::Error::other("it was not seen on a CPU"),
            Err(error) => error,
        };
        // It has blocked meanwhile, or is not given a CPU: then what it saved holds until it is.
        match self.saved(pid, tid, Trust::OffCpu)? {
            Some(registers) => Ok(vec![registers]),
            None => Err(RegistersError::Running { tid, error }),
        }
    }

    /// What the kernel has saved; nothing if that is not to be trusted.
    fn saved(
        &mut self,
        pid: Pid,
        tid: Tid,
        trust: Trust,
    ) -> Result<Option<Registers>, RegistersError> {
        if let Some(iterator) = &mut self.iterator {
            match iterator.read(tid) {
                Ok(Some(found)) if found.tgid == pid.0 => return decode(&found, trust),
                Ok(_) => return Err(RegistersError::Gone { pid, tid }),
                Err(error) => {
                    log::debug!("registers of thread {tid} through BPF: {error}; trying procfs");
                }
            }
        }
        from_procfs(pid, tid)
    }
}

/// `/proc/PID/task/TID/syscall`: stack pointer and instruction only.
fn from_procfs(pid: Pid, tid: Tid) -> Result<Option<Registers>, RegistersError> {
    let place =
        thread_call::thread_place(pid, tid).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => RegistersError::Gone { pid, tid },
            _ => RegistersError::Failed {
                tid,
                error: format!("/proc/{pid}/task/{tid}/syscall: {error}"),
            },
        })?;
    Ok(place.map(|(sp, ip)| Registers {
        ip,
        sp,
        fp: None,
        lr: None,
        switches: None,
        stack: None,
    }))
}

/// Which threads' saved registers are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Those that wait for something: they will stay where they are while their stack is read.
    Blocked,
    /// Also those that could run and do not.
    OffCpu,
}

fn decode(found: &ThreadRegisters, trust: Trust) -> Result<Option<Registers>, RegistersError> {
    let tid = Tid(found.tid);
    if trust == Trust::Blocked && found.state == 0 {
        return Ok(None);
    }
    if found.on_cpu != 0 || found.switches != found.switches_after {
        return Ok(None);
    }
    if found.read == 0 {
        return Err(RegistersError::Failed {
            tid,
            error: "the kernel stack could not be read".into(),
        });
    }
    let word = |place: usize| {
        let at = place * 8;
        let bytes = found.registers.get(at..at + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    let decoded = machine::decode(&word).unwrap_or(machine::Decoded::NotUser);
    match decoded {
        machine::Decoded::User { ip, sp, fp, lr } => Ok(Some(Registers {
            ip,
            sp,
            fp: Some(fp),
            lr,
            switches: Some(found.switches),
            stack: None,
        })),
        machine::Decoded::Compat => Err(RegistersError::NotNative { tid }),
        machine::Decoded::NotUser => Err(RegistersError::Failed {
            tid,
            error: "what lies where user registers should be is none".into(),
        }),
    }
}

/// The layout of this machine's registers, and what tells that they are those of a user program.
mod machine {
    pub(super) enum Decoded {
        User {
            ip: u64,
            sp: u64,
            fp: u64,
            lr: Option<u64>,
        },
        #[cfg_attr(
            not(target_arch = "x86_64"),
            expect(dead_code, reason = "arm64 tells by another bit")
        )]
        Compat,
        NotUser,
    }

    /// `struct pt_regs`: r15 … rax, `orig_rax`, rip, cs, flags, rsp, ss.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn decode(word: &impl Fn(usize) -> Option<u64>) -> Option<Decoded> {
        let (ip, segment) = (word(16)?, word(17)? & 0xffff);
        Some(match segment {
            0x33 => Decoded::User {
                ip,
                sp: word(19)?,
                fp: word(4)?,
                lr: None,
            },
            0x23 => Decoded::Compat,
            _ => Decoded::NotUser,
        })
    }

    /// `struct user_pt_regs`: x0 … x30, sp, pc, pstate.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn decode(word: &impl Fn(usize) -> Option<u64>) -> Option<Decoded> {
        let state = word(33)?;
        Some(match state & 0x1f {
            0 => Decoded::User {
                ip: word(32)?,
                sp: word(31)?,
                fp: word(29)?,
                lr: word(30),
            },
            // Bit 4 alone: 32-bit user mode.
            0x10 => Decoded::Compat,
            _ => Decoded::NotUser,
        })
    }
}

/// The loaded program that reads saved registers, and the map that tells it whose.
struct Iterator {
    program: ProgramFd,
    wanted: Array<MapData, u32>,
}

impl fmt::Debug for Iterator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iterator")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl Iterator {
    fn new(ebpf: &mut Ebpf, btf: &Btf) -> Result<Self, KernelError> {
        let program = load_first(ebpf, btf)?;
        let failed = |error: String| KernelError::Map {
            step: "open",
            map: names::WANTED_THREAD.to_owned(),
            error,
        };
        let map = ebpf
            .take_map(names::WANTED_THREAD)
            .ok_or_else(|| failed("the object has none of that name".into()))?;
        let wanted = Array::try_from(map).map_err(|error| failed(error.to_string()))?;
        Ok(Self { program, wanted })
    }

    /// The registers of a thread; `None` if the kernel has none of that id.
    fn read(&mut self, tid: Tid) -> io::Result<Option<ThreadRegisters>> {
        self.wanted.set(0, tid.0, 0).map_err(io::Error::other)?;
        let link = link(self.program.as_fd(), tid)?;
        let mut bytes = Vec::with_capacity(size_of::<ThreadRegisters>());
        std::fs::File::from(open(link.as_fd())?).read_to_end(&mut bytes)?;
        Ok(read_plain(&bytes))
    }
}

/// Loads the better of the two programs that this kernel takes.
fn load_first(ebpf: &mut Ebpf, btf: &Btf) -> Result<ProgramFd, KernelError> {
    let mut refused = KernelError::Load("no program reads registers".into());
    for name in names::READ_REGISTERS {
        let failed =
            |error: &dyn std::error::Error| super::load::program_error("load", name, error);
        let program: &mut Iter = super::load::program(ebpf, name)?;
        let loaded = program.load("task", btf).map_err(|error| failed(&error));
        match loaded {
            Ok(()) => {
                let fd = program.fd().map_err(|error| failed(&error))?;
                return fd.try_clone().map_err(|error| failed(&error));
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Attributes of the call that makes a link, as far as an iterator's.
#[repr(C)]
struct LinkCreate {
    program: i32,
    target: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_bytes: u32,
    pad: u32,
}

/// Binds the iterator to one thread. Kernels before 6.1 do not look at which, and show it all threads: the program
/// itself leaves the others out.
fn link(program: std::os::fd::BorrowedFd<'_>, tid: Tid) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_TRACE_ITER: u32 = 28;
    // `union bpf_iter_link_info`, its member for tasks: tid, pid, pidfd.
    let info = [tid.0, 0, 0, 0];
    let attributes = LinkCreate {
        program: program.as_raw_fd(),
        target: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        info: info.as_ptr() as u64,
        info_bytes: 16,
        pad: 0,
    };
    // SAFETY: the attributes and what they point to live until the call returns, and their sizes are told.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const attributes,
            size_of::<LinkCreate>(),
        )
    };
    owned(fd)
}

/// A file whose content the iterator makes.
fn open(link: std::os::fd::BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const BPF_ITER_CREATE: libc::c_long = 33;
    let attributes = [link.as_raw_fd(), 0];
    // SAFETY: the attributes live until the call returns, and their size is told.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_ITER_CREATE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel half has to know of this kernel; zeroes switch its register programs off.
pub(super) fn facts(types: &super::offsets::KernelTypes) -> RegisterFacts {
    types.register_facts().unwrap_or_else(|error| {
        log::debug!("registers of blocked threads cannot be read through BPF: {error}");
        RegisterFacts::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> (Pid, Tid) {
        let tid = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        (Pid(std::process::id()), Tid(tid))
    }

    #[test]
    fn a_blocked_thread_shows_where_it_is_without_bpf() {
        let (sender, started) = std::sync::mpsc::channel();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            sender.send(own()).unwrap();
            let _ = held.recv();
        });
        let (pid, tid) = started.recv().unwrap();
        let mut reader = RegisterReader::without_bpf();
        let registers = reader.read(pid, tid).unwrap();
        assert!(registers.iter().all(|found| found.ip != 0 && found.sp != 0));
        drop(hold);
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_that_is_gone_is_said_to_be() {
        let (_, tid) = std::thread::spawn(own).join().unwrap();
        let mut reader = RegisterReader::without_bpf();
        let result = reader.read(Pid(std::process::id()), tid);
        assert!(
            matches!(result, Err(RegistersError::Gone { .. })),
            "{result:?}"
        );
    }
}
