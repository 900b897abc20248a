//! `cargo xtask measure`: the agent on real processes against the limits it promises, in one table.
//!
//! Measurements, not tests: they print figures and compare. A short run allows limits times a factor that the table names,
//! because it may share its machine; `--full` takes the limits themselves and longer. Processes are started by the main
//! thread only, and only processes of the run are signalled.

pub(crate) mod agent;
mod cost;
mod notice;
mod rate;
mod rescue;
mod row;
mod stats;
mod storm;
pub(crate) mod sys;
mod victim;
pub(crate) mod victims;
mod wakeups;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::{bpf, cmd};
use agent::Lab;
use row::{Row, Strictness, table};

pub(crate) use victim::{Role, run as play};

/// Loops that an agent watches where their number matters.
const LOOPS: u64 = 100;

/// Arguments of `cargo xtask measure`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Longer runs, and the limits themselves instead of limits times a factor
    #[arg(long)]
    full: bool,
    /// Fail when a limit is missed
    #[arg(long)]
    check: bool,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these measurements
    #[arg(value_enum, value_name = "WHAT")]
    only: Vec<What>,
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// How long after its threshold a stall is noticed
    Notice,
    /// Wake-ups, processor time and memory with idle loops
    Wakeups,
    /// Iterations counted at high rates
    Rate,
    /// Events of a storm of processes and signals
    Storm,
    /// From the end of the grace to the signal and the loop's next poll
    Rescue,
    /// Nanoseconds that the hooks add to a system call
    Cost,
}

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Short,
    Full,
}

/// What a measurement gives.
#[derive(Debug)]
struct Outcome {
    rows: Vec<Row>,
    raw: Value,
}

const ALL: [What; 6] = [
    What::Notice,
    What::Wakeups,
    What::Rate,
    What::Storm,
    What::Rescue,
    What::Cost,
];

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Wakeups => "wakeups",
            Self::Rate => "rate",
            Self::Storm => "storm",
            Self::Rescue => "rescue",
            Self::Cost => "cost",
        }
    }

    fn measure(self, lab: &Lab, size: Size) -> Result<Outcome> {
        match self {
            Self::Notice => notice::measure(lab, size),
            Self::Wakeups => wakeups::measure(lab, size),
            Self::Rate => rate::measure(lab, size),
            Self::Storm => storm::measure(lab, size),
            Self::Rescue => rescue::measure(lab, size),
            Self::Cost => cost::measure(lab, size),
        }
    }
}

/// Measures; the answer is whether the exit status is to be 0.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if !bpf::allowed_for("the measurements")? {
        return Ok(true);
    }
    let lab = Lab::prepare()?;
    let (size, strictness) = if args.full {
        (Size::Full, Strictness::Exact)
    } else {
        (Size::Short, Strictness::Generous)
    };
    println!("{}", machine());
    let mut rows = Vec::new();
    let mut raw = Map::new();
    let mut broken = 0;
    for what in ALL {
        if !args.only.is_empty() && !args.only.contains(&what) {
            continue;
        }
        let start = cmd::now();
        let load = sys::load();
        match what.measure(&lab, size) {
            Ok(outcome) => {
                raw.insert(
                    what.name().into(),
                    json!({"rows": outcome.rows, "raw": outcome.raw, "load_before": load}),
                );
                rows.extend(outcome.rows);
            }
            Err(error) => {
                broken += 1;
                eprintln!("measure: {} failed: {error:#}", what.name());
            }
        }
        eprintln!(
            "measure: {} took {} (load before: {load})",
            what.name(),
            cmd::minutes(start.elapsed())
        );
    }
    print!("{}", table(&rows, strictness));
    if let Some(file) = &args.json {
        write_json(file, &raw)?;
    }
    let kept = |wanted| {
        rows.iter()
            .filter(|row| row.kept(strictness) == Some(wanted))
            .count()
    };
    let failed = kept(false) + broken;
    println!("{} passed, {failed} failed", kept(true));
    Ok(!args.check || failed == 0)
}

fn write_json(file: &Path, raw: &Map<String, Value>) -> Result<()> {
    let json = json!({"machine": machine(), "measurements": raw});
    std::fs::write(file, json.to_string())
        .with_context(|| format!("cannot write {}", file.display()))
}

/// What the figures depend on.
fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "kernel {}, {cores} cores, load {}",
        kernel.trim(),
        sys::load()
    )
}

/// Lets the victims go on for a while: a measurement is about a span of time.
fn pause(span: Duration) {
    std::thread::sleep(span);
}
