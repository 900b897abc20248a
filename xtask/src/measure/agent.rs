//! The agent under measurement: one `loopwarden watch --json`, and its lines with the moment at which each could be read.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::sys::{mono_ns, signal_child};
use super::victims::die_with_us;
use crate::{cmd, layout};

/// Loading its hooks takes the agent some moments, recognising a hundred loops some more.
const READY_LIMIT: Duration = Duration::from_mins(1);
/// From its last target's end to its own.
const END_LIMIT: Duration = Duration::from_secs(30);

/// What every agent of a run has in common.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) program: PathBuf,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Builds the agent as users get it, unless `LOOPWARDEN_BIN` names one.
    pub(crate) fn prepare() -> Result<Self> {
        let program = if let Some(program) = std::env::var_os("LOOPWARDEN_BIN") {
            program.into()
        } else {
            cmd::run(layout::cargo().args([
                "build",
                "--release",
                "--quiet",
                "--package",
                "loopwarden",
            ]))?;
            layout::target().join("release/loopwarden")
        };
        Self::of(program)
    }

    /// A lab of its own for an agent that is built already.
    pub(crate) fn of(program: PathBuf) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("measure-")
            .tempdir_in(layout::target());
        let folder = folder.context("cannot make a folder in cargo's target folder")?;
        Ok(Self { program, folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A line of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// When this process had read it.
    pub(crate) read_ns: u64,
    pub(crate) value: Value,
}

impl Line {
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.value["type"] == kind
    }

    /// A number of the line, 0 if it has none.
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.value[field].as_u64().unwrap_or(0)
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.number("pid")).unwrap_or(0)
    }
}

/// A running agent; ended when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    lines: Arc<Mutex<Vec<Line>>>,
    reader: Option<JoinHandle<()>>,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent on processes and waits until it has recognised a loop in each.
    pub(crate) fn start(
        lab: &Lab,
        pids: &[u32],
        options: &[&str],
        log_level: &str,
    ) -> Result<Self> {
        let log = lab.path("agent.log");
        let stderr =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(&lab.program);
        command.args(["watch", "--json"]).args(options);
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command
            .env("LOOPWARDEN_RUN_DIR", lab.path("run"))
            .env("RUST_LOG", log_level)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        die_with_us(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start the agent {}", lab.program.display()))?;
        let stdout = child.stdout.take().context("the agent has no stdout")?;
        let lines: Arc<Mutex<Vec<Line>>> = Arc::default();
        let sink = lines.clone();
        let reader = std::thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                let read_ns = mono_ns();
                // A line that is no JSON is kept as text: whoever counts lines then misses it.
                let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
                lock(&sink).push(Line { read_ns, value });
            }
        });
        let mut agent = Self {
            child,
            lines,
            reader: Some(reader),
            log,
        };
        agent.wait_until("a loop in each process", READY_LIMIT, |lines| {
            pids.iter().all(|pid| {
                lines
                    .iter()
                    .any(|line| line.is("loop") && line.pid() == *pid)
            })
        })?;
        Ok(agent)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its text goes.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The way it watches, as its first line names it.
    pub(crate) fn plan(&self) -> String {
        let lines = lock(&self.lines);
        let plan = lines
            .iter()
            .find(|line| line.is("loop"))
            .map(|line| &line.value["plan"]);
        plan.and_then(Value::as_str).unwrap_or("unknown").to_owned()
    }

    /// Waits until its lines say something.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut said: impl FnMut(&[Line]) -> bool,
    ) -> Result<()> {
        let end = cmd::now() + limit;
        while !said(&lock(&self.lines)) {
            if let Some(status) = self
                .child
                .try_wait()
                .context("cannot ask for the agent's state")?
            {
                bail!(
                    "the agent ended ({status}) before it told of {what}; it said:\n{}",
                    self.said()
                );
            }
            if cmd::now() >= end {
                bail!(
                    "the agent has not told of {what} within {limit:?}; it said:\n{}",
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops or continues all of it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        signal_child(self.pid(), signal)
    }

    /// Asks it to end and gives all its lines.
    pub(crate) fn interrupt(self) -> Result<Vec<Line>> {
        self.signal(Signal::INT)?;
        self.finish()
    }

    /// Waits for its end, which follows that of its last target, and gives all its lines.
    pub(crate) fn finish(mut self) -> Result<Vec<Line>> {
        let end = cmd::now() + END_LIMIT;
        while self
            .child
            .try_wait()
            .context("cannot wait for the agent")?
            .is_none()
        {
            if cmd::now() >= end {
                bail!(
                    "the agent has not ended within {END_LIMIT:?}; it said:\n{}",
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(std::mem::take(&mut lock(&self.lines)))
    }

    fn said(&self) -> String {
        cmd::tail(&std::fs::read_to_string(&self.log).unwrap_or_default(), 15)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock(lines: &Mutex<Vec<Line>>) -> std::sync::MutexGuard<'_, Vec<Line>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the lines of type `lost` add up to, and their words.
pub(crate) fn lost(lines: &[Line]) -> (u64, String) {
    let mut sums = std::collections::BTreeMap::<&str, u64>::new();
    for line in lines.iter().filter(|line| line.is("lost")) {
        *sums
            .entry(line.value["what"].as_str().unwrap_or("?"))
            .or_default() += line.number("count");
    }
    let words: Vec<String> = sums
        .iter()
        .map(|(what, count)| format!("{count} × {what}"))
        .collect();
    (sums.values().sum(), words.join(", "))
}
