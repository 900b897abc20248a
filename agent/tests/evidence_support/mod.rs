//! Python processes for tests of stacks, and the helper that reads them.
#![expect(
    clippy::unwrap_used,
    reason = "a test's preparation: a panic is its failure"
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use loopwarden::evidence::helper::{Found, Helper, Outcome, Request, Want};
use loopwarden::pipeline::{Pid, Tid};
use loopwarden::proc;

/// Far more than anything takes: only a hang reaches it.
pub const LIMIT: Duration = Duration::from_mins(1);

/// What every script begins with: `ready()` says that it has come this far, on a thread that then goes on.
const PRELUDE: &str = "import sys, os
def ready(*words):
    sys.stdout.write(' '.join(map(str, ('ready',) + words)) + '\\n'); sys.stdout.flush()
";

/// A running script. Ended with the value.
#[derive(Debug)]
pub struct Script {
    child: Child,
    /// What it said with `ready`.
    pub words: Vec<String>,
    /// Number of the line marked `# here`.
    line: Option<u32>,
    _folder: tempfile::TempDir,
}

impl Script {
    /// Runs a script with Debian's Python, and waits until it is ready.
    pub fn start(text: &str) -> Self {
        Self::start_with(&mut Command::new("/usr/bin/python3"), text)
    }

    /// The same with another interpreter: the script's path is its last argument.
    pub fn start_with(command: &mut Command, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script.py");
        let text = format!("{PRELUDE}{text}");
        std::fs::write(&path, &text).unwrap();
        let line = text.lines().position(|line| line.ends_with("# here"));
        Self::run(command.arg(&path), folder, line)
    }

    fn run(command: &mut Command, folder: tempfile::TempDir, line: Option<usize>) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        assert!(
            said.starts_with("ready"),
            "the script ended early: {said:?}"
        );
        let words = said.split_whitespace().skip(1).map(str::to_owned).collect();
        Self {
            child,
            words,
            line: line.map(|line| u32::try_from(line).unwrap() + 1),
            _folder: folder,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The innermost frame is this function, at the marked line.
    pub fn assert_innermost(&self, found: &Found, function: &str) {
        let innermost = found.stack.frames.first().expect("a frame");
        assert_eq!(innermost.function, function, "{found:?}");
        assert_eq!(innermost.line, self.line, "{found:?}");
        let file = innermost.file.as_deref().unwrap_or_default();
        assert!(Path::new(file).ends_with("script.py"), "{file}");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// The stack of a thread, as soon as the thread sleeps: between saying that it is ready and the call that blocks, it is elsewhere.
pub fn ask_stack(helper: &mut Helper, pid: u32, tid: u32) -> Found {
    wait_for_sleep(pid, tid);
    match helper
        .ask(&request(pid, stack(tid)), LIMIT)
        .unwrap()
        .outcome
    {
        Outcome::Found(found) => *found,
        other => panic!("{other:?}"),
    }
}

/// Waits until a thread sleeps in the kernel.
fn wait_for_sleep(pid: u32, tid: u32) {
    // A sleeping thread is one that was seen asleep without having been on a CPU in between.
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap();
        status
            .lines()
            .filter(|line| line.contains("ctxt_switches") || line.starts_with("State:"))
            .collect::<String>()
    };
    for _ in 0..60_000 {
        let before = switches();
        std::thread::sleep(Duration::from_millis(1));
        if before.contains("(sleeping)") && before == switches() {
            return;
        }
    }
    panic!("thread {tid} of process {pid} never sleeps");
}
