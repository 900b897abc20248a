//! `cargo xtask accuracy`: real programs stall in known ways, the real agent says what they are stuck on, and the two are compared.
//!
//! The harness knows nothing of how the agent decides: labels are in `rows.rs`, what is true of a stall comes from the program
//! that makes it (`xtask/accuracy/`), and what the agent says is read from the lines of `loopwarden watch --json`. Every run has
//! an agent and a program of its own. Only processes of the run are signalled; mounts, namespaces and cgroups end with it.

mod cgroup;
mod judge;
mod lab;
mod program;
mod report;
mod row;
mod rows;
mod scene;
mod sight;
mod truth;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::litellm::stop;
use crate::measure::agent::{self, Agent};
use crate::{bpf, cmd, setup};
use lab::Lab;
use program::Program;
use report::{Outcome, Played};
use row::{Environment, Load, Row};
use scene::{Scene, Unable};
use truth::{Began, Ended, Truth};

/// Programs that wait can be watched side by side.
const SIDE_BY_SIDE: usize = 4;
/// Attempts at a stall that others spoil by using the processors.
const ATTEMPTS: usize = 3;
/// Rounds of the long form.
const ROUNDS: usize = 5;
/// The agent tells of the end of a stall within this.
const CLOSED_LIMIT: Duration = Duration::from_secs(3);
/// A stall may end a little before its program says so.
const SLACK_NS: u64 = 200_000_000;

/// Arguments of `cargo xtask accuracy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every stall five times, in every environment
    #[arg(long)]
    full: bool,
    /// Write everything that was seen to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Another Python, 3.8 or later; a virtual environment is made of it in the cache
    #[arg(long, value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// Only in these environments: open, pid (a PID namespace), root (a root, PID namespace and cgroup of its own)
    #[arg(long, value_name = "WHERE", value_delimiter = ',', value_parser = ["open", "pid", "root"])]
    environment: Vec<String>,
    /// Only stalls whose name or kind contains one of these
    #[arg(value_name = "STALL")]
    only: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    number: usize,
    row: &'static Row,
    environment: Environment,
}

