//! What surrounds one stall: slow file systems and devices, a name server, limits, and the hand that stops the process.

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::cgroup::Cgroup;
use super::lab::Lab;
use super::row::{Environment, Row, Stage};
use crate::cmd;
use crate::litellm::process::{hold, signal_held};
use crate::litellm::stop;
use crate::measure::sys::mono_ns;
use crate::measure::victims::die_with_us;

/// How long the harness's own stalls last; the programs' are as long.
const HOLD: Duration = Duration::from_millis(1500);

/// A program that has said that its stall begins is back in its poller after this.
const SETTLE: Duration = Duration::from_millis(200);
/// The calls that a loop waits in.
const POLLS: [i64; 2] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait];

/// This machine cannot make such a stall; that is nobody's mistake.
#[derive(Debug)]
pub(super) struct Unable(pub(super) String);

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unable {}

pub(super) fn unable(reason: String) -> anyhow::Error {
    Unable(reason).into()
}

/// All of it for one run. What is dropped first uses what is dropped later.
#[derive(Debug)]
pub(super) struct Scene {
    stage: Stage,
    pub(super) cgroup: Option<Cgroup>,
    /// The folder with the files of name resolution.
    pub(super) names: Option<PathBuf>,
    _device: Option<LoopDevice>,
    _slow: Option<SlowFiles>,
}

impl Scene {
    pub(super) fn set(
        lab: &Lab,
        row: &Row,
        environment: Environment,
        folder: &Path,
        number: usize,
    ) -> Result<Self> {
        let slow = match row.stage {
            Stage::SlowFiles | Stage::SlowDevice => Some(SlowFiles::mount(lab, folder)?),
            _ => None,
        };
        let device = match row.stage {
            Stage::SlowDevice => Some(LoopDevice::on(folder)?),
            _ => None,
        };
        let names = match row.stage {
            Stage::OwnNameServer => Some(name_files(folder, number)?),
            _ => None,
        };
        let grouped = row.needs_cgroup() || environment == Environment::Root;
        let name = format!("loopwarden-accuracy-{}-{number}", std::process::id());
        let cgroup = grouped.then(|| Cgroup::make(&name)).transpose()?;
        if let (Some(cgroup), true) = (&cgroup, row.is_favoured()) {
            cgroup.favour()?;
        }
        Ok(Self {
            stage: row.stage,
            cgroup,
            names,
            _device: device,
            _slow: slow,
        })
    }

    /// Right before the program is told to stall.
    pub(super) fn before(&self) -> Result<()> {
        match (self.stage, &self.cgroup) {
            (Stage::Quota { period_ms }, Some(cgroup)) => cgroup.starve(period_ms),
            (Stage::MemoryLimit, Some(cgroup)) => cgroup.limit_memory(),
            _ => Ok(()),
        }
    }

    /// Whether the stall begins with what `during` does, and not with what the program does.
    pub(super) fn begins_it(&self) -> bool {
        matches!(self.stage, Stage::Freeze | Stage::Stop)
    }

    /// Once the program has said that its stall begins. Answers with the time in which the label holds where that is the harness's
    /// doing.
    pub(super) fn during(&self, pid: u32) -> Result<Option<(u64, u64)>> {
        match (self.stage, &self.cgroup) {
            (Stage::MemoryLimit, Some(cgroup)) => {
                // What it does afterwards, with all the memory it wants, is no wait for memory any more.
                held(|| Ok(()), || cgroup.free_memory())
            }
            (Stage::Freeze, Some(cgroup)) => {
                hold_in_poll(pid, |frozen| cgroup.freeze(frozen), || cgroup.is_frozen())?;
                held(|| Ok(()), || cgroup.freeze(false))
            }
            (Stage::Stop, _) => {
                let process = hold(pid).context("the program is gone")?;
                let send = |stop| {
                    let signal = if stop { Signal::STOP } else { Signal::CONT };
                    signal_held(&process, signal);
                    Ok(())
                };
                hold_in_poll(pid, send, || is_stopped(pid))?;
                held(|| Ok(()), || send(false))
            }
            _ => Ok(None),
        }
    }
}

