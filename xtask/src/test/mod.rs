//! Everything that has to be green: one command, the quick parts first, one table at the end.
//!
//! A failed part never hides the quick ones after it. The heavy ones (other kernels, the real proxy) take minutes and are
//! not started on something that is known to be broken, unless asked to.

use std::process::Command;

use anyhow::Result;

use crate::{cmd, layout, prometheus, pythons};

mod failures;
mod part;
mod targets;

use part::{Part, Report, State};

const KERNEL_TEST: &str = "kernel";
const PROMETHEUS_TEST: &str = "export_prometheus";
/// What the short form runs on the oldest kernel: the way to the signal, and where it reads the kernel's state, not BPF's.
const ON_OLDEST: [&str; 2] = ["rescue::", "held::"];
/// They run alone in the virtual machine, whose cgroups are of version 2 only.
const IN_CONTAINERS: &str = "containers::";
/// What these start.
const CONTAINER_PACKAGES: [&str; 1] = ["runc"];
const STACKS_TEST: &str = "evidence_stacks";
const JOURNAL_TEST: &str = "journal";

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also the long forms: every kernel, the whole experiment with the real proxy
    #[arg(long)]
    full: bool,
    /// Leave out the heavy parts: other kernels and the real proxy
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Run the heavy parts even when a quick one has failed
    #[arg(long)]
    keep_going: bool,
}

/// Runs all parts; the answer is whether none has failed.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let mut out = std::io::stdout();
    let mut reports = Vec::new();
    for part in quick_parts()? {
        reports.push(part.run(&mut out));
    }
    if !args.quick {
        let broken = reports.iter().any(Report::failed);
        for part in heavy_parts(args.full)? {
            reports.push(if broken && !args.keep_going {
                part.not_started()
            } else {
                part.run(&mut out)
            });
        }
    }
    print!("{}{}", failures(&reports), table(&reports));
    Ok(!reports.iter().any(Report::failed))
}

fn quick_parts() -> Result<Vec<Part>> {
    let tests = targets::of_workspace()?;
    let kernel = cargo(&["test", "--package", "loopwarden", "--test", KERNEL_TEST]);
    let mut stacks = cargo(&["test", "--package", "loopwarden", "--test", STACKS_TEST]);
    stacks.env("LOOPWARDEN_PYTHONS", pythons::folder()?);
    Ok(vec![
        Part::new("format", formatting()),
        Part::new("clippy", clippy()),
        Part::new("documentation", vec![documentation()]),
        Part::new("unit and integration tests", unit_tests(&tests)),
        Part::new("kernel tests, this kernel", vec![kernel])
            .needs_bpf()
            .packages_in_ci(&CONTAINER_PACKAGES),
        // Namespaces, other roots and other processes' memory need the privileges that BPF needs.
        Part::new(
            "stacks of real processes",
            vec![xtask(&["pythons"])?, stacks],
        )
        .needs_bpf(),
        Part::new("eBPF object", vec![xtask(&["ebpf", "--check"])?]),
    ])
}

fn heavy_parts(full: bool) -> Result<Vec<Part>> {
    let mut litellm = xtask(&["litellm"])?;
    // Always in its short form: the limits themselves hold on a machine of one's own only.
    let mut measure = xtask(&["measure", "--check"])?;
    let mut accuracy = xtask(&["accuracy"])?;
    let mut kube = xtask(&["kube"])?;
    if full {
        litellm.arg("--full");
        kube.arg("--full");
    }
    // The VM's part has built the agent in the release profile: the other parts need not build it again.
    let agent = layout::target()
        .join(layout::HOST)
        .join("release/loopwarden");
    litellm.arg("--guard").arg(&agent);
    kube.arg("--guard").arg(&agent);
    // A node of its own, not whatever cluster the caller works with.
    kube.env_remove("KUBECONFIG");
    measure.env("LOOPWARDEN_BIN", &agent);
    accuracy.env("LOOPWARDEN_BIN", &agent);
    let mut export = cargo(&["test", "--package", "loopwarden", "--test", PROMETHEUS_TEST]);
    export.env("LOOPWARDEN_PROMETHEUS", prometheus::binary()?);
    let mut parts = vec![
        Part::new(
            "export to a real Prometheus",
            vec![xtask(&["prometheus"])?, export],
        ),
        Part::new("kernel tests, other kernels", other_kernels(full)?),
        Part::new("measurements", vec![measure]).needs_bpf(),
        Part::new("truth test", vec![accuracy]).needs_bpf(),
        Part::new("real LiteLLM proxy", vec![litellm]).needs_bpf(),
        Part::new("kubernetes", vec![kube]).needs_bpf().only_in_ci(
            "it changes the machine's network and cgroups while it runs; `cargo xtask kube` runs it",
        ),
    ];
    if full {
        // The short form of the same is among the integration tests.
        let mut journal = cargo(&["test", "--package", "loopwarden", "--test", JOURNAL_TEST]);
        journal.args(["--", "--nocapture", "killed_at_any_moment"]);
        journal.env("LOOPWARDEN_JOURNAL_KILLS", "250");
        parts.push(Part::new("journal, killed 250 times", vec![journal]));
    }
    Ok(parts)
}

