//! The processes of the demo: started here, ended here, and gone when the demo is gone.
//!
//! Signals go only to children of this process that have not been waited for, through a pidfd. All processes must be
//! started from the main thread: the kernel's death signal follows the thread that started them.

use std::collections::VecDeque;
use std::fs::{File, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tempfile::TempDir;

use super::role::SUBCOMMAND;

/// Basename of the engine's executable, for the guard's `--engine`.
pub(super) const ENGINE: &str = "demo-query-engine";

/// How much of a process's error output is kept for a message.
const TAIL_LINES: usize = 40;
/// How long to wait for the rest of it.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(500);

/// What the processes need: the program, and a copy of it under the engine's name.
#[derive(Debug)]
pub(super) struct Stage {
    exe: PathBuf,
    folder: TempDir,
}

impl Stage {
    /// Makes the engine's executable.
    ///
    /// A copy, because its name is what the guard matches: `/proc/PID/exe` shows a symbolic link's target, a memory file
    /// as `memfd:… (deleted)`, and a hard link cannot leave the program's own file system.
    pub(super) fn set_up() -> Result<Self> {
        let exe =
            std::env::current_exe().context("finding this program's own file (/proc/self/exe)")?;
        let parent = folder_for_programs();
        let folder = tempfile::Builder::new()
            .prefix("loopwarden-demo-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .with_context(|| {
                format!(
                    "creating a folder in {} (set TMPDIR to another)",
                    parent.display()
                )
            })?;
        let engine = folder.path().join(ENGINE);
        std::fs::copy(&exe, &engine)
            .and_then(|_| std::fs::set_permissions(&engine, Permissions::from_mode(0o700)))
            .with_context(|| format!("copying {} to {}", exe.display(), engine.display()))?;
        Ok(Self { exe, folder })
    }

    /// The engine's executable.
    pub(super) fn engine(&self) -> PathBuf {
        self.folder.path().join(ENGINE)
    }

    /// Starts this program in another role.
    pub(super) fn start(&self, role: &str, arguments: &[String]) -> Result<Actor> {
        let mut child = Command::new(&self.exe)
            .args([
                SUBCOMMAND,
                "--parent",
                &std::process::id().to_string(),
                role,
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for the demo alone, which then ends its processes in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {} as {role}", self.exe.display()))?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a child without process id")?;
        // Ours and not waited for: the number cannot mean another process yet.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .with_context(|| format!("pidfd_open({})", child.id()))?;
        let tail = Tail::default();
        if let Some(stderr) = child.stderr.take() {
            tail.follow(stderr)?;
        }
        Ok(Actor {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            pidfd,
            tail,
        })
    }
}

/// Where programs may be run from: the usual place for temporary files, unless it is mounted `noexec`.
fn folder_for_programs() -> PathBuf {
    let usual = std::env::temp_dir();
    let executable = |folder: &&Path| {
        statvfs(*folder).is_ok_and(|facts| {
            !facts
                .f_flag
                .intersects(StatVfsMountFlags::NOEXEC | StatVfsMountFlags::RDONLY)
        })
    };
    let others = [
        Path::new("/var/tmp"),
        Path::new("/run"),
        Path::new("/dev/shm"),
    ];
    std::iter::once(usual.as_path())
        .chain(others)
        .find(executable)
        .unwrap_or(&usual)
        .to_path_buf()
}

/// A process of the demo. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Actor {
    child: Child,
    pidfd: OwnedFd,
    pub(super) stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    tail: Tail,
}

impl Actor {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; a process that has ended already does not mind.
    #[expect(
        clippy::disallowed_methods,
        reason = "the demo's own child, not yet waited for, through its pidfd"
    )]
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(why) => {
                Err(why).with_context(|| format!("sending {signal:?} to process {}", self.pid()))
            }
        }
    }

    /// Calls `line` on a thread with each line of its output, and with none when that ends.
    pub(super) fn listen(
        &mut self,
        mut line: impl FnMut(Option<String>) + Send + 'static,
    ) -> Result<()> {
        let stdout = self
            .stdout
            .take()
            .context("a process whose output is taken already")?;
        std::thread::Builder::new()
            .name("output".into())
            .spawn(move || {
                for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                    line(Some(text));
                }
                line(None);
            })
            .context("starting a thread that reads a process's output")?;
        Ok(())
    }

    /// Waits at most that long for its end.
    pub(super) fn ended_within(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let limit = Timespec::try_from(limit).context("a time limit out of range")?;
        // A pidfd is readable from the moment of death on.
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit))).context("waiting on a pidfd")?;
        self.child
            .try_wait()
            .with_context(|| format!("waiting for process {}", self.child.id()))
    }

    /// The last of what it wrote to its error output; all of it if it has ended.
    pub(super) fn last_words(&self) -> String {
        let (text, changed) = &*self.tail.0;
        let text = text.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(text, LAST_WORDS_LIMIT, |text| !text.ended);
        let (text, _) = waited.unwrap_or_else(PoisonError::into_inner);
        text.lines
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Nothing is left to tell if this fails: then it is gone.
        let _ = self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The last lines of a stream.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<(Mutex<Text>, Condvar)>);

#[derive(Debug, Default)]
struct Text {
    lines: VecDeque<String>,
    ended: bool,
}

impl Tail {
    fn follow(&self, stream: impl Into<OwnedFd>) -> Result<()> {
        let (tail, stream) = (self.clone(), BufReader::new(File::from(stream.into())));
        let read = move || {
            for line in stream.lines().map_while(std::io::Result::ok) {
                tail.push(line);
            }
            tail.end();
        };
        let thread = std::thread::Builder::new()
            .name("errors".into())
            .spawn(read);
        thread
            .map(drop)
            .context("starting a thread that reads a process's error output")
    }

    fn push(&self, line: String) {
        let mut text = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text.lines.len() == TAIL_LINES {
            text.lines.pop_front();
        }
        text.lines.push_back(line);
    }

    fn end(&self) {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ended = true;
        self.0.1.notify_all();
    }
}
