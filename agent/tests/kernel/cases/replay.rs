//! Records of real waits, replayed under other configurations, against real runs under these configurations.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Case;
use crate::harness::victim::Victim;
use crate::harness::watch::binary;
use crate::harness::{ENGINE, in_vm};

pub(super) fn cases() -> Vec<Case> {
    vec![Case::new(
        "replay::says_what_a_real_run_does",
        says_what_a_real_run_does,
    )]
}

/// A configuration to run, and to try.
#[derive(Debug, Clone, Copy)]
struct Tried {
    mode: &'static str,
    grace: u64,
    engine: &'static str,
}

const fn tried(mode: &'static str, grace: u64, engine: &'static str) -> Tried {
    Tried {
        mode,
        grace,
        engine,
    }
}

const WATCHED: Tried = tried("observe", 400, "query-engine-*");
const SHORT: Tried = tried("enforce", 150, "query-engine-*");
const USUAL: Tried = tried("enforce", 400, "query-engine-*");
const LONG: Tried = tried("enforce", 1000, "query-engine-*");
const OTHER: Tried = tried("enforce", 400, "no-such-engine-*");
const ALL: [Tried; 5] = [WATCHED, SHORT, USUAL, LONG, OTHER];

/// How long an engine lives that nobody ends.
const LIFE: u64 = 2500;

/// Times of this test, where everything is slower.
fn scaled(ms: u64) -> u64 {
    ms * if in_vm() { 8 } else { 1 }
}

impl Tried {
    fn yaml(&self) -> String {
        format!(
            "mode: {}\ntargets:\n  - name: watch\n    match: {{ exe: \"*\" }}\n    engine: {{ match: [ {{ exe: \"{}\" }} ], grace: {}ms }}\n",
            self.mode,
            self.engine,
            scaled(self.grace)
        )
    }

    /// Lives through a wait for a deaf engine that ends by itself in the end, and returns the record.
    fn live(&self) -> Result<String> {
        let mut victim = Victim::start(&["loop", "epoll_wait"])?;
        let grace = format!("{}ms", scaled(self.grace));
        let pid = victim.pid.to_string();
        let mut recorder = Victim::start(&["recorder", &pid, self.mode, &grace, self.engine])?;
        victim.spawn("engine", &format!("ends-after-{}", scaled(LIFE)), ENGINE)?;
        victim.tell_to_end("engine")?;
        victim.wait_for("engine", "wait4")?;
        victim.answer("waited")?;
        let record = loop {
            let record = recorder.answer("record")?;
            // To start a child can be a stall of its own.
            let parsed: Value = serde_json::from_str(&record)?;
            if parsed["cause"]["kind"] == "child_wait" {
                break record;
            }
        };
        recorder.quit()?;
        victim.quit()?;
        Ok(record)
    }
}

/// What the agent's `replay` says of one record.
fn replay(record: &str, tried: Tried) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let (journal, config) = (folder.path().join("j.jsonl"), folder.path().join("c.yaml"));
    // A line that is none must not keep the others from being read.
    std::fs::write(&journal, format!("{record}\n{{\"torn\n"))?;
    std::fs::write(&config, tried.yaml())?;
    let output = Command::new(binary())
        .args(["replay", "--json", "--config"])
        .args([&config, &journal])
        .output()
        .context("cannot start the agent")?;
    ensure!(
        output.status.success(),
        "replay failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let result: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(result["skipped_count"] == 1, "the torn line: {result}");
    ensure!(
        result["self_check"]["same"] == 1 && result["self_check"]["of"] == 1,
        "not what was recorded: {result}\n{record}"
    );
    Ok(result["incidents"][0].clone())
}

/// The words of a side's actions. What is chance is left out: whether a look falls between the end of the child and that of the
/// wait, and whether the machine is so busy that a decision comes before it was read where the child runs.
fn words(side: &Value) -> Vec<String> {
    let actions = side["actions"].as_array().into_iter().flatten();
    actions
        .filter(|action| {
            let chance = ["not_child", "other_container"];
            !chance.iter().any(|word| action["refused_by"] == *word)
        })
        .map(|action| {
            format!(
                "{} {} {}",
                action["signal"], action["outcome"], action["refused_by"]
            )
        })
        .collect()
}

fn bounds(side: &Value) -> Result<(f64, Option<f64>)> {
    let blocked = &side["blocked_ms"];
    let least = blocked["at_least"].as_f64().context("no length")?;
    Ok((least, blocked["at_most"].as_f64()))
}

fn says_what_a_real_run_does() -> Result<()> {
    // Each on a thread of its own: what a thread starts ends with it.
    let lived: Vec<Result<String>> = std::thread::scope(|scope| {
        let runs: Vec<_> = ALL
            .iter()
            .map(|tried| scope.spawn(|| tried.live()))
            .collect();
        let joined = runs.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .map(|run| run.unwrap_or_else(|_| bail!("a run panicked")))
            .collect()
    });
    let lived: Vec<String> = lived.into_iter().collect::<Result<_>>()?;
    for (record, recorded) in lived.iter().zip(ALL) {
        let mut graced = Vec::new();
        for (truth, tried) in lived.iter().zip(ALL) {
            let case = format!("{recorded:?} tried with {tried:?}");
            let replayed = replay(record, tried)?;
            // The recorded side of the other run is what really happens under that configuration.
            let truth = replay(truth, tried)?;
            let (new, real) = (&replayed["replayed"], &truth["recorded"]);
            ensure!(words(new) == words(real), "{case}: {new} is not {real}");
            let (least, most) = bounds(new)?;
            let (length, _) = bounds(real)?;
            let ours = words(&replayed["recorded"])
                .iter()
                .any(|word| word.contains("sent"));
            // Where our own kill ended the record, a longer wait is open at its end.
            let open = ours && most.is_none_or(|most| most - least > least * 0.1);
            if open {
                ensure!(
                    least <= length * 1.5,
                    "{case}: at least {least} ms, and {length} ms"
                );
                ensure!(
                    most.is_none_or(|most| length <= most * 1.5),
                    "{case}: at most {most:?} ms, and {length} ms"
                );
            } else {
                ensure!(
                    least / length < 1.5 && length / least < 1.5,
                    "{case}: {least} ms, and {length} ms"
                );
                graced.push((tried.mode, tried.grace, least));
            }
        }
        let enforced = graced
            .iter()
            .filter(|(mode, ..)| *mode == "enforce")
            .take(3);
        ensure!(
            enforced.is_sorted_by(|a, b| a.2 < b.2 * 1.01),
            "a longer grace frees the loop sooner: {graced:?}"
        );
    }
    Ok(())
}