/// The short form: the most common kernel whole, and of the oldest what differs most. What the first command builds serves all.
fn other_kernels(full: bool) -> Result<Vec<Command>> {
    let in_containers = xtask(&["vm", "--", IN_CONTAINERS])?;
    if full {
        return Ok(vec![xtask(&["vm", "--full"])?, in_containers]);
    }
    let mut commands = vec![xtask(&["vm"])?, in_containers];
    for tests in ON_OLDEST {
        commands.push(xtask(&["vm", "--kernel", "5.10", "--", tests])?);
    }
    Ok(commands)
}

fn cargo(args: &[&str]) -> Command {
    let mut command = layout::cargo();
    command.args(args);
    command
}

/// The stand-in engine is a workspace of its own, so cargo has to be told of it each time.
fn engine(args: &[&str]) -> Command {
    let mut command = cargo(args);
    command.current_dir(layout::root().join("xtask/engine"));
    command.env("CARGO_TARGET_DIR", layout::target().join("engine"));
    command
}

fn formatting() -> Vec<Command> {
    let args = ["fmt", "--all", "--check"];
    vec![cargo(&args), engine(&args)]
}

fn clippy() -> Vec<Command> {
    let deny = ["--quiet", "--all-targets", "--", "-Dwarnings"];
    let workspace = [&["clippy", "--workspace"][..], &deny].concat();
    let engine_only = [&["clippy"][..], &deny].concat();
    vec![cargo(&workspace), engine(&engine_only)]
}

fn documentation() -> Command {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    // Most of the code is private to its crate, and that is what a contributor reads.
    command.arg("--document-private-items");
    command.env("RUSTDOCFLAGS", "-Dwarnings");
    command
}

fn unit_tests(names: &[String]) -> Vec<Command> {
    let doc_tests = cargo(&["test", "--workspace", "--doc"]);
    vec![of_this_process(names), doc_tests, engine(&["test"])]
}

/// All tests but those that are parts of their own: the kernel's cannot run everywhere, Prometheus has to be built and Python fetched first.
fn of_this_process(tests: &[String]) -> Command {
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
    for name in tests
        .iter()
        .filter(|name| ![KERNEL_TEST, PROMETHEUS_TEST, STACKS_TEST].contains(&name.as_str()))
    {
        command.args(["--test", name]);
    }
    command
}

/// This program again, so that a part's output can be read and counted.
fn xtask(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(layout::this_program()?);
    command.args(args).current_dir(layout::root());
    Ok(command)
}

fn failures(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports.iter().filter(|report| report.failed()) {
        text.extend(["\n=== ", report.name, ", again: what failed\n"]);
        for line in &report.failures {
            text.extend([line, "\n"]);
        }
    }
    text
}

fn table(reports: &[Report]) -> String {
    let mut text = format!(
        "\n{:<30} {:<10} {:<24} {:>8}\n",
        "part", "result", "tests", "time"
    );
    let mut sum = crate::tally::Tally::default();
    for report in reports {
        let (tests, time) = match report.state {
            State::Passed | State::Failed => (report.tests.to_string(), cmd::minutes(report.time)),
            State::LeftOut(_) | State::NotStarted => (String::new(), String::new()),
        };
        text += format!(
            "{:<30} {:<10} {tests:<24} {time:>8}",
            report.name,
            report.state.word()
        )
        .trim_end();
        text.push('\n');
        sum += report.tests;
    }
    for report in reports {
        if let State::LeftOut(reason) = report.state {
            text.extend([report.name, " was left out: ", reason, "\n"]);
        }
    }
    let time = reports.iter().map(|report| report.time).sum();
    text + &format!(
        "in all {}\n\n{} passed, {} failed\n",
        cmd::minutes(time),
        sum.passed,
        sum.failed
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::Tally;

    fn report(name: &'static str, state: State, passed: u64, failed: u64) -> Report {
        let tests = Tally {
            passed,
            failed,
            ignored: 0,
        };
        Report {
            name,
            state,
            tests,
            time: Duration::from_secs(65),
            failures: vec!["it was 3".to_owned()],
        }
    }

    #[test]
    fn the_last_line_counts_all_parts() {
        let text = table(&[
            report("format", State::Passed, 1, 0),
            report("tests", State::Failed, 40, 2),
            report("kernel", State::LeftOut("no BPF"), 0, 0),
            report("vm", State::NotStarted, 0, 0),
        ]);
        assert_eq!(text.lines().last(), Some("41 passed, 2 failed"));
        assert!(text.contains("kernel was left out: no BPF"), "{text}");
        assert!(text.contains("1:05"), "{text}");
    }

    #[test]
    fn only_failed_parts_are_shown_again() {
        let text = failures(&[
            report("format", State::Passed, 1, 0),
            report("tests", State::Failed, 40, 2),
        ]);
        assert_eq!(text, "\n=== tests, again: what failed\nit was 3\n");
    }

    #[test]
    fn parts_of_their_own_are_not_among_the_others() {
        let command = of_this_process(
            &["evidence_stacks", "export_prometheus", "kernel", "watch"].map(str::to_owned),
        );
        let shown = cmd::shown(&command);
        assert!(shown.ends_with("--lib --bins --test watch"), "{shown}");
    }
}
