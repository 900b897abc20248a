//! `loopwarden watch`: watch given processes, or a command it starts, and print what happens.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use super::common::{announce, announce_end, catch_signals};
use super::output::{Output, Sinks, wall_clock};
use crate::config::probe::{self, Probe};
use crate::config::{Config, ExeGlob, Liveness, WatchOptions, duration};
use crate::export::lines::Lines;
use crate::kernel::{self, clock};
use crate::pipeline::{Collect, Pid};
use crate::rescue;
use crate::wiring::Rules;

/// Who sent a signal: the kernel itself, for a terminal among others (`asm-generic/siginfo.h`).
const SI_KERNEL: i32 = 0x80;

/// Watch processes, or a command that is started, and tell what their event loops are stuck on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object a line on stdout (docs/lines.md)
    #[arg(long)]
    json: bool,
    /// Write the JSON lines to a file and leave stdout to the command
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// End wedged engines (SIGKILL, after a SIGTERM where nobody told them to end); without it, only say what would be done
    #[arg(long)]
    enforce: bool,
    /// From which length on an iteration of the loop is a stall
    #[arg(long, value_name = "DUR", default_value = "100ms", value_parser = stall_after)]
    stall_after: Duration,
    /// Executable basename of an engine child; may be given more than once. Without it nothing is ever signalled
    #[arg(long, value_name = "GLOB", value_parser = ExeGlob::new)]
    engine: Vec<ExeGlob>,
    /// How long an engine may take to end once it was told to
    #[arg(long, value_name = "DUR", default_value = "500ms", value_parser = duration::parse)]
    grace: Duration,
    /// The liveness probe that the kubelet makes, as PERIOD/TIMEOUT/FAILURES in seconds (10/1/3) or with units: the kill is forecast
    #[arg(long, value_name = "PROBE", value_parser = liveness)]
    liveness: Option<Probe>,
    /// What is found out about a stall: `full` with stacks, for which memory of the process is read; `procfs` without; or `off`
    #[arg(long, value_name = "HOW", default_value = "full", value_parser = evidence)]
    evidence: Collect,
    /// Process to watch, with all that descends from it; may be given more than once
    #[arg(long, value_name = "PID", required_unless_present = "command", conflicts_with = "command", num_args = 1..)]
    pid: Vec<u32>,
    /// Command to start and watch
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command; the value is the exit status.
pub fn run(args: Args) -> Result<u8> {
    // Before any thread starts, so that none of them takes these signals.
    let signals = catch_signals()?;
    let sinks = sinks(&args)?;
    let mut targets = Vec::new();
    for pid in &args.pid {
        targets.push(open_process(*pid)?);
    }
    if let Err(reason) = kernel::realtime::lock_memory() {
        log::info!("{reason}");
    }
    let sensor = kernel::sensor(kernel::Settings::default());
    announce(sensor.as_ref());
    let output = Output::start(sinks, |_| ()).context("cannot start the output thread")?;
    let teller = output.teller();

    let mut command = if args.command.is_empty() {
        None
    } else {
        Some(spawn(&args)?)
    };
    if let Some(command) = &command {
        targets.push(open_process(command.id())?);
    }
    let pids: Vec<Pid> = targets.iter().map(|(pid, _)| *pid).collect();
    let config = Config::for_watch(WatchOptions {
        enforce: args.enforce,
        stall_after: Some(args.stall_after),
        engines: args.engine,
        grace: Some(args.grace),
        collect: args.evidence,
        liveness: args.liveness.map(Liveness::from),
        pids: pids.clone(),
    });
    let rules = Rules::of_config(config);
    let settings = rules.settings(false);
    let rules = Arc::new(rules);
    let handle = rescue::start(sensor, settings, rules, Arc::default(), move |notice| {
        teller.tell(notice);
    })?;
    handle
        .remote()
        .watch(pids.iter().map(|pid| (*pid, 0)).collect());

    let reason = wait(&signals, handle.ended(), &mut targets, command.as_mut())?;
    let status = command
        .as_mut()
        .map(Child::wait)
        .transpose()
        .context("cannot wait for the command")?;
    let _ = handle.stop();
    let Some(reason) = reason else {
        output.finish();
        return Ok(1);
    };
    let at = clock::now();
    let pid = pids.first().copied().unwrap_or(Pid(0));
    let code = status.map(exit_code);
    output.line(
        Lines::ended(at, pid, reason, code.map(i32::from), wall_clock()),
        String::new(),
    );
    output.finish();
    Ok(code.unwrap_or(0))
}

fn stall_after(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(span) if span.is_zero() => {
            Err("every iteration would be a stall; give at least 1ms".to_owned())
        }
        Ok(span) => Ok(span),
        Err(error) => Err(error.to_string()),
    }
}

/// As wide as the configuration file's keys.
fn liveness(text: &str) -> Result<Probe, String> {
    let spans = Duration::from_millis(1)..=Duration::from_hours(24);
    probe::parse(text, &spans, &(1..=1000))
}

fn evidence(text: &str) -> Result<Collect, String> {
    let known = Collect::WORDS.iter().find(|(word, _)| *word == text);
    known
        .map(|(_, collect)| *collect)
        .ok_or_else(|| "allowed: full, procfs, off".to_owned())
}

fn sinks(args: &Args) -> Result<Sinks> {
    let json: Option<Box<dyn io::Write + Send>> = match &args.output {
        Some(path) => {
            let file = File::create(path)
                .with_context(|| format!("cannot write --output {}", path.display()))?;
            Some(Box::new(file))
        }
        None if args.json => Some(Box::new(io::stdout())),
        None => None,
    };
    let text: Option<Box<dyn io::Write + Send>> = if args.json {
        None
    } else {
        Some(Box::new(io::stderr()))
    };
    Ok(Sinks { json, text })
}

