//! `cargo xtask litellm`: the real LiteLLM proxy through its incidents, unguarded, guarded, and with its own fix.
//!
//! The proxies, prisma-client-py and PostgreSQL are the real ones, from their package registries; only Prisma's query engine is
//! a stand-in (`xtask/engine`). The database is frozen by SIGSTOP, as `docker pause` does it, and `/health/liveliness` is probed
//! every 100 ms throughout. One run prints one table and then the criteria it had to meet. One more proxy meets the deadlock of an
//! expired IAM token, which nobody can end from outside: there the guard has to name it.
//!
//! Only processes that the run has started are signalled, each by its id. Everything listens on loopback.

pub(crate) mod clock;
pub(crate) mod cluster;
mod cost;
pub(crate) mod criteria;
pub(crate) mod engine;
pub(crate) mod guard;
pub(crate) mod http;
pub(crate) mod iam;
pub(crate) mod kubelet;
pub(crate) mod lab;
pub(crate) mod probe;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod python;
mod report;
mod row;
mod run_dir;
mod sampler;
mod session;
mod soak;
mod startup;
pub(crate) mod stop;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use criteria::{Check, Strictness};
use lab::{BEFORE_FIX, Lab, OWN_FIX};
use row::{Plan, Row};

/// Arguments
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of the command line, most of which exclude each other"
)]
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Three runs with each grace, the figures themselves as criteria instead of proportions, and the soak; 20 minutes
    #[arg(long)]
    full: bool,
    /// Only the soak: a healthy proxy under light load, its engine replaced twice, in which nothing may be done
    #[arg(long, conflicts_with = "full")]
    soak: bool,
    /// Only the deadlock of an expired IAM token, which the guard has to name while it lasts; a minute
    #[arg(long, conflicts_with_all = ["full", "soak"])]
    iam: bool,
    /// Only engines that listen late: how long, and how often the real prisma-client-py is refused meanwhile; a minute
    #[arg(long, conflicts_with_all = ["full", "soak", "iam"])]
    startup: bool,
    /// How long the soak lasts, in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    soak_minutes: u64,
    /// The guard to run as `GUARD watch --json …`, instead of this workspace's own, built for the purpose
    #[arg(long, value_name = "FILE")]
    guard: Option<PathBuf>,
    /// How long the database is frozen, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(15..=300))]
    freeze: u64,
    /// Write everything that was measured for the table to this file
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
    verdict(&result?)
}

fn measure(args: &Args, lab: &Lab, guard: &Path) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    if args.startup || args.full {
        checks.extend(startup::run(lab, guard)?);
    }
    if args.startup {
        return Ok(checks);
    }
    if !args.soak && !args.iam {
        let rows = table(args, lab, guard)?;
        let strictness = if args.full {
            Strictness::Figures
        } else {
            Strictness::Proportions
        };
        checks.extend(criteria::of(&rows, strictness));
    }
    if !args.soak {
        checks.extend(iam::run(lab, guard)?);
    }
    if args.soak || args.full {
        checks.extend(soak::run(
            lab,
            guard,
            Duration::from_mins(args.soak_minutes),
        )?);
    }
    Ok(checks)
}

fn table(args: &Args, lab: &Lab, guard: &Path) -> Result<Vec<Row>> {
    let freeze = Duration::from_secs(args.freeze);
    let mut rows = Vec::new();
    for (number, plans) in sessions(args.full).iter().enumerate() {
        rows.extend(session::run(lab, guard, number + 1, plans, freeze)?);
    }
    print!("{}", report::table(&rows));
    if let Some(file) = &args.json {
        write_json(file, &rows)?;
    }
    Ok(rows)
}

/// Which proxies run at the same time. Two are what two cores carry without one slowing the other: they take turns at the
/// moments that count, because their watchdogs do.
fn sessions(full: bool) -> Vec<Vec<Plan>> {
    let guarded = |grace| Plan {
        version: BEFORE_FIX,
        grace: Some(Duration::from_millis(grace)),
    };
    let alone = |version| Plan {
        version,
        grace: None,
    };
    let first = vec![alone(BEFORE_FIX), guarded(500)];
    let shortest = vec![guarded(20), alone(OWN_FIX)];
    if full {
        vec![
            first,
            vec![guarded(500), guarded(500)],
            shortest.clone(),
            shortest.clone(),
            shortest,
        ]
    } else {
        vec![first, shortest]
    }
}

fn write_json(file: &Path, rows: &[Row]) -> Result<()> {
    let json = serde_json::to_string(rows).context("cannot write the results as JSON")?;
    std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))
}

/// Prints each criterion and how many were met; a missed one is an error.
pub(crate) fn verdict(checks: &[Check]) -> Result<()> {
    for check in checks {
        println!(
            "{} {}",
            if check.passed { "ok    " } else { "FAILED" },
            check.text
        );
    }
    let failed = checks.iter().filter(|check| !check.passed).count();
    let summary = format!("{} passed, {failed} failed", checks.len() - failed);
    println!("{summary}");
    if failed > 0 {
        bail!(summary);
    }
    Ok(())
}
