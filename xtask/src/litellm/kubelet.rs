//! A liveness probe as a kubelet makes it, by a process of its own: who probes is told by the process that connects.
//!
//! The rules are those of `pkg/kubelet/prober`: a tick every period; one probe at a time, the next at the next tick; a time-out is one
//! failure; one answer resets the count; no probe after the decision to kill.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::http;
use super::process::Process;
use crate::cmd;

/// periodSeconds, timeoutSeconds, failureThreshold, as `loopwarden watch --liveness` takes them.
pub(crate) const SPEC: &str = "5/2/4";
const PERIOD: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);
const FAILURES: u32 = 4;

/// Arguments of the hidden task that probes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    port: u16,
}

/// One probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probed {
    /// `CLOCK_MONOTONIC`, as in the guard's lines.
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    /// Failures in a row with this one; 0 if it was answered.
    pub(crate) failed: u32,
}

impl Probed {
    /// The container would be killed now.
    pub(crate) fn decides(&self) -> bool {
        self.failed >= FAILURES
    }
}

/// Probes until it decides or is ended, and prints each probe.
pub(crate) fn play(args: &Args) -> Result<()> {
    let first = cmd::now();
    let mut tick = 0;
    let mut failed = 0;
    loop {
        std::thread::sleep((first + PERIOD * tick).saturating_duration_since(cmd::now()));
        let start_ns = monotonic_ns()?;
        let answer = http::get(http::local(args.port), "/health/liveliness", TIMEOUT);
        failed = if answer.is_ok_and(|answer| answer.is_success()) {
            0
        } else {
            failed + 1
        };
        let probed = Probed {
            start_ns,
            end_ns: monotonic_ns()?,
            failed,
        };
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &probed)?;
        writeln!(out).and_then(|()| out.flush())?;
        if probed.decides() {
            return Ok(());
        }
        tick += 1;
    }
}

/// A running probe; ended when dropped.
#[derive(Debug)]
pub(crate) struct Kubelet {
    _process: Process,
    probed: Arc<Mutex<Vec<Probed>>>,
    _reader: JoinHandle<()>,
}

impl Kubelet {
    pub(crate) fn start(port: u16) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let mut command = Command::new(program);
        command
            .args(["kubelet", &port.to_string()])
            .stdout(Stdio::piped());
        let mut process = Process::start("the liveness probe", &mut command)?;
        let stdout = process.stdout().context("the probe has no output")?;
        let probed = Arc::<Mutex<Vec<Probed>>>::default();
        let read = probed.clone();
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for probe in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                read.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(probe);
            }
        });
        Ok(Self {
            _process: process,
            probed,
            _reader: reader,
        })
    }

    /// The probes so far.
    pub(crate) fn probed(&self) -> Vec<Probed> {
        self.probed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The clock of the guard's lines.
pub(crate) fn monotonic_ns() -> Result<u64> {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic))
        .context("the monotonic clock is before its own start")?;
    Ok(u64::try_from(now.as_nanos())?)
}
