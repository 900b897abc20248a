//! `watch` as a command: when it ends, with which status, and what it says of wrong arguments.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::victim::Victim;
use crate::harness::watch::{Agent, Options, binary};
use crate::harness::{LOOP, program};
use crate::victim::FLAG;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "command::ends_with_the_last_target",
            ends_with_the_last_target,
        ),
        Case::new("command::status_of_the_command", status_of_the_command),
        Case::new("command::output_file_leaves_stdout_alone", output_file),
        Case::new("command::unknown_pid", unknown_pid),
        Case::new("command::id_of_a_thread", thread_id),
        Case::new("command::doctor", doctor),
    ]
}

/// With several targets, the last one's end is the end.
fn ends_with_the_last_target() -> Result<()> {
    let first = Victim::start(&["loop", "epoll_wait"])?;
    let second = Victim::start(&["loop", "epoll_wait"])?;
    let (first_pid, second_pid) = (first.pid, second.pid);
    let (agent, mut watch) = Agent::start(&[first_pid, second_pid], &Options::default())?;
    let mut found = [false; 2];
    watch.next("both loops", |line| {
        line.is("loop", first_pid) || line.is("loop", second_pid)
    })?;
    watch.next("both loops", |line| {
        line.is("loop", first_pid) || line.is("loop", second_pid)
    })?;
    first.quit()?;
    watch.next("the first one's summary", |line| {
        line.is("summary", first_pid)
    })?;
    let mut second = second;
    second.tell("nap")?;
    watch.next("a stall of the second", |line| {
        let told_of = line.is("stall_opened", second_pid) || line.is("stall_updated", second_pid);
        told_of && line.text("/cause/kind") == "sleep"
    })?;
    second.wake()?;
    second.quit()?;
    let lines = agent.finish(watch)?;
    for line in &lines {
        found[0] |= line.is("summary", first_pid);
        found[1] |= line.is("summary", second_pid);
    }
    ensure!(found == [true; 2], "a summary is missing: {found:?}");
    Ok(())
}

/// `watch -- COMMAND` ends with the command's status, and its stdout does not mix with the lines.
fn status_of_the_command() -> Result<()> {
    let this = program(LOOP);
    let this = this.to_str().context("no text")?;
    let (mut agent, watch) = Agent::start_command(&[], &[this, FLAG, "exits", "7"])?;
    let lines = watch.until_end()?;
    let (status, errors) = agent.status()?;
    ensure!(status.code() == Some(7), "ended with {status}: {errors}");
    let last = lines.last().context("no line")?;
    ensure!(
        last.kind() == "ended" && last.number("/status") == Some(7),
        "{last}"
    );
    ensure!(
        errors.contains("leaving with 7"),
        "the command's stdout is not on stderr: {errors}"
    );
    Ok(())
}

/// With `--output` the command keeps its stdout.
fn output_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("lines.json");
    let mut command = Command::new(binary());
    command
        .args(["watch", "--output"])
        .arg(&file)
        .arg("--")
        .arg(program(LOOP))
        .args([FLAG, "exits", "3"]);
    let out = run(&mut command)?;
    ensure!(out.status.code() == Some(3), "{out:?}");
    ensure!(out.stdout == b"leaving with 3\n", "{out:?}");
    let text = std::fs::read_to_string(&file)?;
    let last = crate::harness::line::Line::parse(text.lines().last().context("no line")?)?;
    ensure!(
        last.kind() == "ended" && last.number("/status") == Some(3),
        "{last}"
    );
    last.check()
}

fn unknown_pid() -> Result<()> {
    let gone = Victim::start(&["loop", "epoll_wait"])?;
    let pid = gone.pid;
    gone.quit()?;
    refused(pid, "there is no process")
}

/// The id of a thread is a common slip (`ps -L`, `top -H`).
fn thread_id() -> Result<()> {
    let pool = Victim::start(&["pool"])?;
    let threads = std::fs::read_dir(format!("/proc/{}/task", pool.pid))?;
    let other = threads
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|tid| *tid != pool.pid)
        .context("one thread only")?;
    refused(other, "thread")
}

/// `doctor` has a verdict for the machine's parts too, and its status says whether one of them is broken.
fn doctor() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let look = |mode: u32| -> Result<(serde_json::Value, Option<i32>)> {
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode))?;
        let out = Command::new(binary())
            .args(["doctor", "--json"])
            .env("LOOPWARDEN_RUN_DIR", folder.path())
            .output()?;
        let found = serde_json::from_slice(&out.stdout).context("no JSON")?;
        Ok((found, out.status.code()))
    };
    let row = |found: &serde_json::Value, name: &str| found["verdicts"][name].clone();
    let (good, _) = look(0o700)?;
    for name in [
        "rescue.realtime",
        "rescue.locked_memory",
        "machine.pid_namespace",
        "machine.procfs",
        "machine.cpu_throttling",
        "capability.bpf",
        "capability.perfmon",
        "capability.sys_ptrace",
        "capability.kill",
        "capability.sys_admin",
    ] {
        ensure!(row(&good, name)["verdict"].is_string(), "no {name}: {good}");
    }
    ensure!(row(&good, "enforce.run_dir")["verdict"] == "ok", "{good}");
    let (bad, status) = look(0o777)?;
    let found = row(&bad, "enforce.run_dir");
    ensure!(
        found["verdict"] == "broken" && status == Some(1),
        "{status:?}: {found}"
    );
    ensure!(found["advice"].is_string(), "no advice: {found}");
    Ok(())
}

fn refused(pid: u32, why: &str) -> Result<()> {
    let out = run(Command::new(binary()).args(["watch", "--json", "--pid", &pid.to_string()]))?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.code() == Some(1),
        "ended with {}: {text}",
        out.status
    );
    ensure!(
        text.contains(why) && text.contains(&pid.to_string()),
        "unclear: {text}"
    );
    ensure!(out.stdout.is_empty(), "lines all the same: {out:?}");
    Ok(())
}

fn run(command: &mut Command) -> Result<Output> {
    let folder = tempfile::tempdir()?;
    command
        .env("LOOPWARDEN_RUN_DIR", folder.path())
        .stdin(Stdio::null());
    command.output().context("cannot start the agent")
}
