//! What the proxy's main thread sits in, by `/proc/PID/task/PID/syscall`, every 20 ms; and which engines the proxy has had.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::process;
use crate::cmd;

const PERIOD: Duration = Duration::from_millis(20);
/// Looking through all processes costs more than reading one file.
const ENGINES_EVERY: u32 = 10;

#[cfg(target_arch = "x86_64")]
const WAIT4: &str = "61";
#[cfg(target_arch = "aarch64")]
const WAIT4: &str = "260";

/// What a sampler has seen.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Seen {
    /// Each stretch in wait4 on one child that was long enough to be sampled twice.
    pub(crate) waits: Vec<Wait>,
    /// The engines the proxy has had, in the order of their ids.
    pub(crate) engines: BTreeSet<u32>,
}

/// A stretch of time in wait4.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Wait {
    pub(crate) child: u32,
    pub(crate) start_ms: f64,
    pub(crate) length_ms: f64,
}

impl Seen {
    /// The longest stretch; 0 without any.
    pub(crate) fn longest_wait_ms(&self) -> f64 {
        self.waits
            .iter()
            .map(|wait| wait.length_ms)
            .fold(0.0, f64::max)
    }
}

/// Samples one process until dropped or finished.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    pub(crate) fn start(pid: u32, origin: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let thread = {
            let (stop, seen) = (stop.clone(), seen.clone());
            std::thread::spawn(move || run(pid, origin, &stop, &seen))
        };
        Self {
            stop,
            seen,
            thread: Some(thread),
        }
    }

    /// What has been seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.seen()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The engines a process has as children: those that serve a port, not the short-lived `--version` ones.
pub(crate) fn engines(pid: u32) -> Vec<process::Descendant> {
    process::children(pid)
        .into_iter()
        .filter(|child| {
            let words = fs::read(format!("/proc/{}/cmdline", child.pid)).unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0);
            let program = words.next().unwrap_or_default();
            String::from_utf8_lossy(program).contains("query-engine") && words.next() == Some(b"-p")
        })
        .collect()
}

fn run(pid: u32, origin: Instant, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let path = format!("/proc/{pid}/task/{pid}/syscall");
    let mut current: Option<Wait> = None;
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(call) = fs::read_to_string(&path) else {
            break;
        };
        let at_ms = cmd::now().saturating_duration_since(origin).as_secs_f64() * 1e3;
        let child = waited_for(&call);
        match (&mut current, child) {
            (Some(wait), Some(child)) if wait.child == child => {
                wait.length_ms = at_ms - wait.start_ms;
            }
            (_, child) => {
                close(current.take(), seen);
                current = child.map(|child| Wait {
                    child,
                    start_ms: at_ms,
                    length_ms: 0.0,
                });
            }
        }
        if turn % ENGINES_EVERY == 0 {
            let engines = engines(pid).into_iter().map(|engine| engine.pid);
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .engines
                .extend(engines);
        }
        turn += 1;
        std::thread::sleep(PERIOD);
    }
    close(current, seen);
}

fn close(wait: Option<Wait>, seen: &Mutex<Seen>) {
    if let Some(wait) = wait.filter(|wait| wait.length_ms > 0.0) {
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waits
            .push(wait);
    }
}

/// The child that a blocking wait4 names, read from a thread's `syscall` file. With WNOHANG it is no wait.
pub(crate) fn waited_for(call: &str) -> Option<u32> {
    let mut words = call.split_whitespace();
    if words.next()? != WAIT4 {
        return None;
    }
    let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let (child, _status, options) = (argument()?, argument()?, argument()?);
    (options & 1 == 0)
        .then_some(u32::try_from(child).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_blocking_wait_counts() {
        let call =
            |options: u32| format!("{WAIT4} 0x2a 0x7ffc 0x{options:x} 0x0 0x0 0x0 0x7ffc 0x7f12");
        assert_eq!(waited_for(&call(0)), Some(42));
        assert_eq!(waited_for(&call(1)), None);
        assert_eq!(waited_for("running"), None);
        assert_eq!(waited_for("281 0x5 0x0"), None);
    }
}