/// Stops or freezes the process while its loop is idle: where it stands is then known.
fn hold_in_poll(
    pid: u32,
    hold: impl Fn(bool) -> Result<()>,
    is_held: impl Fn() -> bool,
) -> Result<()> {
    let stopped = stop::wait_for(Duration::from_secs(10), SETTLE, || {
        std::thread::sleep(SETTLE);
        hold(true)?;
        let end = cmd::now() + SETTLE;
        while !is_held() && cmd::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        let number: i64 = call
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(-1);
        if is_held() && POLLS.contains(&number) {
            return Ok(Some(()));
        }
        hold(false)?;
        Ok(None)
    })?;
    stopped.context("the loop was never idle when it was stopped")
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, after)| after.trim_start().starts_with('T'))
}

fn held(
    stop: impl FnOnce() -> Result<()>,
    resume: impl FnOnce() -> Result<()>,
) -> Result<Option<(u64, u64)>> {
    let from = mono_ns();
    stop()?;
    std::thread::sleep(HOLD);
    let to = mono_ns();
    resume()?;
    Ok(Some((from, to)))
}

/// `slowfs.py`, mounted at `slow` in a folder.
#[derive(Debug)]
struct SlowFiles {
    server: Child,
    stdin: Option<ChildStdin>,
}

impl SlowFiles {
    fn mount(lab: &Lab, folder: &Path) -> Result<Self> {
        if !Path::new("/dev/fuse").exists() {
            return Err(unable("there is no /dev/fuse".into()));
        }
        let slow = folder.join("slow");
        fs::create_dir(&slow).with_context(|| format!("cannot make {}", slow.display()))?;
        let mut command = Command::new(&lab.python);
        command
            .arg(lab.program("slowfs.py"))
            .arg(&slow)
            .arg(HOLD.as_secs_f64().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        die_with_us(&mut command);
        let mut server = command.spawn().context("cannot start slowfs.py")?;
        let stdin = server.stdin.take();
        let stdout = server.stdout.take();
        let this = Self { server, stdin };
        let mut line = String::new();
        BufReader::new(stdout.context("slowfs.py has no stdout")?)
            .read_line(&mut line)
            .context("cannot read what slowfs.py says")?;
        if line != "mounted\n" {
            return Err(unable("a FUSE file system cannot be mounted here".into()));
        }
        Ok(this)
    }
}

impl Drop for SlowFiles {
    fn drop(&mut self) {
        // It unmounts when its stdin is closed.
        self.stdin = None;
        let end = cmd::now() + Duration::from_secs(5);
        while matches!(self.server.try_wait(), Ok(None)) && cmd::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A block device whose file is on the slow file system.
#[derive(Debug)]
struct LoopDevice(String);

impl LoopDevice {
    fn on(folder: &Path) -> Result<Self> {
        let shown = cmd::output(
            Command::new("losetup")
                .args(["--find", "--show"])
                .arg(folder.join("slow/disk")),
        );
        let shown = shown.map_err(|error| unable(format!("no loop device: {error:#}")))?;
        let device = Self(shown.trim().to_owned());
        fs::write(folder.join("device"), &device.0).context("cannot name the loop device")?;
        Ok(device)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = cmd::run(Command::new("losetup").args(["--detach", &self.0])) {
            eprintln!("accuracy: {} is left: {error:#}", self.0);
        }
    }
}

/// Files that send every look-up to an address of loopback where nobody answers.
fn name_files(folder: &Path, number: usize) -> Result<PathBuf> {
    let names = folder.join("names");
    fs::create_dir(&names).with_context(|| format!("cannot make {}", names.display()))?;
    // One for each run: they may run side by side.
    let address = format!("127.83.{}.{}", number / 250, number % 250 + 1);
    let settings = format!("nameserver {address}\noptions timeout:2 attempts:1\n");
    for (file, text) in [
        ("resolv.conf", settings.as_str()),
        ("nsswitch.conf", "hosts: dns\n"),
    ] {
        fs::write(names.join(file), text)
            .with_context(|| format!("cannot write {file} in {}", names.display()))?;
    }
    Ok(names)
}
