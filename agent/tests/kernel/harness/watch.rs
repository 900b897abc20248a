//! The real agent, and its lines as they come.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use super::line::Line;
use super::victim::Victim;
use super::{alive, limit};
use crate::sys;

/// How a test's agent is started.
#[derive(Debug, Default)]
pub(crate) struct Options<'a> {
    /// Further arguments of `watch`.
    pub(crate) arguments: &'a [&'a str],
    /// `LOOPWARDEN_PLAN`.
    pub(crate) plan: Option<&'a str>,
    /// The folder of locks and budgets of another agent.
    pub(crate) run_dir: Option<&'a Path>,
}

/// A running `loopwarden watch --json`.
pub(crate) struct Agent {
    child: Child,
    readers: Readers,
    errors: Option<std::thread::JoinHandle<String>>,
    run_dir: TempDir,
}

/// Everybody who reads an agent's lines.
#[derive(Clone, Default)]
struct Readers(Arc<Mutex<Vec<Sender<Told>>>>);

/// A line, or why there is none.
type Told = Result<Line, String>;

impl Readers {
    fn add(&self) -> Watch {
        let (sender, lines) = channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        Watch {
            lines,
            seen: Vec::new(),
            focus: None,
        }
    }

    fn tell(&self, line: &Told) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|reader| reader.send(line.clone()).is_ok());
    }

    fn end(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// The agent's binary.
pub(crate) fn binary() -> std::ffi::OsString {
    std::env::var_os("LOOPWARDEN_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_loopwarden").to_owned().into())
}

impl Agent {
    /// Starts it on processes; the first reader misses no line.
    pub(crate) fn start(pids: &[u32], options: &Options<'_>) -> Result<(Self, Watch)> {
        let mut command = Command::new(binary());
        command.args(["watch", "--json"]).args(options.arguments);
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        match options.plan {
            Some(plan) => command.env("LOOPWARDEN_PLAN", plan),
            None => command.env_remove("LOOPWARDEN_PLAN"),
        };
        Self::spawn(command, options.run_dir)
    }

    /// Starts it with a command of its own to watch.
    pub(crate) fn start_command(
        arguments: &[&str],
        command_line: &[&str],
    ) -> Result<(Self, Watch)> {
        let mut command = Command::new(binary());
        command
            .args(["watch", "--json"])
            .args(arguments)
            .arg("--")
            .args(command_line);
        Self::spawn(command, None)
    }

