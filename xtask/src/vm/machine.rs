//! One emulated machine: starts qemu, reads its serial console, and says how the tests inside ended.
//!
//! Only a line with this run's own word counts as a report. A kernel that panics, hangs or ends without one has failed,
//! and the end of its console is shown.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cmd;
use crate::tally::Tally;

/// What to boot and for how long.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Stands before each line of the tests.
    pub(crate) label: String,
    pub(crate) vmlinuz: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Everything the console said.
    pub(crate) console_log: PathBuf,
    pub(crate) limit: Duration,
}

/// How the tests inside ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    tests: Tally,
    boot: Duration,
    total: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (boot, total) = (self.boot.as_secs_f64(), self.total.as_secs_f64());
        write!(
            f,
            "{}, exit status {}, boot {boot:.1} s, in all {total:.1} s",
            self.tests, self.status
        )
    }
}

impl Machine {
    /// Boots, runs the tests and waits for the end.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let start = cmd::now();
        let word = format!("loopwarden-vm-{}-{}", std::process::id(), self.label);
        let mut qemu = Running(self.start(&word)?);
        let stdout = qemu.0.stdout.take().context("qemu has no stdout")?;
        let mut log = File::create(&self.console_log)
            .with_context(|| format!("cannot write {}", self.console_log.display()))?;
        let lines = lines_of(stdout);
        let mut console = Console::new(word);
        while let Some(line) =
            next_line(&lines, start, self.limit).map_err(|why| self.gave_up(&console, why))?
        {
            writeln!(log, "{line}")
                .with_context(|| format!("cannot write {}", self.console_log.display()))?;
            match console.read(&line, start) {
                Seen::Test if line.is_empty() => {}
                Seen::Test => println!("{} | {line}", self.label),
                Seen::Exit => break,
                Seen::Other => {}
            }
        }
        drop(qemu);
        let Some((status, boot)) = console.status.zip(console.booted) else {
            return Err(self.gave_up(
                &console,
                "the machine ended without a report (a kernel panic?)",
            ));
        };
        Ok(Outcome {
            status,
            tests: console.tests,
            boot,
            total: start.elapsed(),
        })
    }

    fn start(&self, word: &str) -> Result<Child> {
        // panic=-1 with -no-reboot ends qemu at once; mitigations are slow to emulate and nothing here is secret. A kernel that does
        // not come back for two minutes ends with the stacks of all CPUs instead of with a limit of ours that says nothing.
        let append = format!(
            "console=ttyS0 panic=-1 oops=panic watchdog_thresh=60 softlockup_panic=1 softlockup_all_cpu_backtrace=1 \
             loglevel=4 mitigations=off loopwarden.word={word}"
        );
        // One CPU: attaching patches the entries of functions that loops on another CPU are calling, and emulated CPUs that run at the
        // same time now and then never come out of such an entry again (QEMU 7.2: a soft lockup at the first byte of a patched
        // function). What needs two is tested on the machine's own kernel.
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "1",
                "-m",
                "2048",
            ])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
                "-serial",
                "stdio",
            ])
            .arg("-kernel")
            .arg(&self.vmlinuz)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", &append])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
            .spawn()
            .with_context(|| format!("cannot start `{}`", cmd::shown(&command)))
    }

    fn gave_up(&self, console: &Console, why: impl fmt::Display) -> anyhow::Error {
        anyhow::anyhow!(
            "{why}; the console's last lines (all of it is in {}):\n{}",
            self.console_log.display(),
            cmd::tail(&console.text, 60)
        )
    }
}

/// qemu, ended when it goes out of scope: nothing is left running after a failure.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when qemu has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a line of the console was.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Test,
    Exit,
    Other,
}

/// What the console has said so far.
#[derive(Debug)]
struct Console {
    word: String,
    text: String,
    tests: Tally,
    booted: Option<Duration>,
    status: Option<i32>,
}

impl Console {
    fn new(word: String) -> Self {
        Self {
            word,
            text: String::new(),
            tests: Tally::default(),
            booted: None,
            status: None,
        }
    }

    fn read(&mut self, line: &str, start: Instant) -> Seen {
        self.text.push_str(line);
        self.text.push('\n');
        if let Some(report) = line.strip_prefix(&self.word) {
            if let Some(status) = report.strip_prefix(" exit ") {
                self.status = status.parse().ok();
                return Seen::Exit;
            }
            self.booted = Some(start.elapsed());
            return Seen::Other;
        }
        if self.booted.is_none() {
            return Seen::Other;
        }
        self.tests.read(line);
        Seen::Test
    }
}

fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1024);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut bytes = Vec::new();
        // Ends with qemu, or when nobody listens any more. A console may say anything, so it is not taken for UTF-8.
        while reader
            .read_until(b'\n', &mut bytes)
            .is_ok_and(|count| count > 0)
        {
            let line = String::from_utf8_lossy(&bytes)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The next line, or None when the console has ended.
fn next_line(lines: &Receiver<String>, start: Instant, limit: Duration) -> Result<Option<String>> {
    match lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
        Ok(line) => Ok(Some(line)),
        Err(RecvTimeoutError::Disconnected) => Ok(None),
        Err(RecvTimeoutError::Timeout) => bail!("no end after {} s", limit.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> (Console, Vec<Seen>) {
        let mut console = Console::new("word".to_owned());
        let start = cmd::now();
        let seen = lines.iter().map(|line| console.read(line, start)).collect();
        (console, seen)
    }

    #[test]
    fn only_lines_after_the_boot_are_tests_and_only_the_word_reports() {
        let (console, seen) = read(&[
            "[    0.1] Linux version",
            "word booted 6.1.0",
            "test a ... ok",
            "test result: ok. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out",
            "exit 0",
            "word exit 101",
        ]);
        let expected = [
            Seen::Other,
            Seen::Other,
            Seen::Test,
            Seen::Test,
            Seen::Test,
            Seen::Exit,
        ];
        assert_eq!(seen, expected);
        assert_eq!(console.status, Some(101));
        assert_eq!((console.tests.passed, console.tests.failed), (3, 1));
    }

    #[test]
    fn a_panic_leaves_no_status() {
        let (console, _) = read(&[
            "word booted 6.1.0",
            "[    9.9] Kernel panic - not syncing: Fatal exception",
        ]);
        assert_eq!(console.status, None);
        assert!(console.text.contains("Kernel panic"));
    }
}
