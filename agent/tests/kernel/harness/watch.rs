//! The real agent, and its lines as they come.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::line::Line;
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
    pub(crate) run_dir: Option<&'a std::path::Path>,
}

/// A running `loopwarden watch --json`.
pub(crate) struct Watch {
    child: Child,
    lines: Receiver<Result<Line>>,
    seen: Vec<Line>,
    errors: Option<std::thread::JoinHandle<String>>,
    run_dir: TempDir,
}

/// The agent's binary.
pub(crate) fn agent() -> std::ffi::OsString {
    std::env::var_os("LOOPWARDEN_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_loopwarden").to_owned().into())
}

impl Watch {
    /// Starts it on processes.
    pub(crate) fn start(pids: &[u32], options: &Options<'_>) -> Result<Self> {
        let run_dir = tempfile::tempdir().context("no folder for locks and budgets")?;
        let mut command = Command::new(agent());
        command.args(["watch", "--json"]).args(options.arguments);
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        // A folder that only root may write, as the agent wants it.
        command.env(
            "LOOPWARDEN_RUN_DIR",
            options.run_dir.unwrap_or(run_dir.path()),
        );
        match options.plan {
            Some(plan) => command.env("LOOPWARDEN_PLAN", plan),
            None => command.env_remove("LOOPWARDEN_PLAN"),
        };
        Self::spawn(command, run_dir)
    }

    /// Starts it with a command of its own to watch.
    pub(crate) fn start_command(arguments: &[&str], command_line: &[&str]) -> Result<Self> {
        let run_dir = tempfile::tempdir().context("no folder for locks and budgets")?;
        let mut command = Command::new(agent());
        command
            .args(["watch", "--json"])
            .args(arguments)
            .arg("--")
            .args(command_line);
        command.env("LOOPWARDEN_RUN_DIR", run_dir.path());
        Self::spawn(command, run_dir)
    }

    fn spawn(mut command: Command, run_dir: TempDir) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the agent")?;
        let out = child.stdout.take().context("no stdout")?;
        let mut err = child.stderr.take().context("no stderr")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let line = line
                    .context("cannot read the agent's lines")
                    .and_then(|line| Line::parse(&line));
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read cannot help to explain a failure.
            let _ = err.read_to_string(&mut text);
            text
        });
        Ok(Self {
            child,
            lines,
            seen: Vec::new(),
            errors: Some(errors),
            run_dir,
        })
    }

    /// Its folder of locks and budgets.
    pub(crate) fn run_dir(&self) -> &std::path::Path {
        self.run_dir.path()
    }

    /// Waits for the next line for which `wanted` holds.
    pub(crate) fn next(&mut self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let from = self.seen.len();
        let end = sys::mono_ns() + u64::try_from(limit().as_nanos())?;
        loop {
            let left = Duration::from_nanos(end.saturating_sub(sys::mono_ns()));
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let line = line?;
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return Ok(line);
                    }
                }
                Err(why) => {
                    let lines = self.since(from);
                    bail!("waited in vain for {what} ({why}); since then:\n{lines}");
                }
            }
        }
    }

    fn since(&self, from: usize) -> String {
        let lines: Vec<String> = self.seen.iter().skip(from).map(Line::to_string).collect();
        lines.join("\n")
    }

    /// All lines up to now.
    pub(crate) fn seen(&self) -> &[Line] {
        &self.seen
    }

    /// Asks it to end.
    pub(crate) fn interrupt(&self) -> Result<()> {
        alive::signal(self.child.id(), libc::SIGINT)
    }

    /// Reads to the end, which must come by itself, and checks every line. Returns all lines, how the agent ended and what it
    /// wrote for people.
    pub(crate) fn end(mut self) -> Result<(Vec<Line>, ExitStatus, String)> {
        let end = sys::mono_ns() + u64::try_from(limit().as_nanos())?;
        loop {
            let left = Duration::from_nanos(end.saturating_sub(sys::mono_ns()));
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line?),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    bail!("the agent does not end; its lines:\n{}", self.since(0))
                }
            }
        }
        let status = self.child.wait().context("cannot wait for the agent")?;
        let errors = self
            .errors
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        for line in &self.seen {
            line.check()?;
        }
        let lost = self.seen.iter().find(|line| line.kind() == "lost");
        ensure!(
            lost.is_none(),
            "the agent lost something: {}",
            lost.map_or(String::new(), Line::to_string)
        );
        Ok((std::mem::take(&mut self.seen), status, errors))
    }

    /// The same, for an agent whose target has ended.
    pub(crate) fn finish(self) -> Result<Vec<Line>> {
        let (lines, status, errors) = self.end()?;
        ensure!(status.success(), "the agent ended with {status}: {errors}");
        let last = lines.last().context("no line at all")?;
        ensure!(
            last.kind() == "ended" && last.text("/reason") == "target_exited",
            "the last line is not that the target has ended: {last}"
        );
        Ok(lines)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // After a failed test; one that has ended was waited for already.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
