//! The real node agent, `loopwarden run`, and what it says for people.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::{alive, limit, watch};
use crate::sys;

/// A running agent with a configuration file of its own.
pub(crate) struct Node {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    folder: TempDir,
}

impl Node {
    /// Starts it with a configuration.
    pub(crate) fn start(config: &str) -> Result<Self> {
        Self::start_logging(config, "warn")
    }

    /// The same, with more or less of a log among what it says.
    pub(crate) fn start_logging(config: &str, level: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for the configuration")?;
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, config)?;
        let mut child = Command::new(watch::binary())
            .args(["run", "--config"])
            .arg(&file)
            .env("LOOPWARDEN_RUN_DIR", folder.path())
            .env("RUST_LOG", level)
            .env_remove("LOOPWARDEN_PLAN")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the agent")?;
        let errors = child.stderr.take().context("no stderr")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            seen: Vec::new(),
            folder,
        })
    }

    /// Puts another configuration in place of the file, whole.
    pub(crate) fn configure(&self, config: &str) -> Result<()> {
        let file = self.folder.path().join("config.yaml");
        let new = self.folder.path().join("config.new");
        write_whole(&new, &file, config)
    }

    /// Waits for a line with these words.
    pub(crate) fn next(&mut self, words: &[&str]) -> Result<String> {
        let end = sys::mono_ns() + u64::try_from(limit().as_nanos())?;
        loop {
            let left = Duration::from_nanos(end.saturating_sub(sys::mono_ns()));
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!(
                    "waited in vain for {words:?}; the agent said {:#?}",
                    self.seen
                );
            };
            self.seen.push(line.clone());
            if words.iter().all(|word| line.contains(word)) {
                return Ok(line);
            }
        }
    }

    /// What it has said so far.
    pub(crate) fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Ends it, and reads to its end.
    pub(crate) fn end(mut self) -> Result<Vec<String>> {
        alive::signal(self.child.id(), libc::SIGTERM)?;
        let status = self.child.wait().context("cannot wait for the agent")?;
        while let Ok(line) = self.lines.recv_timeout(limit()) {
            self.seen.push(line);
        }
        ensure!(status.success(), "the agent ended with {status}");
        Ok(std::mem::take(&mut self.seen))
    }
}

fn write_whole(new: &Path, file: &Path, text: &str) -> Result<()> {
    std::fs::write(new, text)?;
    std::fs::rename(new, file).with_context(|| format!("cannot replace {}", file.display()))
}

impl Drop for Node {
    fn drop(&mut self) {
        // After a failed test; one that has ended was waited for already.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