/// Makes and judges the stalls; the answer is whether every promise is kept.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if !bpf::allowed_for("the truth test")? {
        return Ok(true);
    }
    if !setup::is_root()? {
        bail!("the truth test makes namespaces and cgroups: run it as root");
    }
    stop::listen()?;
    let lab = Lab::prepare(&args.python)?;
    let start = cmd::now();
    let jobs = jobs(args);
    if jobs.is_empty() {
        bail!("no stall has such a name or kind");
    }
    let (alone, light): (Vec<Job>, Vec<Job>) =
        jobs.iter().partition(|job| job.row.load == Load::Alone);
    let mut played = play_all(&lab, light, SIDE_BY_SIDE);
    played.extend(play_all(&lab, alone, 1));
    stop::check()?;
    played.sort_by_key(|(number, _)| *number);
    let played: Vec<Played> = played.into_iter().map(|(_, played)| played).collect();

    println!("\n{}\n{}", report::table(&played), report::matrix(&played));
    print!("{}", report::missed(&played));
    let criteria = report::criteria(&played, bpf::in_ci());
    print!("{}", report::shown(&criteria));
    println!(
        "{} stalls in {}",
        played.len(),
        cmd::minutes(start.elapsed())
    );
    if let Some(file) = &args.json {
        let stalls: Vec<_> = played.iter().map(Played::json).collect();
        let json = serde_json::json!({"stalls": stalls, "criteria": criteria});
        std::fs::write(file, json.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let failed = criteria.iter().filter(|criterion| !criterion.kept).count();
    println!("{} passed, {failed} failed", criteria.len() - failed);
    Ok(failed == 0)
}

fn jobs(args: &Args) -> Vec<Job> {
    let wanted = |row: &Row| {
        args.only.is_empty()
            || args
                .only
                .iter()
                .any(|word| row.name().contains(word.as_str()) || row.kind == word)
    };
    let there = |environment: Environment| {
        args.environment.is_empty()
            || args
                .environment
                .iter()
                .any(|word| word == environment.name())
    };
    let rounds = if args.full { ROUNDS } else { 1 };
    let mut jobs = Vec::new();
    for row in rows::ROWS.iter().filter(|row| wanted(row)) {
        for environment in Environment::ALL {
            let usual = environment == Environment::Open || row.everywhere || args.full;
            // Asked for by name, a row runs wherever it is asked to.
            let asked = !args.environment.is_empty() && !args.only.is_empty();
            if !there(environment) || !(usual || asked) {
                continue;
            }
            for _ in 0..rounds {
                let number = jobs.len();
                jobs.push(Job {
                    number,
                    row,
                    environment,
                });
            }
        }
    }
    jobs
}

/// Plays jobs on some threads. Each thread starts and ends its own processes.
fn play_all(lab: &Lab, jobs: Vec<Job>, threads: usize) -> Vec<(usize, Played)> {
    let queue = Mutex::new(VecDeque::from(jobs));
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let (Some(job), Ok(())) = (next(&queue), stop::check()) {
                    let played = play(lab, job);
                    eprintln!("accuracy: {}", played.cells().join(" | "));
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((job.number, played));
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the end of the stall, and makes it where that is the harness's part.
fn follow(scene: &Scene, program: &mut Program, began: &mut Began) -> Result<Ended> {
    if let Some((from, to)) = scene.during(program.pid)? {
        if scene.begins_it() {
            began.at_ns = from;
            return Ok(Ended {
                at_ns: to,
                ..Ended::default()
            });
        }
        let said: Ended = program.read().context("the stall did not end")?;
        return Ok(Ended { at_ns: to, ..said });
    }
    program.read().context("the stall did not end")
}

fn next(queue: &Mutex<VecDeque<Job>>) -> Option<Job> {
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
}

fn play(lab: &Lab, job: Job) -> Played {
    let mut result = Outcome::Failed("never tried".into());
    for attempt in 0..ATTEMPTS {
        result = match play_once(lab, job, job.number * ATTEMPTS + attempt) {
            Ok((truth, lines)) => judged(job.row, truth, &lines),
            Err(error) => match error.downcast_ref::<Unable>() {
                Some(Unable(reason)) => Outcome::LeftOut(reason.clone()),
                None => Outcome::Failed(format!("{error:#}")),
            },
        };
        if !matches!(result, Outcome::Failed(_)) || stop::check().is_err() {
            break;
        }
    }
    Played {
        row: job.row,
        environment: job.environment,
        result,
    }
}

fn judged(row: &Row, truth: Truth, lines: &[agent::Line]) -> Outcome {
    if let Some(reason) = truth.spoiled(row.kind) {
        return Outcome::Failed(reason);
    }
    let verdict = judge::judge(row, &truth, lines);
    Outcome::Judged(Box::new((truth, verdict)))
}

fn play_once(lab: &Lab, job: Job, number: usize) -> Result<(Truth, Vec<agent::Line>)> {
    let folder = lab.run_folder(number)?;
    let scene = Scene::set(lab, job.row, job.environment, &folder, number)?;
    let mut program = Program::start(lab, job.row, job.environment, &scene, &folder)?;
    let own = agent::Lab::of(lab.agent.clone())?;
    let mut agent = Agent::start(&own, &[program.pid], &[], "warn")?;
    scene.before()?;
    program.go()?;
    let mut began = program.began().context("the stall did not begin")?;
    let pid = program.pid;
    let (ended, seen) = std::thread::scope(|scope| {
        let sight = scope.spawn(move || {
            std::thread::sleep(sight::AFTER);
            sight::look(pid)
        });
        let ended = follow(&scene, &mut program, &mut began);
        (ended, sight.join().unwrap_or_default())
    });
    let ended = ended?;
    let truth = Truth {
        pid,
        began,
        ended,
        seen,
    };
    // A stall that it never tells of is a result, not an error.
    let _ = agent.wait_until("the end of the stall", CLOSED_LIMIT, |lines| {
        lines.iter().any(|line| {
            line.is("stall_closed")
                && line.pid() == truth.pid
                && line.number("mono_ns") >= truth.ended.at_ns.saturating_sub(SLACK_NS)
        })
    });
    let lines = agent.interrupt()?;
    Ok((truth, lines))
}
