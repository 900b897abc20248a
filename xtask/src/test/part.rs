//! One part of the tests: some commands, what they counted, how long they took.

use std::io::{BufRead as _, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::failures::Failures;
use crate::tally::Tally;
use crate::{bpf, cmd, setup};

/// A part that can be run.
#[derive(Debug)]
pub(crate) struct Part {
    name: &'static str,
    commands: Vec<Command>,
    needs_bpf: bool,
    /// Why it is left out where nobody has asked for it by name.
    only_in_ci: Option<&'static str>,
    /// Debian packages without which some of its tests say that they are left out, and fail in CI.
    packages_in_ci: &'static [&'static str],
}

/// How a part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Passed,
    Failed,
    /// Cannot run here, for this reason.
    LeftOut(&'static str),
    /// Something before it has failed.
    NotStarted,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::LeftOut(_) => "LEFT OUT",
            Self::NotStarted => "not run",
        }
    }
}

/// A part that is over.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: &'static str,
    pub(crate) state: State,
    pub(crate) tests: Tally,
    pub(crate) time: Duration,
    /// What to show again at the end of everything.
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn failed(&self) -> bool {
        self.state == State::Failed
    }
}

impl Part {
    pub(crate) fn new(name: &'static str, commands: Vec<Command>) -> Self {
        Self {
            name,
            commands,
            needs_bpf: false,
            only_in_ci: None,
            packages_in_ci: &[],
        }
    }

    /// The part is left out for this reason, except in CI.
    pub(crate) fn only_in_ci(mut self, reason: &'static str) -> Self {
        self.only_in_ci = Some(reason);
        self
    }

    /// These Debian packages are installed before the part runs in CI, where all of its tests have to.
    pub(crate) fn packages_in_ci(mut self, packages: &'static [&'static str]) -> Self {
        self.packages_in_ci = packages;
        self
    }

    /// The part is left out where BPF is refused, and fails there in CI.
    pub(crate) fn needs_bpf(mut self) -> Self {
        self.needs_bpf = true;
        self
    }

    /// Runs all commands of the part, also after one has failed, and passes on to `out` what they print.
    pub(crate) fn run(self, out: &mut impl Write) -> Report {
        say(out, &format!("\n=== {}", self.name));
        let start = cmd::now();
        let mut tests = Tally::default();
        let mut failures = Vec::new();
        let state = match (self.left_out(), self.may_run()) {
            (Some(reason), _) => State::LeftOut(reason),
            (None, Ok(true)) => {
                let results: Vec<bool> = self
                    .commands
                    .into_iter()
                    .map(|command| succeeds(command, out, &mut tests, &mut failures))
                    .collect();
                if results.iter().all(|&succeeded| succeeded) {
                    State::Passed
                } else {
                    State::Failed
                }
            }
            (None, Ok(false)) => State::LeftOut("this kernel or these privileges refuse BPF"),
            (None, Err(error)) => {
                failures.push(format!("{error:#}"));
                eprintln!("{error:#}");
                State::Failed
            }
        };
        let tests = match state {
            State::Passed => tests.of_part(true),
            State::Failed => tests.of_part(false),
            State::LeftOut(_) | State::NotStarted => tests,
        };
        let time = start.elapsed();
        say(
            out,
            &format!(
                "=== {}: {} after {}",
                self.name,
                state.word(),
                cmd::minutes(time)
            ),
        );
        Report {
            name: self.name,
            state,
            tests,
            time,
            failures,
        }
    }

    pub(crate) fn not_started(self) -> Report {
        Report {
            name: self.name,
            state: State::NotStarted,
            tests: Tally::default(),
            time: Duration::ZERO,
            failures: Vec::new(),
        }
    }

    fn left_out(&self) -> Option<&'static str> {
        self.only_in_ci.filter(|_| !bpf::in_ci())
    }

    fn may_run(&self) -> Result<bool> {
        if self.needs_bpf && !bpf::allowed_for(self.name)? {
            return Ok(false);
        }
        if bpf::in_ci() && !self.packages_in_ci.is_empty() {
            setup::need(self.packages_in_ci)?;
        }
        Ok(true)
    }
}

/// Nobody may be reading any more (`| head`): the parts go on all the same, and the exit status still tells.
fn say(out: &mut impl Write, line: &str) {
    let _ = writeln!(out, "{line}");
}

fn succeeds(
    mut command: Command,
    out: &mut impl Write,
    tests: &mut Tally,
    failures: &mut Vec<String>,
) -> bool {
    let shown = cmd::shown(&command);
    say(out, &format!("$ {shown}"));
    let mut said = Failures::default();
    let mut read = |line: &str| {
        tests.read(line);
        said.read(line);
    };
    let succeeded = run_and_read(&mut command, out, &mut read).unwrap_or_else(|error| {
        let error = format!("{error:#}");
        eprintln!("{error}");
        said.read(&error);
        false
    });
    if !succeeded {
        failures.push(format!("$ {shown}"));
        failures.extend(said.of_failed());
    }
    succeeded
}

/// Runs the command and passes on its stdout line by line, to `out` and to `read`.
fn run_and_read(
    command: &mut Command,
    out: &mut impl Write,
    read: &mut impl FnMut(&str),
) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", cmd::shown(command)))?;
    let mut reader = BufReader::new(child.stdout.take().context("the command has no stdout")?);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .context("cannot read the command's output")?
        > 0
    {
        let text = String::from_utf8_lossy(&line);
        read(&text);
        say(out, text.trim_end_matches('\n'));
        line.clear();
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{}`", cmd::shown(command)))?;
    if !status.success() {
        eprintln!("`{}` failed: {status}", cmd::shown(command));
    }
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failed_command_does_not_stop_the_part_and_fails_it() {
        let first = shell("echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 1");
        let second = shell("echo 'test result: ok. 4 passed; 0 failed; 0 ignored'");
        let mut out = Vec::new();
        let report = Part::new("both", vec![first, second]).run(&mut out);
        assert_eq!(report.state, State::Failed);
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.contains("1 passed; 2 failed") && out.contains("=== both: FAILED"),
            "{out}"
        );
        assert_eq!((report.tests.passed, report.tests.failed), (5, 2));
        assert!(
            report
                .failures
                .iter()
                .any(|line| line.contains("1 passed; 2 failed")),
            "{:?}",
            report.failures
        );
        assert!(
            !report.failures.iter().any(|line| line.contains("4 passed")),
            "{:?}",
            report.failures
        );
    }

    #[test]
    fn a_part_without_counts_is_one_test() {
        let report = Part::new("silent", vec![shell("true")]).run(&mut std::io::sink());
        assert_eq!((report.state, report.tests.passed), (State::Passed, 1));
        let report = Part::new("broken", vec![shell("exit 3")]).run(&mut std::io::sink());
        assert_eq!((report.state, report.tests.failed), (State::Failed, 1));
    }

    #[test]
    fn a_command_that_cannot_start_fails_the_part() {
        let report = Part::new("missing", vec![Command::new("/nonexistent/program")])
            .run(&mut std::io::sink());
        assert_eq!((report.state, report.tests.failed), (State::Failed, 1));
    }
}
