//! Which processes are interpreters, and where their own data lies, found out when a loop is recognised.
//!
//! `/proc/PID/maps` waits for a lock of the process's memory, which a process that hangs in a page fault can hold for good.
//! So it is read on a thread of its own, which may hang with it: then nothing more is found out, and waits in futex are
//! `lock_wait` or `unknown` where they might have been `gil_wait`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use crate::pipeline::interpreter::{Interpreter, Word};
use crate::pipeline::{Pid, PidKey};
use crate::proc;

/// Processes that may wait to be read.
const QUEUE: usize = 256;
/// A process with many libraries has some thousands of mappings of about 100 bytes.
const MAX_BYTES: u64 = 8 << 20;
/// Libraries and the executable: more mappings of an interpreter's data there are not.
const MOST_MAPPINGS: usize = 16;

/// What is known, shared by the thread that reads and those that ask.
#[derive(Debug, Clone)]
pub(super) struct Interpreters {
    known: Arc<Mutex<HashMap<Pid, (PidKey, Interpreter)>>>,
    unread: SyncSender<PidKey>,
}

impl Interpreters {
    /// Starts the thread that reads; it ends when nobody can ask any more.
    pub(super) fn start() -> std::io::Result<Self> {
        let known = Arc::new(Mutex::new(HashMap::new()));
        let (unread, inbox) = sync_channel::<PidKey>(QUEUE);
        let table = known.clone();
        std::thread::Builder::new()
            .name("evidence-maps".into())
            .spawn(move || {
                while let Ok(process) = inbox.recv() {
                    let found = read(process.pid);
                    table
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(process.pid, (process, found));
                }
            })?;
        Ok(Self { known, unread })
    }

    /// Has a process looked up, unless it is known.
    pub(super) fn look_up(&self, process: PidKey) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&process.pid).map(|(key, _)| *key) == Some(process) {
            return;
        }
        drop(known);
        if self.unread.try_send(process).is_err() {
            log::warn!(
                "it is not looked up whether process {} is an interpreter: the thread that reads maps does not get on",
                process.pid
            );
        }
    }

    pub(super) fn forget(&self, pid: Pid) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pid);
    }

    /// Whose word an address is. Never waits: who asks may not.
    pub(super) fn word(&self, process: PidKey, address: u64) -> Word {
        let known = match self.known.try_lock() {
            Ok(known) => known,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Word::Unknown,
        };
        match known.get(&process.pid) {
            Some((key, interpreter)) if key.matches(process) => interpreter.word(address),
            _ => Word::Unknown,
        }
    }
}

fn read(pid: Pid) -> Interpreter {
    let exe = proc::exe_name(pid).unwrap_or_default();
    let path = format!("/proc/{pid}/maps");
    match File::open(&path) {
        Ok(file) => interpreter(&exe, BufReader::new(file.take(MAX_BYTES))),
        Err(error) => {
            log::debug!("{path} could not be read: {error}");
            if is_python(&exe) {
                Interpreter::Python { data: Vec::new() }
            } else {
                Interpreter::Unknown
            }
        }
    }
}

/// Goes through the mappings: those of the interpreter that can be written, and the nameless one right behind each, which
/// holds what is zero at the start.
fn interpreter(exe: &str, mut maps: impl std::io::BufRead) -> Interpreter {
    let mut python = is_python(exe);
    let mut data: Vec<(u64, u64)> = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        match maps.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Interpreter::Unknown,
        }
        let text = String::from_utf8_lossy(&line);
        let Some((start, end, writable, path)) = mapping(&text) else {
            continue;
        };
        let file = path.rsplit('/').next().unwrap_or_default();
        let own = is_library(file) || (is_python(file) && file == exe);
        python |= own;
        let behind = path.is_empty() && data.last().is_some_and(|(_, last)| *last == start);
        if writable && (own || behind) && data.len() < MOST_MAPPINGS {
            data.push((start, end));
        }
    }
    if python {
        Interpreter::Python { data }
    } else {
        Interpreter::None
    }
}

/// Start, end, whether it can be written, path.
fn mapping(line: &str) -> Option<(u64, u64, bool, &str)> {
    let line = line.trim_end_matches('\n');
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let writable = rest.as_bytes().get(1) == Some(&b'w');
    // Rights, offset, device, inode, and then the path, which may hold spaces.
    let mut path = rest;
    for _ in 0..4 {
        path = path.trim_start_matches(' ');
        path = path.split_once(' ').map_or("", |(_, rest)| rest);
    }
    let path = path.trim_start_matches(' ');
    Some((
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
        writable,
        path.strip_suffix(" (deleted)").unwrap_or(path),
    ))
}

/// `python`, `python3`, `python3.12`.
fn is_python(file: &str) -> bool {
    file.strip_prefix("python")
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// `libpython3.12.so.1.0`; not `libpython3.so`, which has no data of its own.
fn is_library(file: &str) -> bool {
    file.strip_prefix("libpython3.")
        .is_some_and(|rest| rest.contains(".so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00420000 r--p 00000000 fe:00 1063 /usr/bin/python3.11
00a40000-00b90000 rw-p 00640000 fe:00 1063 /usr/bin/python3.11
00b90000-00bd0000 rw-p 00000000 00:00 0 
01000000-02000000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000100000 rw-p 00000000 00:00 0 
7f0000200000-7f0000300000 rw-p 00000000 fe:00 77 /usr/lib/x/libc.so.6
7f0000300000-7f0000310000 rw-p 00000000 00:00 0 
";

    #[test]
    fn the_interpreters_own_data_is_found() {
        let python = interpreter("python3.11", MAPS.as_bytes());
        let data = vec![(0x00a4_0000, 0x00b9_0000), (0x00b9_0000, 0x00bd_0000)];
        assert_eq!(python, Interpreter::Python { data });
        // An executable that merely runs beside a python's file, and one that carries the library.
        assert_eq!(interpreter("node", MAPS.as_bytes()), Interpreter::None);
        let embedded = "7f00-7fff rw-p 0 fe:00 9 /opt/a b/libpython3.9.so.1.0 (deleted)\n";
        assert_eq!(
            interpreter("uwsgi", embedded.as_bytes()),
            Interpreter::Python {
                data: vec![(0x7f00, 0x7fff)]
            }
        );
        assert_eq!(
            interpreter("x", b"\xff\n\nnonsense\n".as_slice()),
            Interpreter::None
        );
    }

    #[test]
    fn names_of_interpreters() {
        let table = [
            ("python", true),
            ("python3.12", true),
            ("python3.11-config", false),
            ("pythonista", false),
            ("node", false),
        ];
        for (name, expected) in table {
            assert_eq!(is_python(name), expected, "{name}");
        }
    }

    #[test]
    fn a_process_is_looked_up_once_and_forgotten() {
        let interpreters = Interpreters::start().unwrap();
        let own = PidKey {
            pid: Pid(std::process::id()),
            start_ns: 1,
        };
        interpreters.look_up(own);
        while interpreters.word(own, 0x1000) == Word::Unknown {
            std::thread::yield_now();
        }
        assert_eq!(interpreters.word(own, 0x1000), Word::Plain);
        interpreters.forget(own.pid);
        assert_eq!(interpreters.word(own, 0x1000), Word::Unknown);
    }
}
