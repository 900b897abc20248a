//! `loopwarden doctor`: what this kernel and these privileges allow, and what to do about the rest.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use serde_json::json;

use crate::kernel::{self, Verdict, Way};

/// Say what this kernel and these privileges allow, and what to do about the rest.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command; the value is the exit status.
pub fn run(args: &Args) -> Result<u8> {
    let sensor = kernel::sensor(loopwarden_abi::Settings::default());
    let plan = sensor.plan();
    let mut out = std::io::stdout().lock();
    let broken = plan
        .verdicts
        .values()
        .any(|verdict| matches!(verdict, Verdict::Broken(_)));
    if args.json {
        let verdicts: BTreeMap<_, _> = plan
            .verdicts
            .iter()
            .map(|(name, verdict)| {
                (
                    name,
                    json!({"verdict": verdict.name(), "reason": verdict.reason()}),
                )
            })
            .collect();
        writeln!(
            out,
            "{}",
            json!({"type": "doctor", "plan": plan.way.name(), "verdicts": verdicts})
        )?;
    } else {
        writeln!(out, "Loops are watched by: {}", explain(plan.way))?;
        for (name, verdict) in &plan.verdicts {
            writeln!(out, "  {:<11} {name}", verdict.name())?;
            if !verdict.reason().is_empty() {
                writeln!(out, "              {}", verdict.reason())?;
            }
        }
    }
    Ok(u8::from(broken))
}

fn explain(way: Way) -> &'static str {
    match way {
        Way::Fentry => "fentry (the few system calls needed, no cost to others)",
        Way::Tracepoint => {
            "tracepoints of single system calls (some 80 ns more for every system call of the machine)"
        }
        Way::Sampling => {
            "sampling procfs (slower to notice; who told a child to end stays unknown)"
        }
    }
}
