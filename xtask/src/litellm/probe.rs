//! The measurement: `GET /health/liveliness` every 100 ms, open-loop, each on its own thread with a timeout of 10 s.
//!
//! Open-loop: a probe starts when it is due, however many before it still wait, as probes of independent clients do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::http;
use crate::cmd;

const PERIOD: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(10);

/// One probe.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Probe {
    /// When it started, counted from the start of the measurement.
    pub(crate) at_ms: f64,
    pub(crate) latency_ms: f64,
    /// The HTTP status; 0 when none came back in time.
    pub(crate) status: u16,
}

/// Probes one address until it is told to finish.
#[derive(Debug)]
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Probes>>,
}

/// What a prober has seen.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    pub(crate) all: Vec<Probe>,
    /// How late a probe was started at worst: what this machine's own load adds to a figure.
    pub(crate) late_ms: f64,
}

impl Prober {
    pub(crate) fn start(address: SocketAddr, origin: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        Self {
            stop,
            thread: Some(std::thread::spawn(move || run(address, origin, &seen))),
        }
    }

    /// Ends the probing and waits for the probes still out.
    pub(crate) fn finish(mut self) -> Probes {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(address: SocketAddr, origin: Instant, stop: &AtomicBool) -> Probes {
    let results = Arc::new(Mutex::new(Vec::new()));
    let mut out: Vec<JoinHandle<()>> = Vec::new();
    let mut late = Duration::ZERO;
    let mut due = cmd::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(cmd::now()));
        late = late.max(cmd::now().saturating_duration_since(due));
        out.retain(|probe| !probe.is_finished());
        let results = results.clone();
        out.push(std::thread::spawn(move || {
            let probe = once(address, origin);
            results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(probe);
        }));
        due += PERIOD;
    }
    for probe in out {
        let _ = probe.join();
    }
    let mut all = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
    all.sort_by(|a: &Probe, b| a.at_ms.total_cmp(&b.at_ms));
    Probes {
        all,
        late_ms: late.as_secs_f64() * 1e3,
    }
}

fn once(address: SocketAddr, origin: Instant) -> Probe {
    let start = cmd::now();
    let status =
        http::get(address, "/health/liveliness", TIMEOUT).map_or(0, |answer| answer.status);
    Probe {
        at_ms: start.saturating_duration_since(origin).as_secs_f64() * 1e3,
        latency_ms: start.elapsed().as_secs_f64() * 1e3,
        status,
    }
}

/// Figures of a set of probes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) probes: usize,
    pub(crate) ok_percent: f64,
    pub(crate) max_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "some hundreds of probes")]
    pub(crate) fn of(probes: &[Probe]) -> Self {
        let mut latencies: Vec<f64> = probes.iter().map(|probe| probe.latency_ms).collect();
        latencies.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let last = latencies.len().saturating_sub(1);
            latencies
                .get(last * percent / 100)
                .copied()
                .unwrap_or(f64::NAN)
        };
        let ok = probes
            .iter()
            .filter(|probe| (200..300).contains(&probe.status))
            .count();
        Self {
            probes: probes.len(),
            ok_percent: ok as f64 * 100.0 / probes.len() as f64,
            max_ms: at(100),
            p50_ms: at(50),
            p99_ms: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_count_every_probe() {
        let probe = |latency: i32, status| Probe {
            at_ms: 0.0,
            latency_ms: latency.into(),
            status,
        };
        let mut probes: Vec<Probe> = (1..=99).map(|n| probe(n, 200)).collect();
        probes.push(probe(10_000, 0));
        let figures = Figures::of(&probes);
        assert_eq!(figures.probes, 100);
        assert!((figures.ok_percent - 99.0).abs() < 1e-9);
        assert!((figures.max_ms - 10_000.0).abs() < 1e-9);
        assert!((figures.p50_ms - 50.0).abs() < 1e-9);
    }
}
