//! How long a rescue takes: from the end of the grace to the signal, and from there to the loop's next poll.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::agent::{Agent, Lab, Line};
use super::row::{Limit, Row};
use super::stats::{Random, Spread};
use super::sys::{figure, ms_between};
use super::victim::{Role, Wedged};
use super::victims::{Victim, pids};
use super::{Outcome, Size, pause};
use crate::layout;

/// Longer than the agent's pause after an action, in which it signals nothing of the same loop.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(1300);

pub(super) fn measure(lab: &Lab, size: Size) -> Result<Outcome> {
    let (loops, rounds) = match size {
        Size::Short => (10, 2),
        Size::Full => (20, 8),
    };
    let mut rows = Vec::new();
    let mut raw = serde_json::Map::new();
    for grace_ms in [20, 500] {
        let rescues = with(lab, grace_ms, loops, rounds)?;
        raw.insert(format!("grace_{grace_ms}ms"), json!(rescues.delays()));
        rows.extend(rescues.rows(grace_ms));
    }
    Ok(Outcome {
        rows,
        raw: raw.into(),
    })
}

/// This program under a name that an engine could have.
fn engine(lab: &Lab) -> Result<std::path::PathBuf> {
    let engine = lab.path("query-engine-victim");
    let this = layout::this_program()?;
    if !engine.exists() && std::fs::hard_link(&this, &engine).is_err() {
        std::fs::copy(&this, &engine)
            .with_context(|| format!("cannot copy {} to {}", this.display(), engine.display()))?;
    }
    Ok(engine)
}

fn with(lab: &Lab, grace_ms: u64, loops: u64, rounds: u64) -> Result<Rescues> {
    let engine = engine(lab)?;
    let mut victims = Victim::start_many(loops, |_| Role::Wedge {
        engine: engine.clone(),
    })?;
    let grace = format!("{grace_ms}ms");
    let options = ["--enforce", "--engine", "query-engine-*", "--grace", &grace];
    let agent = Agent::start(lab, &pids(&victims), &options, "warn")?;
    let mut random = Random::new(grace_ms);
    let mut wedges = Vec::new();
    for _ in 0..rounds {
        for victim in &mut victims {
            pause(Duration::from_micros(random.between(1_000, 40_000)));
            victim.go()?;
        }
        for victim in &mut victims {
            wedges.push((victim.pid(), victim.read::<Wedged>()?));
        }
        pause(BETWEEN_ROUNDS);
    }
    let lines = agent.interrupt()?;
    for victim in victims {
        victim.end()?;
    }
    Rescues::of(grace_ms, &wedges, &lines)
}

#[derive(Debug, Default)]
struct Rescues {
    wedges: u64,
    rescued: u64,
    signal_late_ms: Vec<f64>,
    signal_to_reaped_ms: Vec<f64>,
    signal_to_polled_ms: Vec<f64>,
    blocked_ms: Vec<f64>,
}

impl Rescues {
    fn of(grace_ms: u64, wedges: &[(u32, Wedged)], lines: &[Line]) -> Result<Self> {
        let mut rescues = Self {
            wedges: wedges.len() as u64,
            ..Self::default()
        };
        let freed = |line: &&Line| line.is("stall_closed") && line.value["rescued"] == true;
        rescues.rescued = lines.iter().filter(freed).count() as u64;
        for (pid, wedge) in wedges {
            let action = lines.iter().find(|line| {
                line.is("action")
                    && line.pid() == *pid
                    && line.number("child") == u64::from(wedge.engine)
                    && line.value["outcome"] == "sent"
            });
            let Some(action) = action else {
                continue;
            };
            let sent = action.number("mono_ns");
            rescues
                .signal_late_ms
                .push(ms_between(wedge.wait_ns + grace_ms * 1_000_000, sent));
            rescues
                .signal_to_reaped_ms
                .push(ms_between(sent, wedge.reaped_ns));
            rescues
                .signal_to_polled_ms
                .push(ms_between(sent, wedge.polled_ns));
            rescues
                .blocked_ms
                .push(ms_between(wedge.wait_ns, wedge.polled_ns));
        }
        ensure!(
            !rescues.signal_late_ms.is_empty(),
            "no wedged engine was signalled at all"
        );
        Ok(rescues)
    }

    fn delays(&self) -> serde_json::Value {
        json!({
            "signal_late_ms": self.signal_late_ms,
            "signal_to_reaped_ms": self.signal_to_reaped_ms,
            "signal_to_polled_ms": self.signal_to_polled_ms,
            "blocked_ms": self.blocked_ms,
        })
    }

    fn rows(&self, grace_ms: u64) -> [Row; 3] {
        let (late, polled, blocked) = (
            Spread::of(&self.signal_late_ms),
            Spread::of(&self.signal_to_polled_ms),
            Spread::of(&self.blocked_ms),
        );
        let left = self.wedges - self.rescued.min(self.wedges);
        [
            Row::new(
                format!("grace {grace_ms} ms: engine signalled after it was due, p99"),
                late.p99,
                "ms",
            )
            .limit(Limit::noisy(10.0, 5.0))
            .note(format!(
                "{} wedges; p50 {:.2}, max {:.2}",
                self.wedges, late.p50, late.max
            )),
            Row::new(
                "… from the signal to the loop's poll, p99",
                polled.p99,
                "ms",
            )
            .note(format!(
                "p50 {:.2}, max {:.2}; loop blocked p50 {:.1}, max {:.1}",
                polled.p50, polled.max, blocked.p50, blocked.max
            )),
            Row::new("… wedges that were not rescued", figure(left), "").limit(Limit::always(0.0)),
        ]
    }
}
