//! The third incident: traffic and jobs before the engine listens. The real prisma-client-py starts an engine that listens late, and
//! what the guard tells of it is held against the engine's own log and the client's own count.

mod judge;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::Value;

use super::cluster::{self, Cluster};
use super::criteria::Check;
use super::guard::{Guard, Mode};
use super::lab::{BEFORE_FIX, Lab};
use super::process::{self, Process};
use super::{engine, kubelet, python, stop};

/// So long after the client has its answer the guard may need to tell of it.
const TOLD_LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);

/// How late an engine listens, and how long its client waits for it.
#[derive(Debug, Clone, Copy)]
struct Plan {
    name: &'static str,
    listen_after: Duration,
    patience: Duration,
}

const PLANS: [Plan; 4] = [
    Plan {
        name: "800 ms",
        listen_after: Duration::from_millis(800),
        patience: Duration::from_mins(1),
    },
    Plan {
        name: "3 s",
        listen_after: Duration::from_secs(3),
        patience: Duration::from_mins(1),
    },
    Plan {
        name: "12 s",
        listen_after: Duration::from_secs(12),
        patience: Duration::from_mins(1),
    },
    Plan {
        name: "never",
        listen_after: Duration::from_mins(1),
        patience: Duration::from_secs(5),
    },
];

/// What was seen in one run.
#[derive(Debug)]
struct Seen {
    name: &'static str,
    /// All that the guard has printed.
    lines: Vec<Value>,
    /// What the engine has written: `event` and `unix_us`.
    moments: Vec<Value>,
    /// What the client says.
    result: Value,
    /// Wall clock minus the clock of the lines, in microseconds.
    offset_us: i64,
}

/// Runs all of them.
pub(crate) fn run(lab: &Lab, guard: &Path) -> Result<Vec<Check>> {
    let data = lab.run.path("startup-postgres");
    cluster::copy(&lab.path("schema"), &data)?;
    let cluster = Cluster::start(&data)?;
    let mut checks = Vec::new();
    let mut table = judge::HEAD.to_owned();
    for (number, plan) in PLANS.iter().enumerate() {
        eprintln!(
            "litellm: prisma-client-py, an engine that listens after: {}",
            plan.name
        );
        let seen = meet(lab, guard, &cluster, plan, number)?;
        table += &judge::row(&seen);
        checks.extend(judge::of(&seen));
    }
    print!("{table}");
    Ok(checks)
}

fn meet(lab: &Lab, guard: &Path, cluster: &Cluster, plan: &Plan, number: usize) -> Result<Seen> {
    let name = format!("startup-{number}");
    let folder = lab.run.path(&name);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let (result, moments) = (folder.join("result.json"), folder.join("moments.jsonl"));
    let log = process::log_file(&folder.join("client.log"))?;
    let mut client = start(lab, cluster, plan, &folder, log)?;
    let mut guard = Guard::start(lab, guard, &name, client.pid(), Mode::Tell)?;
    std::fs::write(folder.join("go"), "")?;
    let limit = plan.patience + plan.listen_after + TOLD_LIMIT;
    let answered = stop::wait_for(limit, STEP, || {
        guard.check()?;
        Ok((result.exists() || client.status()?.is_some()).then_some(()))
    })?;
    answered.with_context(|| format!("the client has no result within {limit:?}"))?;
    let result = std::fs::read_to_string(&result)
        .with_context(|| format!("the client has failed; see {}", folder.display()))?;
    // What is told last: that the engine accepts, or that it was in vain.
    let last = |line: &Value| line["event"] == "accepting" || line["event"] == "ended";
    stop::wait_for(TOLD_LIMIT, STEP, || {
        guard.check()?;
        Ok(guard.lines().iter().any(last).then_some(()))
    })?;
    let offset_us = offset_us()?;
    client.end();
    let moments = std::fs::read_to_string(&moments).unwrap_or_default();
    let moments = moments
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>();
    Ok(Seen {
        name: plan.name,
        lines: guard.finish(),
        moments: moments.context("the engine has written no JSON")?,
        result: serde_json::from_str(&result).context("the client has written no JSON")?,
        offset_us,
    })
}

fn start(
    lab: &Lab,
    cluster: &Cluster,
    plan: &Plan,
    folder: &Path,
    log: std::fs::File,
) -> Result<Process> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("litellm/startup.py");
    let venv = python::venv(lab, BEFORE_FIX);
    let mut command = Command::new(venv.join("bin/python"));
    command
        .arg(script)
        .arg(folder)
        .arg(plan.patience.as_secs().to_string())
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("LANG", "C.UTF-8")
        .env("DATABASE_URL", cluster.url())
        .env("PRISMA_HOME_DIR", python::prisma_home(lab))
        .env("PRISMA_QUERY_ENGINE_BINARY", engine::path(lab))
        .env(
            "STANDIN_LISTEN_AFTER_MS",
            plan.listen_after.as_millis().to_string(),
        )
        .env("STANDIN_MOMENTS", folder.join("moments.jsonl"))
        .stdout(log.try_clone()?)
        .stderr(log);
    let client = Process::start("the client", &mut command)?;
    Ok(client.ends_by(Signal::TERM, Duration::from_secs(10)))
}

fn offset_us() -> Result<i64> {
    let mono = kubelet::monotonic_ns()? / 1000;
    #[expect(
        clippy::disallowed_methods,
        reason = "the engine writes wall-clock times"
    )]
    let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    Ok(i64::try_from(wall)? - i64::try_from(mono)?)
}
