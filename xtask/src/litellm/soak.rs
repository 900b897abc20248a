//! The other half of the proof: a healthy proxy under light load, guarded in enforce mode, whose engine is replaced on purpose.
//! Nothing may be signalled, and nothing may be blamed on the thread that waits for the engine all its life.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::Value;

use super::cluster::{self, Cluster};
use super::criteria::Check;
use super::guard::{self, Guard, Mode};
use super::lab::{BEFORE_FIX, Lab};
use super::probe::{Figures, Prober};
use super::proxy::Proxy;
use super::sampler::{self, Sampler, Seen};
use super::{http, stop};
use crate::cmd;

/// The default: what an operator runs with.
const GRACE: Duration = Duration::from_millis(500);
/// Four requests a second.
const LOAD_PERIOD: Duration = Duration::from_millis(250);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The watchdog asks every 5 s.
const REPLACE_LIMIT: Duration = Duration::from_mins(1);
/// A wait of the loop thread from which on a guard may speak of a stall (`stall_after` is 100 ms), less what sampling misses.
const STALL_MS: f64 = 60.0;

/// What the load has seen.
#[derive(Debug, Default)]
struct Load {
    stop: AtomicBool,
    sent: AtomicU32,
    answered: AtomicU32,
}

/// Runs the soak.
pub(crate) fn run(lab: &Lab, guard: &Path, length: Duration) -> Result<Vec<Check>> {
    eprintln!(
        "litellm: soak: {BEFORE_FIX}, healthy, guarded, for {} s",
        length.as_secs()
    );
    let data = lab.run.path("soak-postgres");
    cluster::copy(&lab.path("schema"), &data)?;
    let cluster = Cluster::start(&data)?;
    let mut proxy = Proxy::start(lab, "soak", BEFORE_FIX, &cluster.url())?;
    proxy.wait_until_up()?;
    let mut guard = Guard::start(
        lab,
        guard,
        "soak",
        proxy.pid(),
        Mode::Enforce { grace: GRACE },
    )?;
    let origin = cmd::now();
    let prober = Prober::start(http::local(proxy.port), origin);
    let sampler = Sampler::start(proxy.pid(), origin);
    let load = Load::default();
    let port = proxy.port;
    let helpers = std::thread::scope(|scope| {
        scope.spawn(|| load.run(port));
        let helpers = replace_twice(&mut proxy, &cluster, &mut guard, length);
        load.stop.store(true, Ordering::Relaxed);
        helpers
    })?;
    let figures = Figures::of(&prober.finish().all);
    let seen = sampler.finish();
    let pid = proxy.pid();
    let lines = guard.finish();
    let (sent, answered) = (load.sent.into_inner(), load.answered.into_inner());
    eprintln!(
        "litellm: soak: {answered} of {sent} requests answered well, liveliness max {:.1} ms, longest wait4 of the loop thread {:.0} ms",
        figures.max_ms,
        seen.longest_wait_ms()
    );
    Ok(judge(
        &lines,
        pid,
        &seen,
        &figures,
        &helpers,
        (sent, answered),
    ))
}

/// Replaces the engine after a third and after two thirds of the time. Returns, for the start and each replacement, the engine
/// that a helper thread was seen waiting for.
fn replace_twice(
    proxy: &mut Proxy,
    cluster: &Cluster,
    guard: &mut Guard,
    length: Duration,
) -> Result<BTreeSet<u32>> {
    let third = length / 3;
    let mut helpers = BTreeSet::from([helper(proxy)?]);
    rest(proxy, guard, third)?;
    for engine in proxy.engines() {
        eprintln!(
            "litellm: soak: killing engine {}, as an operator would",
            engine.pid
        );
        engine.signal(Signal::KILL);
    }
    helpers.insert(wait_for_new(proxy, &helpers, || Ok(()))?);
    rest(proxy, guard, third)?;
    eprintln!(
        "litellm: soak: closing the engine's sessions in the database until the proxy replaces it by itself"
    );
    let replaced = wait_for_new(proxy, &helpers, || {
        let close = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'litellm' AND usename = 'llm'";
        cluster.sql("postgres", close).map(drop)
    })?;
    helpers.insert(replaced);
    rest(proxy, guard, third)?;
    Ok(helpers)
}

fn rest(proxy: &mut Proxy, guard: &mut Guard, length: Duration) -> Result<()> {
    let end = cmd::now() + length;
    while cmd::now() < end {
        proxy.check()?;
        guard.check()?;
        stop::sleep_until((cmd::now() + Duration::from_secs(1)).min(end))?;
    }
    Ok(())
}

/// Disturbs until the proxy has an engine that it had not before, is ready, and watches it. Returns that engine.
fn wait_for_new(
    proxy: &mut Proxy,
    old: &BTreeSet<u32>,
    disturb: impl Fn() -> Result<()>,
) -> Result<u32> {
    let is_new = |proxy: &Proxy| {
        proxy
            .engines()
            .iter()
            .any(|engine| !old.contains(&engine.pid))
    };
    let new = stop::wait_for(REPLACE_LIMIT, Duration::from_millis(300), || {
        proxy.check()?;
        if is_new(proxy) {
            return Ok(Some(()));
        }
        disturb().map(|()| None)
    })?;
    new.with_context(|| format!("the proxy has not replaced its engine within {REPLACE_LIMIT:?}"))?;
    let ready = stop::wait_for(REPLACE_LIMIT, Duration::from_millis(300), || {
        proxy.check()?;
        Ok(proxy.is_ready().then_some(()))
    })?;
    ready.with_context(|| {
        format!("the proxy is not ready within {REPLACE_LIMIT:?} with its new engine")
    })?;
    helper(proxy)
}

