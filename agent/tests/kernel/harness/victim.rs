//! A victim as its test holds it: commands go in, answers come out, and it ends with the test.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use super::limit;
use crate::sys::{self, PollCall};
use crate::victim::FLAG;

/// A running victim.
pub(crate) struct Victim {
    life: Life,
    input: Option<Box<dyn Write + Send>>,
    answers: Receiver<String>,
    /// Id of the loop's process: another one than that of the started program if that is only around it.
    pub(crate) pid: u32,
}

/// How a victim ends.
enum Life {
    /// It is ours.
    Child(Child),
    /// It belongs to a keeper, or is a container's.
    Kept(OwnedFd),
}

impl Victim {
    /// Starts this program in a part, and waits until it says that it is ready.
    pub(crate) fn start(part: &[&str]) -> Result<Self> {
        Self::start_as(&std::env::current_exe()?, part)
    }

    /// The same from a program of another name.
    pub(crate) fn start_as(program: &Path, part: &[&str]) -> Result<Self> {
        let mut victim = Self::start_unready(program, part)?;
        victim.answer("ready")?;
        Ok(victim)
    }

    /// Starts a loop in a PID namespace of its own.
    pub(crate) fn start_nested(poller: &str) -> Result<Self> {
        let mut victim = Self::start_unready(&std::env::current_exe()?, &["nest", poller])?;
        victim.pid = victim.answer("nested")?.parse()?;
        // Whether its own first word came before that or comes after, it obeys from now on.
        victim.ask("idle 1", "idled")?;
        Ok(victim)
    }

    fn start_unready(program: &Path, part: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
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
        let input = child.stdin.take().context("no stdin")?;
        let answers = answers(child.stdout.take().context("no stdout")?);
        let pid = child.id();
        Ok(Self {
            life: Life::Child(child),
            input: Some(Box::new(input)),
            answers,
            pid,
        })
    }

    /// One that a keeper started and that has connected.
    pub(super) fn connected(stream: UnixStream, pid: u32) -> Result<Self> {
        let output = stream.try_clone()?;
        let mut victim = Self::of_another(pid, stream, output)?;
        victim.answer("ready")?;
        Ok(victim)
    }

    /// One that somebody else started, and that need not be ready yet.
    pub(super) fn of_another(
        pid: u32,
        input: impl Write + Send + 'static,
        output: impl Read + Send + 'static,
    ) -> Result<Self> {
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("no process id")?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).context("cannot hold the victim")?;
        Ok(Self {
            life: Life::Kept(pidfd),
            input: Some(Box::new(input)),
            answers: answers(output),
            pid,
        })
    }

    /// Sends a command, whose answer may be read later: a loop that waits for a child answers when it is free again.
    pub(crate) fn tell(&mut self, command: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        // In one piece: a victim that ends at its first byte would break the pipe for a second one.
        input
            .write_all(format!("{command}\n").as_bytes())
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

    /// Wakes a loop that was told to `nap`, and is known to.
    pub(crate) fn wake(&self) -> Result<()> {
        super::alive::signal(self.pid, sys::WAKE)
    }

    /// Kills a victim that obeys no more.
    pub(crate) fn kill(self) -> Result<()> {
        super::alive::signal(self.pid, libc::SIGKILL)
    }

    /// Ends the loop, and waits for the end.
    pub(crate) fn quit(mut self) -> Result<()> {
        self.tell("quit")?;
        self.input = None;
        match &mut self.life {
            Life::Child(child) => {
                let status = child.wait().context("cannot wait for the victim")?;
                ensure!(status.success(), "the victim ended with {status}");
            }
            Life::Kept(pidfd) => {
                sys::wait_readable(PollCall::Poll, None, pidfd.as_fd(), -1)?;
            }
        }
        Ok(())
    }
}

/// Reads answers, one a line, on a thread of its own.
fn answers(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, answers) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    answers
}

impl Drop for Victim {
    fn drop(&mut self) {
        // After a failed test, or where the test has killed it; its children die with it.
        match &mut self.life {
            Life::Child(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Life::Kept(pidfd) => {
                #[expect(clippy::disallowed_methods, reason = "ends a victim of the test")]
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
            }
        }
    }
}
