//! Python processes for tests of stacks, and the helper that reads them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use loopwarden::evidence::helper::{Found, Helper, Outcome, Request, Want};
use loopwarden::pipeline::{Frame, Pid, Tid};
use loopwarden::proc;
use rustix::process::{Pid as RawPid, PidfdFlags, Signal};

/// Far more than anything takes: only a hang reaches it.
pub const LIMIT: Duration = Duration::from_mins(1);
/// Debian's own interpreter.
pub const PYTHON: &str = "/usr/bin/python3";

/// Where a script of the tests is.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/evidence_stacks")
        .join(name)
}

/// The number of the line of `stalls.py` that is marked with a word.
pub fn marked(word: &str) -> u32 {
    let text = std::fs::read_to_string(script("stalls.py")).unwrap();
    let mark = format!("# here {word}");
    let line = text.lines().position(|line| line.ends_with(&mark)).unwrap();
    u32::try_from(line).unwrap() + 1
}

/// A running script, ended with the value.
#[derive(Debug)]
pub struct Script {
    child: Child,
    /// Kept open: whoever writes to a pipe without a reader is ended.
    _stdout: BufReader<ChildStdout>,
    /// A process that it started.
    grandchild: Option<u32>,
}

impl Script {
    /// Runs a command, and waits until it says that it is ready.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut said).unwrap();
        assert!(said.starts_with("ready"), "{command:?} said {said:?}");
        let words: Vec<_> = said.split_whitespace().collect();
        let grandchild = words.get(1).and_then(|word| word.parse().ok());
        Self {
            child,
            _stdout: stdout,
            grandchild: grandchild.filter(|id| *id != 0),
        }
    }

    /// A stall of `stalls.py` in Debian's interpreter with its own loop.
    pub fn stall(name: &str) -> Self {
        let mut command = Command::new(PYTHON);
        Self::start(command.arg(script("stalls.py")).args([name, "asyncio"]))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended, and leaves it unreaped.
    pub fn kill(&self) {
        signal(self.pid(), Signal::KILL);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(id) = self.grandchild {
            signal(id, Signal::KILL);
        }
    }
}

/// Signals a process that the test started.
#[expect(
    clippy::disallowed_methods,
    reason = "the test's own process, whose id cannot be reused while the test has not reaped it"
)]
pub fn signal(id: u32, signal: Signal) {
    let pid = RawPid::from_raw(id.cast_signed()).unwrap();
    if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        // It may have ended by itself, which is as good.
        let _ = rustix::process::pidfd_send_signal(pidfd, signal);
    }
}

/// A helper of the program under test.
pub fn helper() -> Helper {
    Helper::of(Path::new(env!("CARGO_BIN_EXE_loopwarden")))
}

pub fn request(pid: u32, want: Want) -> Request {
    let stat = proc::stat(Pid(pid)).unwrap();
    Request {
        pid: Pid(pid),
        start_ns: proc::start_ns(&stat),
        want,
    }
}

pub fn stack(tid: u32) -> Want {
    Want::Stack {
        tid: Tid(tid),
        registers: None,
    }
}

/// The stack of a process's first thread.
pub fn ask(helper: &mut Helper, pid: u32) -> Outcome {
    helper
        .ask(&request(pid, stack(pid)), LIMIT)
        .unwrap()
        .outcome
}

/// The same, asked again until it is as wanted: between saying that it is ready and the call that blocks, the thread is elsewhere.
pub fn until(
    helper: &mut Helper,
    pid: u32,
    what: &str,
    is_wanted: impl Fn(&Found) -> bool,
) -> Found {
    let mut last = None;
    for _ in 0..2000 {
        match ask(helper, pid) {
            Outcome::Found(found) if is_wanted(&found) => return *found,
            other => last = Some(other),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("process {pid} never shows {what}; the last answer was {last:?}");
}

/// The innermost frame of a stack that is in this file.
pub fn innermost_in<'a>(found: &'a Found, file: &str) -> Option<&'a Frame> {
    let is_in = |frame: &&Frame| {
        let path = frame.file.as_deref().unwrap_or_default();
        Path::new(path).ends_with(file)
    };
    found.stack.frames.iter().find(is_in)
}