fn open_process(pid: u32) -> Result<(Pid, OwnedFd)> {
    let known = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let known = known.with_context(|| format!("--pid {pid} is no process id"))?;
    match pidfd_open(known, PidfdFlags::empty()) {
        Ok(pidfd) => Ok((Pid(pid), pidfd)),
        Err(rustix::io::Errno::SRCH) => {
            bail!("there is no process {pid}: give the id of a running process, not of a thread")
        }
        // Linux 6.9 and later say ENOENT.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
            bail!("{pid} is a thread, not a process: give the id of its process (ps -o tgid)")
        }
        Err(error) => bail!("cannot open process {pid}: {error}"),
    }
}

fn spawn(args: &Args) -> Result<Child> {
    let Some((program, rest)) = args.command.split_first() else {
        bail!("no command given");
    };
    let mut command = Command::new(program);
    command.args(rest);
    if args.json && args.output.is_none() {
        // So that stdout stays pure JSON.
        let stderr = io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .context("cannot hand stderr to the command")?;
        command.stdout(Stdio::from(stderr));
    }
    kernel::spawn::with_clean_mask(&mut command)
        .spawn()
        .with_context(|| format!("cannot start `{program}`"))
}

/// Waits until all targets have ended or somebody asks us to end, and says which; or nothing, when the rescue thread has ended.
/// A command that was started then runs on: that the agent is broken is no reason to end a server.
fn wait(
    signals: &SignalFd,
    rescue: BorrowedFd<'_>,
    targets: &mut Vec<(Pid, OwnedFd)>,
    mut command: Option<&mut Child>,
) -> Result<Option<&'static str>> {
    let mut rescue = Some(rescue);
    while !targets.is_empty() {
        let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        fds.extend(
            targets
                .iter()
                .map(|(_, pidfd)| PollFd::new(pidfd, PollFlags::IN)),
        );
        fds.extend(rescue.map(|ended| PollFd::from_borrowed_fd(ended, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the watched processes failed"),
        }
        let ended: Vec<bool> = fds
            .iter()
            .skip(1)
            .map(|fd| !fd.revents().is_empty())
            .collect();
        if rescue.is_some() && ended.last() == Some(&true) {
            announce_end();
            rescue = None;
            if command.is_none() {
                return Ok(None);
            }
        }
        let mut ended = ended.into_iter();
        targets.retain(|_| !ended.next().unwrap_or(false));
        if let Some(signal) = signals
            .read_signal()
            .context("reading the signalfd failed")?
        {
            let Some(child) = command.as_deref_mut() else {
                return Ok(Some("interrupted"));
            };
            // The command is ours: it gets the signal and decides.
            forward(child, signal.ssi_signo, signal.ssi_code);
        }
    }
    Ok(rescue.map(|_| "target_exited"))
}

/// Whether the command has had a signal already: Ctrl-C and Ctrl-\ on a terminal reach all of its foreground group, and a second
/// one has a meaning of its own to many servers. A hang-up may reach the leader of the session only.
fn has_had(signal: rustix::process::Signal, code: i32, same_group: bool) -> bool {
    let typed = matches!(
        signal,
        rustix::process::Signal::INT | rustix::process::Signal::QUIT
    );
    typed && code == SI_KERNEL && same_group
}

fn forward(child: &Child, signal: u32, code: i32) {
    let raw = i32::try_from(signal)
        .ok()
        .and_then(rustix::process::Signal::from_named_raw);
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let (Some(signal), Some(pid)) = (raw, pid) {
        let group = rustix::process::getpgid(Some(pid));
        if has_had(signal, code, group == Ok(rustix::process::getpgrp())) {
            return;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "passes a signal meant for the command on to our own child"
        )]
        if let Err(error) = rustix::process::kill_process(pid, signal) {
            log::warn!(
                "passing signal {} on to the command failed: {error}",
                signal.as_raw()
            );
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;

    use super::*;

    #[test]
    fn what_the_terminal_has_sent_to_the_command_is_not_sent_again() {
        // By kill and by sigqueue.
        const OTHERS: [i32; 2] = [0, -1];
        for signal in [Signal::INT, Signal::QUIT] {
            assert!(has_had(signal, SI_KERNEL, true));
            assert!(
                !has_had(signal, SI_KERNEL, false),
                "it has a group of its own"
            );
            assert!(OTHERS.iter().all(|code| !has_had(signal, *code, true)));
        }
        assert!(!has_had(Signal::HUP, SI_KERNEL, true));
    }

    #[test]
    fn without_its_rescue_thread_it_ends_when_no_command_is_left() {
        let none = nix::sys::signal::SigSet::empty();
        let signals =
            SignalFd::with_flags(&none, nix::sys::signalfd::SfdFlags::SFD_NONBLOCK).unwrap();
        // Readable at once, as the end of the thread is.
        let (ended, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, &[1]).unwrap();
        let mut own = vec![open_process(std::process::id()).unwrap()];
        let reason = wait(&signals, ended.as_fd(), &mut own, None).unwrap();
        assert_eq!((reason, own.len()), (None, 1));
        let mut command = Command::new("true").spawn().unwrap();
        let mut targets = vec![open_process(command.id()).unwrap()];
        let reason = wait(&signals, ended.as_fd(), &mut targets, Some(&mut command)).unwrap();
        assert_eq!((reason, targets.len()), (None, 0));
        assert!(command.wait().unwrap().success());
    }
}
