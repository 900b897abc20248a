//! Proxies, each with a database of its own that is frozen and thawed, and what that does to them.
//!
//! Each database freezes right after the proxy's watchdog has had an answer from it. So every row has the same history at the
//! same times: the watchdog asks again 5 s later, gives up at 10 s, and the proxy drops its engine. Without that the moment of
//! the thaw meets each proxy's reconnect cycle (10 s for an attempt, 5 s between two) at another place, and how soon it is ready
//! again is a matter of luck.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::cluster::{self, Cluster};
use super::guard::{Guard, Mode};
use super::lab::Lab;
use super::probe::{Figures, Prober};
use super::proxy::Proxy;
use super::row::{Plan, Row};
use super::sampler::Sampler;
use super::{http, stop};
use crate::cmd;

/// How long the proxies run undisturbed, measured, before the freeze.
const BEFORE: Duration = Duration::from_secs(3);
/// How long the measurement goes on after the proxy is ready again.
const AFTER: Duration = Duration::from_secs(2);
/// Between the starts of two proxies: half of the watchdog's interval, so that they do not drop their engines, and start new
/// ones, in the same moment of a small machine.
const APART: Duration = Duration::from_millis(2500);
/// What the watchdog asks for, and within which time: three of its intervals.
const WATCHDOG_QUERY: &str = "SELECT 1";
const WATCHDOG_LIMIT: Duration = Duration::from_secs(15);
/// How long recovery may take: four of the proxy's reconnect attempts.
const RECOVERY_LIMIT: Duration = Duration::from_mins(1);

/// One proxy with all that is measured on it.
///
/// Fields are dropped in this order: the database, thawed, outlives the proxy that waits for it.
struct Subject {
    plan: Plan,
    prober: Prober,
    sampler: Sampler,
    guard: Option<Guard>,
    proxy: Proxy,
    cluster: Cluster,
}

/// Moments of the freeze.
struct Moments {
    freeze: Instant,
    thaw: Instant,
    ready: Option<Instant>,
}

/// Runs some proxies at the same time: start, freeze, thaw, recovery.
pub(crate) fn run(
    lab: &Lab,
    guard: &Path,
    number: usize,
    plans: &[Plan],
    freeze: Duration,
) -> Result<Vec<Row>> {
    let names: Vec<String> = plans.iter().map(Plan::name).collect();
    eprintln!("litellm: session {number}: {}", names.join("; "));
    let origin = cmd::now();
    let subjects = start(lab, guard, number, plans, origin)?;
    // Processes are started by the main thread only (see `Process::start`); from here on there is none to start.
    std::thread::scope(|scope| {
        let runs: Vec<_> = subjects
            .into_iter()
            .map(|subject| scope.spawn(move || subject.run(number, freeze, origin)))
            .collect();
        runs.into_iter()
            .map(|run| {
                run.join()
                    .ok()
                    .context("the thread that measures a proxy has panicked")?
            })
            .collect()
    })
}

fn start(
    lab: &Lab,
    guard: &Path,
    number: usize,
    plans: &[Plan],
    origin: Instant,
) -> Result<Vec<Subject>> {
    let name = |place: usize| format!("session-{number}-{place}");
    let mut started = Vec::new();
    for (place, plan) in plans.iter().enumerate() {
        if place > 0 {
            stop::sleep_until(cmd::now() + APART)?;
        }
        let name = name(place);
        let data = lab.run.path(&format!("{name}-postgres"));
        cluster::copy(&lab.path("schema"), &data)?;
        let cluster = Cluster::start(&data)?;
        let proxy = Proxy::start(lab, &name, plan.version, &cluster.url())?;
        started.push((proxy, cluster));
    }
    for (proxy, _) in &mut started {
        proxy.wait_until_up()?;
    }
    let mut subjects = Vec::new();
    for (place, (plan, (proxy, cluster))) in plans.iter().zip(started).enumerate() {
        let guard = plan
            .grace
            .map(|grace| {
                Guard::start(
                    lab,
                    guard,
                    &name(place),
                    proxy.pid(),
                    Mode::Enforce { grace },
                )
            })
            .transpose()?;
        subjects.push(Subject {
            plan: plan.clone(),
            prober: Prober::start(http::local(proxy.port), origin),
            sampler: Sampler::start(proxy.pid(), origin),
            guard,
            proxy,
            cluster,
        });
    }
    Ok(subjects)
}

impl Subject {
    fn run(mut self, session: usize, freeze: Duration, origin: Instant) -> Result<Row> {
        let moments = self.disturb(freeze)?;
        stop::sleep_until(cmd::now() + AFTER)?;
        let since = |moment: Instant| moment.saturating_duration_since(origin).as_secs_f64() * 1e3;
        let probes = self.prober.finish();
        let seen = self.sampler.finish();
        Ok(Row {
            name: self.plan.name(),
            version: self.plan.version,
            grace_ms: self.plan.grace.map(|grace| grace.as_millis()),
            session,
            figures: Figures::of(&probes.all),
            longest_wait_ms: seen.longest_wait_ms(),
            seen,
            freeze_start_ms: since(moments.freeze),
            thaw_ms: since(moments.thaw),
            ready_after_thaw_s: moments
                .ready
                .map(|ready| ready.saturating_duration_since(moments.thaw).as_secs_f64()),
            probe_late_ms: probes.late_ms,
            guard: self.guard.map(Guard::finish).unwrap_or_default(),
            raw: probes.all,
        })
    }

    fn disturb(&mut self, freeze: Duration) -> Result<Moments> {
        stop::sleep_until(cmd::now() + BEFORE)?;
        self.cluster
            .wait_for_query(WATCHDOG_QUERY, WATCHDOG_LIMIT)?;
        // The answer is on its way; it only has to be read.
        stop::sleep_until(cmd::now() + Duration::from_millis(20))?;
        self.cluster.freeze()?;
        let start = cmd::now();
        let end = start + freeze;
        while cmd::now() < end {
            self.check()?;
            stop::sleep_until((cmd::now() + Duration::from_secs(1)).min(end))?;
        }
        self.cluster.thaw();
        let thaw = cmd::now();
        let ready = stop::wait_for(RECOVERY_LIMIT, Duration::from_millis(100), || {
            self.check()?;
            Ok(self.proxy.is_ready().then(cmd::now))
        })?;
        Ok(Moments {
            freeze: start,
            thaw,
            ready,
        })
    }

    fn check(&mut self) -> Result<()> {
        self.proxy.check()?;
        self.guard.as_mut().map_or(Ok(()), Guard::check)
    }
}
