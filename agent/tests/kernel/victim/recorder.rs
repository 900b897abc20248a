//! An agent that keeps records: watches one loop as `watch` does, and tells the record of each incident as a line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use loopwarden::config::{Config, ExeGlob, WatchOptions, duration};
use loopwarden::export::lines::WallClock;
use loopwarden::kernel;
use loopwarden::pipeline::collect::{Collector, Step};
use loopwarden::pipeline::{IncidentId, Notice, Pid};
use loopwarden::rescue;
use loopwarden::wiring::Rules;

use super::looper::answer;

/// Runs until its input ends.
pub(super) fn run(pid: &str, mode: &str, grace: &str, engine: &str) -> Result<()> {
    let run_dir = tempfile::tempdir().context("no folder for locks and budgets")?;
    // SAFETY: this process has one thread yet.
    unsafe { std::env::set_var("LOOPWARDEN_RUN_DIR", run_dir.path()) };
    let pid = Pid(pid.parse()?);
    let config = Config::for_watch(WatchOptions {
        enforce: mode == "enforce",
        engines: vec![ExeGlob::new(engine).map_err(anyhow::Error::msg)?],
        grace: Some(duration::parse(grace)?),
        pids: vec![pid],
        ..WatchOptions::default()
    });
    let rules = Arc::new(Rules::of_config(config));
    let settings = rules.settings(false);
    let in_force = settings.in_force(0);
    let collector = Mutex::new(Collector::new(IncidentId(1)));
    let tell = move |notice: Notice| {
        if matches!(notice, Notice::Loop { .. }) {
            answer("ready");
        }
        #[expect(clippy::disallowed_methods, reason = "records have wall-clock times")]
        let wall = SystemTime::now();
        let clock = WallClock::tie(kernel::clock::now(), wall).tied();
        let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
        if let Step::Closed(record) = collector.take(&notice, clock, |_| in_force) {
            answer(&format!(
                "record {}",
                serde_json::to_string(&record).unwrap_or_default()
            ));
        }
    };
    let sensor = kernel::sensor(loopwarden_abi::Settings::default());
    let handle = rescue::start(sensor, settings, rules, Arc::default(), tell)?;
    handle.remote().watch(vec![(pid, 0)]);
    // Whatever is told, it is to end.
    let _ = std::io::stdin().lines().next();
    let _ = handle.stop();
    Ok(())
}
