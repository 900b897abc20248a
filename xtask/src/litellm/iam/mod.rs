//! The second incident: the token of an RDS database has expired, `PrismaWrapper.__getattr__` schedules its renewal on the very loop
//! that it runs on, and waits 30 s for it. Nothing can be done about it from outside but to name it while it lasts.
//!
//! The wall clock of a real proxy is set forward by more than a token lives; one request that needs the database does the rest.

mod forecast;
mod judge;
mod source;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::clock::Clock;
use super::cluster::{self, Cluster};
use super::cost::{Before, Cost};
use super::criteria::Check;
use super::guard::{self, Guard, Mode};
use super::kubelet::{self, Kubelet, Probed, monotonic_ns};
use super::lab::{BEFORE_FIX, Lab};
use super::probe::{Figures, Prober};
use super::proxy::Proxy;
use super::{http, python, stop};
use crate::cmd;
use source::Source;

const NAME: &str = "iam";
/// What makes a proxy use tokens.
pub(crate) const SWITCH: &str = "--iam_token_db_auth";
/// More than the quarter of an hour that a token lives.
pub(crate) const FORWARD: &str = "+20m";
/// The guard's helper gets to know the proxy's interpreter meanwhile: a cost that is none of an incident's.
const BEFORE: Duration = Duration::from_secs(3);
/// A probe is known as one when it has come again after one period.
const PROBES_BEFORE: usize = 3;
const KNOWN_LIMIT: Duration = Duration::from_mins(1);
/// The proxy waits 30 s, then answers with an error.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_mins(2);
/// A guard that has not shown a stack by then is judged by what it has shown.
const STACK_LIMIT: Duration = Duration::from_secs(10);
const CLOSED_LIMIT: Duration = Duration::from_secs(30);
/// So that no other request than ours meets the expired token first.
const WATCHDOG_INTERVAL_S: &str = "600";

/// What was seen.
#[derive(Debug)]
struct Seen {
    /// All that the guard has printed.
    lines: Vec<Value>,
    /// What the liveness probe did.
    probed: Vec<Probed>,
    /// A line with a stack had been read while the request was still without an answer.
    shown_in_time: bool,
    /// `CLOCK_MONOTONIC` when the request was sent.
    asked_ns: u64,
    /// How long it took, and its HTTP status; 0 without one.
    request: Duration,
    status: u16,
    liveliness: Figures,
    cost: Cost,
}

/// Runs it.
pub(crate) fn run(lab: &Lab, guard: &Path) -> Result<Vec<Check>> {
    eprintln!("litellm: {BEFORE_FIX}, its IAM token expired, observed");
    let data = lab.run.path(&format!("{NAME}-postgres"));
    cluster::copy(&lab.path("schema"), &data)?;
    // Dropped in reverse: the proxy goes first.
    let cluster = Cluster::start(&data)?;
    let mut clock = Clock::new(lab, NAME)?;
    let mut proxy = start(lab, &cluster, &mut clock)?;
    proxy.wait_until_up()?;
    let observe = Mode::Observe {
        liveness: kubelet::SPEC,
    };
    let mut guard = Guard::start(lab, guard, NAME, proxy.pid(), observe)?;
    let kubelet = Kubelet::start(proxy.port)?;
    let prober = Prober::start(http::local(proxy.port), cmd::now());
    stop::sleep_until(cmd::now() + BEFORE)?;
    let known = stop::wait_for(KNOWN_LIMIT, Duration::from_millis(20), || {
        proxy.check().and_then(|()| guard.check())?;
        Ok((kubelet.probed().len() >= PROBES_BEFORE).then_some(()))
    })?;
    known.context("the liveness probe is not answered")?;
    let deadlock = meet(&clock, &mut proxy, &mut guard)?;
    let liveliness = Figures::of(&prober.finish().all);
    let seen = Seen {
        lines: guard.finish(),
        probed: kubelet.probed(),
        liveliness,
        ..deadlock
    };
    let venv = python::venv(lab, BEFORE_FIX);
    let wrapper = python::site_packages(&venv)?.join("litellm/proxy/db/prisma_client.py");
    print!("{}", judge::story(&seen));
    let mut checks = judge::of(&seen, &Source::read(&wrapper)?);
    checks.extend(forecast::of(&seen));
    Ok(checks)
}

fn start(lab: &Lab, cluster: &Cluster, clock: &mut Clock) -> Result<Proxy> {
    let url = cluster.url();
    let proxy = Proxy::start_with(lab, NAME, BEFORE_FIX, &url, |command| {
        clock.show_to(command);
        command
            .arg(SWITCH)
            .envs(environment("127.0.0.1", cluster.port()));
    })?;
    clock.is_shown_to(proxy.pid());
    Ok(proxy)
}

/// What makes a proxy use tokens for this database, wherever it runs.
pub(crate) fn environment(host: &str, port: u16) -> [(&'static str, String); 8] {
    [
        (
            "PRISMA_HEALTH_WATCHDOG_INTERVAL_SECONDS",
            WATCHDOG_INTERVAL_S.into(),
        ),
        // A token is signed on the spot, with any key; the database of a run asks nobody for one.
        ("AWS_ACCESS_KEY_ID", "AKIALOOPWARDENTEST00".into()),
        ("AWS_SECRET_ACCESS_KEY", "no-secret".into()),
        ("AWS_REGION_NAME", "us-east-1".into()),
        ("DATABASE_HOST", host.into()),
        ("DATABASE_PORT", port.to_string()),
        ("DATABASE_USER", "llm".into()),
        ("DATABASE_NAME", "litellm".into()),
    ]
}

/// Lets the token expire, asks for something that needs the database, and watches what the guard says meanwhile.
fn meet(clock: &Clock, proxy: &mut Proxy, guard: &mut Guard) -> Result<Seen> {
    let before = Before::of(guard.pid())?;
    clock.set(FORWARD)?;
    let port = proxy.port;
    let asked_ns = monotonic_ns()?;
    let asked = cmd::now();
    let request = std::thread::spawn(move || {
        let answer = http::get_with_key(port, "/key/list", REQUEST_LIMIT);
        (answer, cmd::now())
    });
    let mut is_alive = |guard: &mut Guard| proxy.check().and_then(|()| guard.check());
    let shown = stop::wait_for(STACK_LIMIT, Duration::from_millis(5), || {
        is_alive(guard)?;
        let shown = guard.lines().iter().any(|line| line["stack"].is_array());
        Ok(shown.then_some(()))
    })?;
    let shown_in_time = shown.is_some() && !request.is_finished();
    let cost = before.until_now()?;
    let answered = stop::wait_for(REQUEST_LIMIT, Duration::from_millis(20), || {
        is_alive(guard)?;
        Ok(request.is_finished().then_some(()))
    })?;
    if answered.is_none() {
        bail!("the request whose token has expired has no answer within {REQUEST_LIMIT:?}");
    }
    let (answer, end): (std::io::Result<http::Answer>, Instant) = request
        .join()
        .ok()
        .context("the thread that sent the request has panicked")?;
    // The criteria say so if it never comes.
    stop::wait_for(CLOSED_LIMIT, Duration::from_millis(20), || {
        is_alive(guard)?;
        let closed = guard::of_type(&guard.lines(), "stall_closed").len();
        Ok((closed > 0).then_some(()))
    })?;
    Ok(Seen {
        lines: Vec::new(),
        probed: Vec::new(),
        shown_in_time,
        asked_ns,
        request: end.saturating_duration_since(asked),
        status: answer.map_or(0, |answer| answer.status),
        liveliness: Figures::of(&[]),
        cost,
    })
}
