//! How long after its threshold a stall is noticed, with a hundred loops of which many stall at the same time.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::agent::{Agent, Lab, Line};
use super::row::{Limit, Row};
use super::stats::Spread;
use super::sys::ms_between;
use super::victim::{Role, Stall};
use super::victims::{Victim, pids};
use super::{LOOPS, Outcome, Size, pause};

const STALL_AFTER_NS: u64 = 100_000_000;
/// Ten times the threshold: what is noticed later than that was not noticed.
const LATEST_NS: u64 = 1_000_000_000;

pub(super) fn measure(lab: &Lab, size: Size) -> Result<Outcome> {
    let wanted = match size {
        Size::Short => 300,
        Size::Full => 2000,
    };
    let mut victims = Victim::start_many(LOOPS, |seed| Role::Stall { seed })?;
    let mut agent = Agent::start(lab, &pids(&victims), &["--stall-after", "100ms"], "warn")?;
    let plan = agent.plan();
    for victim in &mut victims {
        victim.go()?;
    }
    let limit = Duration::from_secs(wanted / 5);
    agent.wait_until("enough stalls", limit, |lines| {
        let opened = lines.iter().filter(|line| line.is("stall_opened")).count();
        opened as u64 >= wanted
    })?;
    for victim in &mut victims {
        victim.go()?;
    }
    // The last of them may sleep still, and those that are late are the ones that matter.
    pause(Duration::from_millis(1500));
    let lines = agent.interrupt()?;
    let mut noticed = Noticed::default();
    for victim in victims {
        let pid = victim.pid();
        let stalls: Vec<Stall> = victim.finish()?;
        noticed.add(&stalls, &lines, pid);
    }
    Ok(noticed.outcome(plan))
}

#[derive(Debug, Default)]
struct Noticed {
    stalls: usize,
    missed: usize,
    /// By the line's `mono_ns`, and when the line could be read.
    late_ms: Vec<f64>,
    read_late_ms: Vec<f64>,
    /// Lines beyond one a stall: this machine kept a healthy victim from running, or the agent is wrong.
    opened: usize,
}

impl Noticed {
    fn add(&mut self, stalls: &[Stall], lines: &[Line], pid: u32) {
        let opened: Vec<&Line> = lines
            .iter()
            .filter(|line| line.is("stall_opened") && line.pid() == pid)
            .collect();
        self.stalls += stalls.len();
        self.opened += opened.len();
        for stall in stalls {
            let due = stall.begin_ns + STALL_AFTER_NS;
            let line = opened
                .iter()
                .find(|line| (stall.begin_ns..due + LATEST_NS).contains(&line.number("mono_ns")));
            match line {
                Some(line) => {
                    self.late_ms.push(ms_between(due, line.number("mono_ns")));
                    self.read_late_ms.push(ms_between(due, line.read_ns));
                }
                None => self.missed += 1,
            }
        }
    }

    fn outcome(self, plan: String) -> Outcome {
        let (late, read) = (Spread::of(&self.late_ms), Spread::of(&self.read_late_ms));
        let extra = self.opened.saturating_sub(self.late_ms.len());
        let count = |count: usize| u32::try_from(count).map_or(f64::NAN, f64::from);
        let rows = vec![
            Row::new("stall noticed after its threshold, p99", late.p99, "ms")
                .limit(Limit::noisy(10.0, 5.0))
                .note(format!(
                    "{} stalls of {LOOPS} loop processes; p50 {:.2}, max {:.2}; {plan}",
                    self.stalls, late.p50, late.max
                )),
            Row::new("… its line could be read, p99", read.p99, "ms")
                .limit(Limit::noisy(10.0, 5.0))
                .note(format!("p50 {:.2}, max {:.2}", read.p50, read.max)),
            Row::new("… stalls without a line", count(self.missed), "")
                .limit(Limit::always(0.0))
                .note(format!(
                    "{extra} lines about other iterations (the machine kept a victim waiting)"
                )),
        ];
        let raw = json!({"late_ms": self.late_ms, "read_late_ms": self.read_late_ms});
        Outcome { rows, raw }
    }
}