/// The engine that a thread other than the loop's waits for; it is what makes this run a test.
fn helper(proxy: &Proxy) -> Result<u32> {
    let found = stop::wait_for(REPLACE_LIMIT, Duration::from_millis(100), || {
        let engines: Vec<u32> = proxy.engines().iter().map(|engine| engine.pid).collect();
        Ok(waited_for_by_helpers(proxy.pid())
            .into_iter()
            .find(|child| engines.contains(child)))
    })?;
    found.context(
        "no thread of the proxy but its first waits for the engine: this run would prove nothing",
    )
}

fn waited_for_by_helpers(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .filter_map(|thread| thread.ok()?.file_name().into_string().ok())
        .filter(|thread| *thread != pid.to_string())
        .filter_map(|thread| fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok())
        .filter_map(|call| sampler::waited_for(&call))
        .collect()
}

impl Load {
    /// Requests that need the key's owner, the mocked model and the spend log; now and then one that reads tables.
    fn run(&self, port: u16) {
        let body = r#"{"model":"fake","messages":[{"role":"user","content":"hello"}]}"#;
        while !self.stop.load(Ordering::Relaxed) {
            let next = cmd::now() + LOAD_PERIOD;
            let sent = self.sent.fetch_add(1, Ordering::Relaxed);
            let answer = if sent % 20 == 19 {
                http::get_with_key(port, "/key/list", REQUEST_LIMIT)
            } else {
                http::post(port, "/chat/completions", body, REQUEST_LIMIT)
            };
            if answer.is_ok_and(|answer| answer.is_success()) {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(next.saturating_duration_since(cmd::now()));
        }
    }
}

fn judge(
    lines: &[Value],
    pid: u32,
    seen: &Seen,
    figures: &Figures,
    helpers: &BTreeSet<u32>,
    (sent, answered): (u32, u32),
) -> Vec<Check> {
    let actions = guard::of_type(lines, "action").len();
    let blamed = blamed_on_helper(lines, pid, seen);
    let ok = figures.ok_percent;
    vec![
        Check::new(
            helpers.len() >= 3,
            format!(
                "soak: {} engines, each waited for by a helper thread (at least 3)",
                helpers.len()
            ),
        ),
        Check::new(actions == 0, format!("soak: {actions} actions (0)")),
        Check::new(
            blamed == 0,
            format!("soak: {blamed} incidents blamed on the helper thread's wait (0)"),
        ),
        Check::new(
            (ok - 100.0).abs() < f64::EPSILON,
            format!("soak: {ok:.2} % of the liveliness probes answered (100)"),
        ),
        // The two replacements cost some requests; more would be no healthy proxy.
        Check::new(
            sent > 0 && answered * 100 >= sent * 95,
            format!("soak: {answered} of {sent} requests answered well (at least 95 %)"),
        ),
    ]
}

/// Stalls put down to a child, that the loop thread's own waits cannot explain: of another thread, or while the sampler saw no
/// wait of the loop thread that long.
fn blamed_on_helper(lines: &[Value], pid: u32, seen: &Seen) -> usize {
    let explained = |child: Option<u64>| {
        let long = seen.waits.iter().filter(|wait| wait.length_ms >= STALL_MS);
        long.into_iter()
            .any(|wait| child.is_none_or(|child| child == u64::from(wait.child)))
    };
    guard::of_type(lines, "stall_opened")
        .into_iter()
        .chain(guard::of_type(lines, "stall_updated"))
        .filter(|line| line["cause"]["kind"] == "child_wait")
        .filter(|line| line["tid"] != pid || !explained(line["cause"]["child"]["pid"].as_u64()))
        .count()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::litellm::sampler::Wait;

    #[test]
    fn only_the_loop_threads_own_long_wait_explains_a_stall() {
        let stall = |tid: u32, child: u32| json!({"type": "stall_opened", "tid": tid, "cause": {"kind": "child_wait", "child": {"pid": child}}});
        let seen = Seen {
            waits: vec![Wait {
                child: 50,
                start_ms: 0.0,
                length_ms: 120.0,
            }],
            engines: BTreeSet::new(),
        };
        assert_eq!(blamed_on_helper(&[stall(10, 50)], 10, &seen), 0);
        assert_eq!(blamed_on_helper(&[stall(11, 50)], 10, &seen), 1);
        assert_eq!(blamed_on_helper(&[stall(10, 51)], 10, &seen), 1);
        assert_eq!(blamed_on_helper(&[stall(10, 50)], 10, &Seen::default()), 1);
        assert_eq!(
            blamed_on_helper(
                &[json!({"type": "stall_opened", "cause": {"kind": "cpu_busy"}})],
                10,
                &seen
            ),
            0
        );
    }
}
