//! The guard beside a proxy, `loopwarden watch`, and the lines it prints.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::lab::Lab;
use super::process::{self, Process};
use super::{engine, stop};
use crate::cmd;

/// Loading its hooks takes a guard some moments; then the proxy has to be seen polling.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// It flushes its summary after SIGINT.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What a guard may do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Signal an engine that has been wedged for that long.
    Enforce { grace: Duration },
    /// Only tell, also of the risk that this liveness probe is.
    Observe { liveness: &'static str },
    /// Only tell.
    Tell,
}

/// A running guard; ended when dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Process,
    lines: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
    log: PathBuf,
}

impl Guard {
    /// Starts a guard on a process and waits until it watches the process's loop.
    pub(crate) fn start(
        lab: &Lab,
        program: &Path,
        name: &str,
        pid: u32,
        mode: Mode,
    ) -> Result<Self> {
        let mut args = vec!["--engine".to_owned(), "query-engine-*".to_owned()];
        match mode {
            Mode::Enforce { grace } => {
                let grace = format!("{}ms", grace.as_millis());
                args.extend(["--enforce".to_owned(), "--grace".to_owned(), grace]);
            }
            Mode::Observe { liveness } => {
                args.extend(["--liveness".to_owned(), liveness.to_owned()]);
            }
            Mode::Tell => {}
        }
        let mut guard = Self::start_in(&lab.run.path(""), program, name, pid, &args)?;
        guard.wait_until_it_watches()?;
        Ok(guard)
    }

    /// Starts a guard that writes below a folder; it does not watch yet.
    pub(crate) fn start_in(
        folder: &Path,
        program: &Path,
        name: &str,
        pid: u32,
        args: &[String],
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.guard.log"));
        let mut command = Command::new(program);
        command
            .args(["watch", "--json"])
            .args(args)
            .args(["--pid", &pid.to_string()])
            // Its locks and budgets are of no concern to a guard of the system.
            .env("LOOPWARDEN_RUN_DIR", folder.join("guard"))
            .stdout(Stdio::piped())
            .stderr(process::log_file(&log)?);
        let process = Process::start("the guard", &mut command)?.ends_by(Signal::INT, END_LIMIT);
        let mut guard = Self {
            process,
            lines: Arc::default(),
            reader: None,
            log,
        };
        if let Some(stdout) = guard.process.stdout() {
            let lines = guard.lines.clone();
            guard.reader = Some(std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // A line that is no JSON is kept as text: the checks then show it.
                    let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                    lines
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(value);
                }
            }));
        }
        Ok(guard)
    }

    /// Waits until it has seen the process's loop.
    pub(crate) fn wait_until_it_watches(&mut self) -> Result<()> {
        let watches = stop::wait_for(READY_LIMIT, Duration::from_millis(20), || {
            self.check()?;
            Ok((!of_type(&self.lines(), "loop").is_empty()).then_some(()))
        })?;
        watches.with_context(|| {
            format!(
                "the guard has printed no line of type \"loop\" within {READY_LIMIT:?}; it said:\n{}",
                self.said()
            )
        })
    }

    /// Fails when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.process.status()? {
            bail!("the guard ended ({status}); it said:\n{}", self.said());
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has printed so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends it and gives all it has printed.
    pub(crate) fn finish(mut self) -> Vec<Value> {
        self.process.end();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.lines()
    }

    fn said(&self) -> String {
        cmd::tail(&std::fs::read_to_string(&self.log).unwrap_or_default(), 15)
    }
}

/// The lines of one type.
pub(crate) fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

/// The guard of this workspace, freshly built.
pub(crate) fn build() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    engine::executable(
        "loopwarden",
        engine::cargo()
            .args([
                "build",
                "--release",
                "-p",
                "loopwarden",
                "--bin",
                "loopwarden",
                "--manifest-path",
            ])
            .arg(manifest),
    )
}
