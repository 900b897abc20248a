//! The agent's side: starts the helper, asks with a time limit, and kills and replaces what does not answer.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::protocol::{Answer, LONGEST_ANSWER, LONGEST_REQUEST, Numbered, Request};

/// Killed helpers that may be on their way out. One that hangs in the kernel cannot be ended by anybody: no more are started then.
const LEAVING: usize = 4;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No helper could be started.
    #[error("starting the helper {program} failed: {source}")]
    Start {
        /// What was started.
        program: String,
        /// What came back.
        source: io::Error,
    },
    /// Too many do not end.
    #[error(
        "{LEAVING} killed helpers have not ended yet: they hang in the kernel, on memory or files of watched processes"
    )]
    Stuck,
    /// It did not answer in time, and was killed.
    #[error("the helper did not answer within {} ms and was killed", .0.as_millis())]
    Late(Duration),
    /// It ended.
    #[error("the helper ended without an answer")]
    Ended,
    /// It answered, but not that.
    #[error("the helper's answer is no answer to what was asked ({0}); it was killed")]
    Malformed(String),
    /// The pipe broke.
    #[error("talking to the helper failed: {0}")]
    Pipe(#[from] io::Error),
}

/// The helper's address. Dropping it ends the helper.
#[derive(Debug)]
pub struct Helper {
    program: PathBuf,
    running: Option<Running>,
    leaving: Vec<Child>,
    /// Number of the last request.
    requests: u64,
    /// Helpers started so far.
    started: u64,
}

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Helper {
    /// The helper of this program. Starts at the first request.
    ///
    /// It ends with the *thread* that made it start, so ask from one thread only.
    #[must_use]
    pub fn new() -> Self {
        // This link names the running program, also after its file was replaced.
        Self::of(Path::new("/proc/self/exe"))
    }

    /// The helper of another build of this program.
    #[must_use]
    pub fn of(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            running: None,
            leaving: Vec::new(),
            requests: 0,
            started: 0,
        }
    }

    /// How many helpers were started: one, and one more for each that had to be replaced.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started
    }

    /// The running helper's process id.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Asks, and waits for the answer at most `limit`.
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Result<Answer, Failure> {
        let now = now();
        let answer = self.exchange(request, now, limit);
        if answer.is_err() {
            self.replace();
        }
        answer
    }

    fn exchange(
        &mut self,
        request: &Request,
        asked: Instant,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        self.requests += 1;
        let id = self.requests;
        let numbered = Numbered { id, what: request };
        let mut text = serde_json::to_vec(&numbered).map_err(io::Error::from)?;
        text.push(b'\n');
        if text.len() > LONGEST_REQUEST {
            return Err(Failure::Malformed("the request is too long".into()));
        }
        let running = self.running()?;
        // Requests are far shorter than a pipe is deep, and only one is on its way: this does not block.
        running.input.write_all(&text)?;
        let line = read_line(&mut running.output, asked, limit)?;
        let answer: Numbered<Answer> =
            serde_json::from_slice(&line).map_err(|error| Failure::Malformed(error.to_string()))?;
        if answer.id != id {
            return Err(Failure::Malformed(format!("number {}", answer.id)));
        }
        Ok(answer.what)
    }

    fn running(&mut self) -> Result<&mut Running, Failure> {
        self.reap();
        let running = match self.running.take() {
            Some(running) => running,
            None if self.leaving.len() >= LEAVING => return Err(Failure::Stuck),
            None => {
                self.started += 1;
                start(&self.program)?
            }
        };
        Ok(self.running.insert(running))
    }

    /// Kills the helper; the next request starts another. Never waits: one that hangs in the kernel ends when that lets it.
    fn replace(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It can only have ended by itself, which is as good.
            let _ = running.child.kill();
            self.leaving.push(running.child);
        }
        self.reap();
    }

    fn reap(&mut self) {
        self.leaving
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

impl Default for Helper {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.replace();
    }
}

fn start(program: &Path) -> Result<Running, Failure> {
    let failed = |source| Failure::Start {
        program: program.display().to_string(),
        source,
    };
    // It reads a process's secrets at most; of the agent's own it gets none: the environment may hold credentials.
    let mut child = Command::new(program)
        .args(["evidence-helper", "--parent"])
        .arg(std::process::id().to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(input), Some(output)) => Ok(Running {
            child,
            input,
            output,
        }),
        _ => Err(failed(io::Error::other("it has no pipes"))),
    }
}

/// Reads one line, at most until `limit` after `asked`.
fn read_line(
    output: &mut ChildStdout,
    asked: Instant,
    limit: Duration,
) -> Result<Vec<u8>, Failure> {
    let mut line = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let left = limit.saturating_sub(now().duration_since(asked));
        let wait = Timespec::try_from(left).unwrap_or_default();
        let mut polled = [PollFd::new(&*output, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&wait)) {
            Ok(0) => return Err(Failure::Late(limit)),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(Failure::Pipe(error.into())),
        }
        let got = output.read(&mut buffer)?;
        if got == 0 {
            return Err(Failure::Ended);
        }
        line.extend_from_slice(&buffer[..got]);
        if line.len() > LONGEST_ANSWER {
            return Err(Failure::Malformed("it is too long".into()));
        }
        if line.last() == Some(&b'\n') {
            return Ok(line);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a time limit of a read, not a fact about a stall"
)]
fn now() -> Instant {
    Instant::now()
}
