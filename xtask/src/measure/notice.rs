//! How long after its threshold a stall is noticed, with a hundred loops: stalls at random moments, many of them at the
//! same time, and all hundred at once, as when a database fails under every proxy of a node.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::agent::{Agent, Lab, Line};
use super::row::{Limit, Row};
use super::stats::Spread;
use super::sys::{figure, ms_between};
use super::victim::{Role, Stall};
use super::victims::{Victim, pids};
use super::{LOOPS, Outcome, Size, pause};

const STALL_AFTER_NS: u64 = 100_000_000;
/// Ten times the threshold: what is noticed later than that was not noticed.
const LATEST_NS: u64 = 1_000_000_000;
/// A stall that is told of twice is told of again as it ends.
const TOLD_AGAIN_NS: u64 = 50_000_000;

pub(super) fn measure(lab: &Lab, size: Size) -> Result<Outcome> {
    let (stalls, rounds) = match size {
        Size::Short => (300, 3),
        Size::Full => (2000, 20),
    };
    let random = at_random(lab, stalls)?;
    let together = all_at_once(lab, rounds)?;
    let mut rows = random.rows("stall noticed after its threshold");
    rows.extend(together.rows("the same, all loops stalling at once"));
    Ok(Outcome {
        rows,
        raw: json!({"random": random.raw(), "all_at_once": together.raw()}),
    })
}

/// Each loop stalls by itself, for 150 to 400 ms about every second.
fn at_random(lab: &Lab, wanted: u64) -> Result<Noticed> {
    let (mut victims, mut agent) = start(lab, |seed| Role::Stall { seed })?;
    for victim in &mut victims {
        victim.go()?;
    }
    agent.wait_until("enough stalls", Duration::from_secs(wanted / 5), |lines| {
        let opened = lines.iter().filter(|line| line.is("stall_opened")).count();
        opened as u64 >= wanted
    })?;
    for victim in &mut victims {
        victim.go()?;
    }
    Noticed::of(victims, agent)
}

fn all_at_once(lab: &Lab, rounds: u64) -> Result<Noticed> {
    let (mut victims, agent) = start(lab, |_| Role::Sleep { milliseconds: 300 })?;
    for _ in 0..rounds {
        for victim in &mut victims {
            victim.go()?;
        }
        pause(Duration::from_millis(700));
    }
    Noticed::of(victims, agent)
}

fn start(lab: &Lab, role: impl Fn(u64) -> Role) -> Result<(Vec<Victim>, Agent)> {
    let victims = Victim::start_many(LOOPS, role)?;
    let agent = Agent::start(lab, &pids(&victims), &["--stall-after", "100ms"], "warn")?;
    Ok((victims, agent))
}

#[derive(Debug, Default)]
struct Noticed {
    plan: String,
    stalls: u64,
    missed: u64,
    /// Told of more than once.
    again: u64,
    /// About iterations that no victim made long on purpose: the machine kept one waiting, or the agent is wrong.
    other: u64,
    /// By the line's `mono_ns`, and when the line could be read.
    late_ms: Vec<f64>,
    read_late_ms: Vec<f64>,
}

impl Noticed {
    /// Ends both sides and compares what they recorded.
    fn of(victims: Vec<Victim>, agent: Agent) -> Result<Self> {
        // The last of the victims may sleep still, and the latest lines are the ones that matter.
        pause(Duration::from_millis(1500));
        let mut noticed = Self {
            plan: agent.plan(),
            ..Self::default()
        };
        let lines = agent.interrupt()?;
        for victim in victims {
            let pid = victim.pid();
            let stalls: Vec<Stall> = victim.finish()?;
            let of_pid = |line: &&Line| line.is("stall_opened") && line.pid() == pid;
            let opened: Vec<&Line> = lines.iter().filter(of_pid).collect();
            noticed.compare(&stalls, &opened);
        }
        Ok(noticed)
    }

    fn compare(&mut self, stalls: &[Stall], opened: &[&Line]) {
        self.stalls += stalls.len() as u64;
        let mut told = 0;
        for stall in stalls {
            let due = stall.begin_ns + STALL_AFTER_NS;
            let within = |end: u64| {
                opened
                    .iter()
                    .filter(move |line| (stall.begin_ns..end).contains(&line.number("mono_ns")))
            };
            match within(due + LATEST_NS).next() {
                Some(line) => {
                    self.late_ms.push(ms_between(due, line.number("mono_ns")));
                    self.read_late_ms.push(ms_between(due, line.read_ns));
                    told += 1;
                }
                None => self.missed += 1,
            }
            let again = (within(stall.end_ns + TOLD_AGAIN_NS).count() as u64).saturating_sub(1);
            self.again += again;
            told += again;
        }
        self.other += (opened.len() as u64).saturating_sub(told);
    }

    fn rows(&self, name: &str) -> Vec<Row> {
        let (late, read) = (Spread::of(&self.late_ms), Spread::of(&self.read_late_ms));
        vec![
            Row::new(format!("{name}, p99"), late.p99, "ms")
                .limit(Limit::noisy(10.0, 5.0))
                .note(format!(
                    "{} stalls of {LOOPS} loop processes; p50 {:.2}, max {:.2}; {}",
                    self.stalls, late.p50, late.max, self.plan
                )),
            Row::new("… its line could be read, p99", read.p99, "ms")
                .limit(Limit::noisy(10.0, 5.0))
                .note(format!("p50 {:.2}, max {:.2}", read.p50, read.max)),
            Row::new(
                "… not told of, or more than once",
                figure(self.missed + self.again),
                "",
            )
            .limit(Limit::always(0.0))
            .note(format!(
                "{} missed, {} told again; {} of iterations that the machine made long",
                self.missed, self.again, self.other
            )),
        ]
    }

    fn raw(&self) -> Value {
        json!({"late_ms": self.late_ms, "read_late_ms": self.read_late_ms})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(mono_ms: u64) -> Line {
        Line {
            read_ns: mono_ms * 1_000_000 + 500_000,
            value: json!({"mono_ns": mono_ms * 1_000_000}),
        }
    }

    fn stall(begin_ms: u64, end_ms: u64) -> Stall {
        Stall {
            begin_ns: begin_ms * 1_000_000,
            end_ns: end_ms * 1_000_000,
        }
    }

    #[test]
    fn each_line_belongs_to_a_stall_or_to_none() {
        let stalls = [stall(1000, 1200), stall(3000, 3300), stall(9000, 9200)];
        let lines = [line(500), line(1102), line(1201), line(3101)];
        let mut noticed = Noticed::default();
        noticed.compare(&stalls, &lines.iter().collect::<Vec<_>>());
        assert_eq!(
            (noticed.stalls, noticed.missed, noticed.again, noticed.other),
            (3, 1, 1, 1)
        );
        assert_eq!(noticed.late_ms, [2.0, 1.0]);
        assert_eq!(noticed.read_late_ms, [2.5, 1.5]);
    }
}
