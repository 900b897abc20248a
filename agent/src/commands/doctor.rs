//! `loopwarden doctor`: what this kernel and these privileges allow, and what to do about the rest.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::Result;
use serde_json::{Value, json};

use super::checks::{Check, Facts, judge};
use crate::kernel::{self, Plan, Verdict, Way};

/// Say what this kernel and these privileges allow, and what to do about the rest.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command; the value is the exit status.
pub fn run(args: &Args) -> Result<u8> {
    let sensor = kernel::sensor(kernel::Settings::default());
    let plan = sensor.plan();
    let checks = judge(&Facts::gather(plan.way));
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", to_json(plan, &checks))?;
    } else {
        write_text(&mut out, plan, &checks)?;
    }
    let mut verdicts = plan
        .verdicts
        .values()
        .chain(checks.iter().map(|check| &check.verdict));
    let broken = verdicts.any(|verdict| matches!(verdict, Verdict::Broken(_)));
    Ok(u8::from(broken))
}

fn to_json(plan: &Plan, checks: &[Check]) -> Value {
    let row = |verdict: &Verdict| json!({"verdict": verdict.name(), "reason": verdict.reason()});
    let mut verdicts: BTreeMap<&str, Value> = plan
        .verdicts
        .iter()
        .map(|(name, verdict)| (name.as_str(), row(verdict)))
        .collect();
    for check in checks {
        let mut found = row(&check.verdict);
        if !check.advice.is_empty() {
            found["advice"] = json!(check.advice);
        }
        verdicts.insert(check.name, found);
    }
    json!({"type": "doctor", "plan": plan.way.name(), "verdicts": verdicts})
}

fn write_text(out: &mut impl Write, plan: &Plan, checks: &[Check]) -> io::Result<()> {
    writeln!(out, "Loops are watched by: {}", explain(plan.way))?;
    for (name, verdict) in &plan.verdicts {
        write_row(out, name, verdict, "")?;
    }
    writeln!(out, "\nThe agent and this machine:")?;
    for check in checks {
        write_row(out, check.name, &check.verdict, check.advice)?;
    }
    Ok(())
}

fn write_row(out: &mut impl Write, name: &str, verdict: &Verdict, advice: &str) -> io::Result<()> {
    writeln!(out, "  {:<11} {name}", verdict.name())?;
    if !verdict.reason().is_empty() {
        writeln!(out, "              {}", verdict.reason())?;
    }
    if !advice.is_empty() {
        writeln!(out, "              -> {advice}")?;
    }
    Ok(())
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
