//! A victim as its test holds it: commands go in, answers come out, and it ends with the test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::limit;
use crate::sys;
use crate::victim::FLAG;

/// A running victim.
pub(crate) struct Victim {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    /// Id of the loop's process: another one than that of the started program if that is only around it.
    pub(crate) pid: u32,
}

impl Victim {
    /// Starts this program in a part, and waits until it says that it is ready.
    pub(crate) fn start(part: &[&str]) -> Result<Self> {
        let mut victim = Self::start_unready(part)?;
        victim.answer("ready")?;
        Ok(victim)
    }

    fn start_unready(part: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(FLAG)
            .args(part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: the closure only makes a system call.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {part:?}"))?;
        let input = child.stdin.take();
        let out = child.stdout.take().context("no stdout")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let pid = child.id();
        Ok(Self {
            child,
            input,
            answers,
            pid,
        })
    }

    /// Starts a loop in a PID namespace of its own.
    pub(crate) fn start_nested(poller: &str) -> Result<Self> {
        let mut victim = Self::start_unready(&["nest", poller])?;
        victim.pid = victim.answer("nested")?.parse()?;
        victim.answer("ready")?;
        Ok(victim)
    }

    /// Sends a command, whose answer may be read later: a loop that waits for a child answers when it is free again.
    pub(crate) fn tell(&mut self, command: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{command}")
            .with_context(|| format!("cannot tell the victim to `{command}`"))
    }

    /// Waits for an answer that starts with a word, and returns the rest.
    pub(crate) fn answer(&mut self, word: &str) -> Result<String> {
        let end = sys::mono_ns() + u64::try_from(limit().as_nanos())?;
        loop {
            let left = Duration::from_nanos(end.saturating_sub(sys::mono_ns()));
            let Ok(line) = self.answers.recv_timeout(left) else {
                bail!("the victim did not answer `{word}`");
            };
            let (first, rest) = line.split_once(' ').unwrap_or((&line, ""));
            if first == word {
                return Ok(rest.to_owned());
            }
        }
    }

    /// Sends a command and waits for the answer.
    pub(crate) fn ask(&mut self, command: &str, word: &str) -> Result<String> {
        self.tell(command)?;
        self.answer(word)
    }

    /// Lets the loop start a child, and returns its id as the loop sees it.
    pub(crate) fn spawn(&mut self, name: &str, kind: &str, program: &str) -> Result<u32> {
        let path = super::folder().join(program);
        let pid = self.ask(
            &format!("spawn {name} {kind} {}", path.display()),
            "spawned",
        )?;
        pid.parse()
            .with_context(|| format!("no process id: `{pid}`"))
    }

    /// Lets the loop tell a child to end, with SIGINT as prisma-client-py does.
    pub(crate) fn tell_to_end(&mut self, name: &str) -> Result<()> {
        self.ask(&format!("signal {name} {}", libc::SIGINT), "signalled")
            .map(|_| ())
    }

    /// Lets the loop wait for a child, and returns the moment just before.
    pub(crate) fn wait_for(&mut self, name: &str, way: &str) -> Result<u64> {
        let moment = self.ask(&format!("wait {name} {way}"), "waiting")?;
        moment
            .parse()
            .with_context(|| format!("no moment: `{moment}`"))
    }

    /// Ends the loop, and waits for the end.
    pub(crate) fn quit(mut self) -> Result<()> {
        self.tell("quit")?;
        self.input = None;
        let status = self.child.wait().context("cannot wait for the victim")?;
        if !status.success() {
            bail!("the victim ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // After a failed test, or where the test has killed it; its children die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
