//! Victims from the measuring side: start them, tell them to go, read what they recorded.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::de::DeserializeOwned;

use super::victim::Role;
use crate::{cmd, layout};

/// A running victim. It ends when its stdin is closed, and is killed when dropped before that.
#[derive(Debug)]
pub(super) struct Victim {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// Makes a process die with this one, whatever way this one ends. Call it from the main thread: the kernel binds the
/// death signal to the thread that forks.
pub(crate) fn die_with_us(command: &mut Command) {
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
}

impl Victim {
    /// Starts one and waits until its loop runs.
    pub(super) fn start(role: &Role) -> Result<Self> {
        let mut command = Command::new(layout::this_program()?);
        command
            .arg("victim")
            .args(role.words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        die_with_us(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start a victim: `{}`", cmd::shown(&command)))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("a victim has no stdout")?;
        let mut victim = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let () = victim.read().context("a victim did not start")?;
        Ok(victim)
    }

    /// Several of the same role; the role is made from each one's number.
    pub(super) fn start_many(count: u64, role: impl Fn(u64) -> Role) -> Result<Vec<Self>> {
        (0..count)
            .map(|number| Self::start(&role(number)))
            .collect()
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do what its role does.
    pub(super) fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the victim was told to end")?;
        stdin
            .write_all(b"go\n")
            .context("a victim does not listen any more")
    }

    /// Reads a line that it printed.
    pub(super) fn read<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .context("cannot read what a victim printed")?;
        serde_json::from_str(&line).with_context(|| {
            format!(
                "victim {} printed something else than its report: {line:?}",
                self.pid()
            )
        })
    }

    /// Lets it end, and reads its last line.
    pub(super) fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        self.stdin = None;
        let report = self.read()?;
        self.end()?;
        Ok(report)
    }

    /// Lets it end, and waits for that.
    pub(super) fn end(mut self) -> Result<()> {
        self.stdin = None;
        self.child.wait().context("cannot wait for a victim")?;
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // A victim that has been waited for needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ids of some victims.
pub(super) fn pids(victims: &[Victim]) -> Vec<u32> {
    victims.iter().map(Victim::pid).collect()
}
