//! `cargo xtask litellm`: the real LiteLLM proxy through its incident, unguarded, guarded, and with its own fix.
//!
//! The proxies, prisma-client-py and PostgreSQL are the real ones, from their package registries; only Prisma's query engine is
//! a stand-in (`xtask/engine`). The database is frozen by SIGSTOP, as `docker pause` does it, and `/health/liveliness` is probed
//! every 100 ms throughout. One run prints one table and then the criteria it had to meet.
//!
//! Only processes that the run has started are signalled, each by its id. Everything listens on loopback.

mod cluster;
mod engine;
mod guard;
mod http;
mod lab;
mod probe;
mod process;
mod proxy;
mod python;
mod report;
mod sampler;
mod session;
mod stop;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use cluster::Cluster;
use lab::{BEFORE_FIX, Lab, OWN_FIX};
use session::Plan;

/// Arguments
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The guard to run as `GUARD watch --json …`, instead of this workspace's own, built for the purpose
    #[arg(long, value_name = "FILE")]
    guard: Option<PathBuf>,
    /// How long the database is frozen, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(15..=300))]
    freeze: u64,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the logs of the run
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    stop::listen()?;
    let mut lab = Lab::prepare()?;
    let guard = args.guard.clone().map_or_else(guard::build, Ok)?;
    let result = measure(args, &lab, &guard);
    if args.keep || result.is_err() {
        eprintln!("litellm: the logs are in {}", lab.run.keep().display());
    }
    result
}

fn measure(args: &Args, lab: &Lab, guard: &std::path::Path) -> Result<()> {
    let data = lab.run.path("postgres");
    cluster::copy(&lab.path("schema"), &data)?;
    let mut cluster = Cluster::start(&data)?;
    let freeze = Duration::from_secs(args.freeze);
    let plan = |version, grace: Option<u64>| Plan {
        version,
        grace: grace.map(Duration::from_millis),
    };
    let sessions = [
        vec![plan(BEFORE_FIX, None), plan(BEFORE_FIX, Some(500))],
        vec![plan(BEFORE_FIX, Some(20)), plan(OWN_FIX, None)],
    ];
    let mut rows = Vec::new();
    for (number, plans) in sessions.iter().enumerate() {
        rows.extend(session::run(
            lab,
            &mut cluster,
            guard,
            number + 1,
            plans,
            freeze,
        )?);
    }
    print!("{}", report::table(&rows));
    if let Some(file) = &args.json {
        let json = serde_json::to_string(&rows).context("cannot write the results as JSON")?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
