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
        let rescues = with(lab, grace_ms, "full", loops, rounds)?;
        raw.insert(format!("grace_{grace_ms}ms"), json!(rescues.delays()));
        rows.extend(rescues.rows(grace_ms));
    }
    let (full, off) = with_and_without_evidence(lab, loops, rounds)?;
    raw.insert("evidence_full".to_owned(), json!(full.delays()));
    raw.insert("evidence_off".to_owned(), json!(off.delays()));
    rows.extend(difference(&full, &off));
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

/// Longer than stalls take to be noticed, so that evidence is gathered before the signal is due and while it is sent.
const NOTICED_MS: u64 = 200;

/// The same rescues by agents that explain stalls and by agents that do not, in turn, so that whatever else the machine does falls on
/// both.
fn with_and_without_evidence(lab: &Lab, loops: u64, rounds: u64) -> Result<(Rescues, Rescues)> {
    let (mut full, mut off) = (Rescues::default(), Rescues::default());
    for _ in 0..rounds {
        full.add(with(lab, NOTICED_MS, "full", loops, 1)?);
        off.add(with(lab, NOTICED_MS, "off", loops, 1)?);
    }
    Ok((full, off))
}

fn difference(full: &Rescues, off: &Rescues) -> [Row; 2] {
    let row = |what: &str, of: fn(&Rescues) -> &[f64], at_most: f64| {
        let (with, without) = (Spread::of(of(full)), Spread::of(of(off)));
        let note = format!(
            "p50 {:.2} with, {:.2} without; p99 {:.2} and {:.2}; {} wedges each",
            with.p50, without.p50, with.p99, without.p99, full.wedges
        );
        Row::new(what, with.p50 - without.p50, "ms")
            .limit(Limit::noisy(at_most, 5.0))
            .note(note)
    };
    [
        row(
            "evidence: what it adds to the signal's lateness, p50",
            |rescues| &rescues.signal_late_ms,
            1.0,
        ),
        row(
            "… to the time from the signal to the loop's poll, p50",
            |rescues| &rescues.signal_to_polled_ms,
            1.0,
        ),
    ]
}

fn with(lab: &Lab, grace_ms: u64, evidence: &str, loops: u64, rounds: u64) -> Result<Rescues> {
    let engine = engine(lab)?;
    let mut victims = Victim::start_many(loops, |_| Role::Wedge {
        engine: engine.clone(),
    })?;
    let grace = format!("{grace_ms}ms");
    let options = [
        "--enforce",
        "--engine",
        "query-engine-*",
        "--grace",
        &grace,
        "--evidence",
        evidence,
    ];
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

    fn add(&mut self, other: Self) {
        self.wedges += other.wedges;
        self.rescued += other.rescued;
        self.signal_late_ms.extend(other.signal_late_ms);
        self.signal_to_reaped_ms.extend(other.signal_to_reaped_ms);
        self.signal_to_polled_ms.extend(other.signal_to_polled_ms);
        self.blocked_ms.extend(other.blocked_ms);
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
