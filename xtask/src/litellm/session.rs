//! One freeze of the database, and what it does to several proxies at once.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use super::cluster::Cluster;
use super::guard::{self, Guard};
use super::lab::Lab;
use super::probe::{Figures, Probe, Prober};
use super::proxy::Proxy;
use super::sampler::{Sampler, Seen};
use super::stop;
use crate::cmd;

/// How long the proxies run undisturbed, measured, before the freeze.
const BEFORE: Duration = Duration::from_secs(3);
/// How long after the last proxy is ready again.
const AFTER: Duration = Duration::from_secs(2);
/// How long recovery may take: two of the proxy's reconnect attempts.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// One proxy of a session.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) version: &'static str,
    /// The guard's grace; without one there is no guard.
    pub(crate) grace: Option<Duration>,
}

/// What happened to it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) version: &'static str,
    pub(crate) grace_ms: Option<u128>,
    /// Which freeze of the run; rows of the same one can be compared.
    pub(crate) session: usize,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    #[serde(flatten)]
    pub(crate) seen: Seen,
    pub(crate) longest_wait_ms: f64,
    pub(crate) ready_after_thaw_s: Option<f64>,
    pub(crate) freeze_start_ms: f64,
    pub(crate) thaw_ms: f64,
    pub(crate) probe_late_ms: f64,
    pub(crate) guard: Vec<Value>,
    pub(crate) raw: Vec<Probe>,
}

impl Row {
    /// The guard's lines that report a signal as sent.
    pub(crate) fn actions(&self) -> usize {
        guard::of_type(&self.guard, "action")
            .iter()
            .filter(|line| line["outcome"] == "sent")
            .count()
    }

    pub(crate) fn rescues(&self) -> usize {
        guard::of_type(&self.guard, "stall_closed")
            .iter()
            .filter(|line| line["rescued"] == true)
            .count()
    }

    /// What the guard says it has lost.
    pub(crate) fn lost(&self) -> u64 {
        guard::of_type(&self.guard, "lost")
            .iter()
            .filter_map(|line| line["count"].as_u64())
            .sum()
    }

    pub(crate) fn name(&self) -> String {
        match self.grace_ms {
            Some(grace) => format!("{} guarded, grace {grace} ms", self.version),
            None => format!("{} unguarded", self.version),
        }
    }
}

/// What is measured on one proxy while the session goes on.
struct Subject {
    plan: Plan,
    proxy: Proxy,
    guard: Option<Guard>,
    sampler: Sampler,
    prober: Prober,
    ready_after_thaw_s: Option<f64>,
}

/// Runs one session: start, freeze, thaw, recovery.
pub(crate) fn run(
    lab: &Lab,
    cluster: &mut Cluster,
    guard: &Path,
    number: usize,
    plans: &[Plan],
    freeze: Duration,
) -> Result<Vec<Row>> {
    let origin = cmd::now();
    let since = |moment: Instant| moment.saturating_duration_since(origin).as_secs_f64() * 1e3;
    let mut subjects = start(lab, cluster, guard, number, plans, origin)?;
    stop::sleep_until(cmd::now() + BEFORE)?;
    let freeze_start = cmd::now();
    let stopped = cluster.freeze()?;
    eprintln!("litellm: session {number}: database frozen ({stopped} processes)");
    while cmd::now() < freeze_start + freeze {
        for subject in &mut subjects {
            subject.check()?;
        }
        stop::sleep_until((cmd::now() + Duration::from_secs(1)).min(freeze_start + freeze))?;
    }
    cluster.thaw();
    let thaw = cmd::now();
    recover(&mut subjects, thaw)?;
    stop::sleep_until(cmd::now() + AFTER)?;
    let times = (since(freeze_start), since(thaw));
    Ok(subjects
        .into_iter()
        .map(|subject| subject.finish(number, times))
        .collect())
}

fn start(
    lab: &Lab,
    cluster: &Cluster,
    guard: &Path,
    number: usize,
    plans: &[Plan],
    origin: Instant,
) -> Result<Vec<Subject>> {
    let name = |place: usize| format!("session-{number}-{place}");
    let mut proxies = Vec::new();
    for (place, plan) in plans.iter().enumerate() {
        proxies.push(Proxy::start(
            lab,
            &name(place),
            plan.version,
            &cluster.url(),
        )?);
    }
    for proxy in &mut proxies {
        proxy.wait_until_up()?;
    }
    let mut subjects = Vec::new();
    for (place, (plan, proxy)) in plans.iter().zip(proxies).enumerate() {
        let guard = plan
            .grace
            .map(|grace| Guard::start(lab, guard, &name(place), proxy.pid(), grace))
            .transpose()?;
        subjects.push(Subject {
            plan: plan.clone(),
            sampler: Sampler::start(proxy.pid(), origin),
            prober: Prober::start(proxy.port, origin),
            proxy,
            guard,
            ready_after_thaw_s: None,
        });
    }
    Ok(subjects)
}

/// Asks every proxy, each on its own thread, until it is ready again.
fn recover(subjects: &mut [Subject], thaw: Instant) -> Result<()> {
    std::thread::scope(|scope| {
        let waits: Vec<_> = subjects
            .iter_mut()
            .map(|subject| scope.spawn(move || subject.wait_until_ready(thaw)))
            .collect();
        waits.into_iter().try_for_each(|wait| {
            wait.join()
                .ok()
                .context("a thread that waits for a proxy has panicked")?
        })
    })
}

impl Subject {
    fn check(&mut self) -> Result<()> {
        self.proxy.check()?;
        self.guard.as_mut().map_or(Ok(()), Guard::check)
    }

    fn wait_until_ready(&mut self, thaw: Instant) -> Result<()> {
        self.ready_after_thaw_s =
            stop::wait_for(RECOVERY_LIMIT, Duration::from_millis(100), || {
                self.check()?;
                Ok(self.proxy.is_ready().then(|| thaw.elapsed().as_secs_f64()))
            })?;
        Ok(())
    }

    fn finish(self, session: usize, (freeze_start_ms, thaw_ms): (f64, f64)) -> Row {
        let probes = self.prober.finish();
        let seen = self.sampler.finish();
        Row {
            version: self.plan.version,
            grace_ms: self.plan.grace.map(|grace| grace.as_millis()),
            session,
            figures: Figures::of(&probes.all),
            longest_wait_ms: seen.longest_wait_ms(),
            seen,
            ready_after_thaw_s: self.ready_after_thaw_s,
            freeze_start_ms,
            thaw_ms,
            probe_late_ms: probes.late_ms,
            guard: self.guard.map(Guard::finish).unwrap_or_default(),
            raw: probes.all,
        }
    }
}