    fn spawn(mut command: Command, shared: Option<&Path>) -> Result<(Self, Watch)> {
        // Only root may write it, as the agent wants it.
        let run_dir = tempfile::tempdir().context("no folder for locks and budgets")?;
        command.env("LOOPWARDEN_RUN_DIR", shared.unwrap_or(run_dir.path()));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the agent")?;
        let out = child.stdout.take().context("no stdout")?;
        let mut err = child.stderr.take().context("no stderr")?;
        let readers = Readers::default();
        let first = readers.add();
        let told = readers.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let line = line
                    .context("cannot read the agent's lines")
                    .and_then(|line| Line::parse(&line));
                told.tell(&line.map_err(|error| format!("{error:#}")));
            }
            told.end();
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read cannot help to explain a failure.
            let _ = err.read_to_string(&mut text);
            text
        });
        Ok((
            Self {
                child,
                readers,
                errors: Some(errors),
                run_dir,
            },
            first,
        ))
    }

    /// Another reader, from here on.
    pub(crate) fn reader(&self) -> Watch {
        self.readers.add()
    }

    /// Its folder of locks and budgets.
    pub(crate) fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    /// Asks it to end.
    pub(crate) fn interrupt(&self) -> Result<()> {
        alive::signal(self.child.id(), libc::SIGINT)
    }

    /// Waits for its end. Returns how it ended and what it wrote for people.
    pub(crate) fn status(&mut self) -> Result<(ExitStatus, String)> {
        let status = self.child.wait().context("cannot wait for the agent")?;
        let errors = self
            .errors
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        Ok((status, errors))
    }

    /// Reads to the end, which must come because its target has ended.
    pub(crate) fn finish(mut self, watch: Watch) -> Result<Vec<Line>> {
        let lines = watch.until_end()?;
        let (status, errors) = self.status()?;
        ensure!(status.success(), "the agent ended with {status}: {errors}");
        let last = lines.last().context("no line at all")?;
        ensure!(
            last.kind() == "ended" && last.text("/reason") == "target_exited",
            "the last line is not that the target has ended: {last}"
        );
        Ok(lines)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // After a failed test; one that has ended was waited for already.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Another agent attaches to what this one is attached to, and detaches: kernels pass over the exit of a call then.
pub(crate) fn come_and_go() -> Result<()> {
    let victim = Victim::start(&["loop", "epoll_wait"])?;
    let (agent, mut watch) = Agent::start(&[victim.pid], &Options::default())?;
    let pid = victim.pid;
    watch.next("another loop", |line| line.is("loop", pid))?;
    victim.quit()?;
    agent.finish(watch).map(|_| ())
}

/// The lines of an agent, one after another.
pub(crate) struct Watch {
    lines: Receiver<Told>,
    seen: Vec<Line>,
    /// Whose lines explain a failure; all if it is not said.
    pub(crate) focus: Option<u32>,
}

impl Watch {
    fn receive(&mut self, end: u64) -> Result<Line, Result<RecvTimeoutError>> {
        let left = Duration::from_nanos(end.saturating_sub(sys::mono_ns()));
        let line = self.lines.recv_timeout(left).map_err(Ok)?;
        let line = line.map_err(|error| Err(anyhow!(error)))?;
        line.check().map_err(Err)?;
        if line.kind() == "lost" {
            return Err(Err(anyhow!("the agent lost something: {line}")));
        }
        self.seen.push(line.clone());
        Ok(line)
    }

    /// Waits for the next line for which `wanted` holds. Every line on the way is checked.
    pub(crate) fn next(&mut self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let from = self.seen.len();
        let end = sys::mono_ns() + u64::try_from(limit().as_nanos())?;
        loop {
            match self.receive(end) {
                Ok(line) if wanted(&line) => return Ok(line),
                Ok(_) => {}
                Err(Err(error)) => return Err(error),
                Err(Ok(why)) => bail!(
                    "waited in vain for {what} ({why}); before that:\n{}\nsince then:\n{}",
                    self.before(from),
                    self.since(from)
                ),
            }
        }
    }

    /// Reads all lines until the agent's end.
    pub(crate) fn until_end(mut self) -> Result<Vec<Line>> {
        let end = sys::mono_ns() + u64::try_from(limit().as_nanos())?;
        loop {
            match self.receive(end) {
                Ok(_) => {}
                Err(Ok(RecvTimeoutError::Disconnected)) => return Ok(self.seen),
                Err(Ok(RecvTimeoutError::Timeout)) => {
                    bail!("the agent does not end; its lines:\n{}", self.since(0))
                }
                Err(Err(error)) => return Err(error),
            }
        }
    }

    /// The last lines before that number of lines.
    fn before(&self, until: usize) -> String {
        let from = until.saturating_sub(5);
        let lines: Vec<String> = self.seen[from..until].iter().map(Line::to_string).collect();
        lines.join("\n")
    }

    fn since(&self, from: usize) -> String {
        let concerned = |line: &&Line| match self.focus {
            Some(pid) => line.number("/pid") == Some(pid.into()),
            None => true,
        };
        let lines = self.seen.iter().skip(from).filter(concerned);
        lines.map(Line::to_string).collect::<Vec<_>>().join("\n")
    }

    /// Reads for some time, in which something wrong would happen if it happened at all.
    pub(crate) fn linger(&mut self, milliseconds: u64) -> Result<()> {
        let end = sys::mono_ns() + milliseconds * 1_000_000;
        loop {
            match self.receive(end) {
                Ok(_) => {}
                Err(Ok(RecvTimeoutError::Timeout)) => return Ok(()),
                Err(Ok(RecvTimeoutError::Disconnected)) => bail!("the agent has ended"),
                Err(Err(error)) => return Err(error),
            }
        }
    }

    /// All lines up to now.
    pub(crate) fn seen(&self) -> &[Line] {
        &self.seen
    }
}
