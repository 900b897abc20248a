//! The countdown of workers that listen on one port with a socket each (`SO_REUSEPORT`).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use super::liveness::{period, probe};
use crate::harness::line::Line;
use crate::harness::scene::Scene;
use crate::harness::victim::Victim;
use crate::harness::{alive, slowness};
use crate::sys;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "liveness::workers_with_a_socket_each_answer_for_each_other",
            workers_have_a_socket_each,
        ),
        Case::new(
            "liveness::workers_with_a_socket_each_fail_a_share_of_the_probes",
            a_share_fails,
        ),
    ]
}

/// A parent, and two workers that listen on one port with a socket each (`SO_REUSEPORT`): the kernel chooses whom a connection meets.
struct Workers {
    scene: Scene,
    pids: [u32; 2],
    port: String,
}

impl Workers {
    fn start(probe: &str) -> Result<Self> {
        let victim = Victim::start(&["loop", "epoll_wait"])?;
        let mut scene = Scene::with(victim, &["--liveness", probe])?;
        let mut fork = |port: &str| -> Result<(u32, String)> {
            let told = scene.victim.ask(&format!("fork-server {port}"), "serves")?;
            let (pid, port) = told.split_once(' ').context("no port")?;
            let pid = pid.parse()?;
            scene
                .watch
                .next("the worker", |line| line.is("loop", pid))?;
            Ok((pid, port.to_owned()))
        };
        let (first, port) = fork("0")?;
        let (second, _) = fork(&port)?;
        Ok(Self {
            scene,
            pids: [first, second],
            port,
        })
    }

    /// Stops a worker or lets it go on, and says since which line.
    fn signal(&self, worker: usize, number: i32) -> Result<usize> {
        let from = self.scene.watch.seen().len();
        alive::signal(self.pids[worker], number)?;
        Ok(from)
    }

    /// Waits until each of them has such a line among those from that one on, and returns these.
    fn each(
        &mut self,
        what: &str,
        from: usize,
        wanted: impl Fn(&Line) -> bool,
    ) -> Result<[Line; 2]> {
        let mut of = |pid| {
            let is_it = |line: &Line| line.is("risk", pid) && wanted(line);
            let watch = &mut self.scene.watch;
            let seen = watch.seen().iter().skip(from).find(|line| is_it(line));
            match seen.cloned() {
                Some(line) => Ok(line),
                None => watch.next(&format!("{what} of {pid}"), is_it),
            }
        };
        let [first, second] = self.pids;
        Ok([of(first)?, of(second)?])
    }
}

/// While one of them polls, nothing is forecast from the stall of the other; when both are away it is, from when the last one left.
fn workers_have_a_socket_each() -> Result<()> {
    let period_ms = 4000 * u64::from(slowness());
    let mut workers = Workers::start(&probe(period_ms))?;
    // Where they listen is read from procfs, and nothing tells when it is known.
    workers.scene.watch.linger(period_ms / 4)?;
    let stopped = workers.pids[0];
    let from = workers.signal(0, libc::SIGSTOP)?;
    let is_stall = |line: &Line| line.is("stall_opened", stopped);
    workers.scene.watch.next("the stall", is_stall)?;
    // Without the other worker there would be a warning after a quarter of the period.
    workers.scene.watch.linger(period_ms)?;
    let mut seen = workers.scene.watch.seen().iter().skip(from);
    let warned = seen.find(|line| line.kind() == "risk" && line.text("/level") != "none");
    ensure!(
        warned.is_none(),
        "warned while a worker answers: {}",
        warned.map_or(String::new(), ToString::to_string)
    );
    let last = sys::mono_ns();
    let from = workers.signal(1, libc::SIGSTOP)?;
    let is_elevated = |line: &Line| line.text("/level") == "elevated";
    for elevated in workers.each("a warning", from, is_elevated)? {
        let left = elevated.float("/seconds_to_decision");
        ensure!(
            left > Some(Duration::from_millis(period_ms).as_secs_f64())
                && elevated.mono_ns() > last,
            "{elevated}"
        );
    }
    let from = workers.signal(1, libc::SIGCONT)?;
    workers.each("the end of the risk", from, |line| {
        line.text("/level") == "none"
    })?;
    workers.signal(0, libc::SIGCONT)?;
    workers.scene.end(&[]).map(|_| ())
}

/// The probes that meet the one that is away fail: both are told of them, because the kubelet ends both.
fn a_share_fails() -> Result<()> {
    let ms = u64::try_from(period().as_millis())?;
    // More failures in a row than the kernel's choice makes.
    let spec = format!("{ms}ms/{}ms/20", ms / 4);
    let mut workers = Workers::start(&spec)?;
    let mut kubelet = Victim::start(&["kubelet", &workers.port, &spec])?;
    for _ in 0..4 {
        kubelet.answer("alive")?;
    }
    let from = workers.signal(0, libc::SIGSTOP)?;
    kubelet.answer("failed")?;
    let failed = workers.each("a failed probe", from, |line| {
        line.is_true("/probes_seen") && line.number("/failed_probes") >= Some(1)
    })?;
    for line in failed {
        ensure!(line.float("/seconds_to_decision").is_some(), "{line}");
    }
    let from = workers.signal(0, libc::SIGCONT)?;
    kubelet.answer("alive")?;
    workers.each("the end of the risk", from, |line| {
        line.text("/level") == "none" && line.number("/failed_probes") == Some(0)
    })?;
    workers.scene.end(&[]).map(|_| ())
}
