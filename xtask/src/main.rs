//! Loopwarden's build and test tasks: `cargo xtask --help`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod accuracy;
mod apt;
mod bpf;
mod cmd;
mod demo;
mod ebpf;
mod golang;
mod kube;
mod layout;
mod litellm;
mod measure;
mod prometheus;
mod pythons;
mod setup;
mod tally;
mod test;
mod vm;

/// Build and test tasks that need more than cargo itself.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the kernel half (the eBPF object), or check that the committed one comes from its source
    Ebpf(ebpf::Args),
    /// Boot another kernel in QEMU and run the kernel tests inside
    Vm(vm::Args),
    /// Run the real LiteLLM proxy through its incident, unguarded and guarded, and print one table
    Litellm(litellm::Args),
    /// Run the Kubernetes tests on a real node of their own, or on the cluster that KUBECONFIG names
    Kube(kube::Args),
    /// Run everything that has to be green, the quick parts first
    Test(test::Args),
    /// Measure the agent on real processes against the limits it promises
    Measure(measure::Args),
    /// Make real programs stall in known ways and compare what the agent says with the truth
    Accuracy(accuracy::Args),
    /// Build the agent and run its demonstration as root
    Demo(demo::Args),
    /// Build the Prometheus that the export tests run against and print the path of its binary
    Prometheus(prometheus::Args),
    /// Fetch the other versions of Python that the tests of stacks run and print their folder
    Pythons(pythons::Args),
    #[command(hide = true)]
    Kubelet(litellm::kubelet::Args),
    #[command(hide = true, subcommand)]
    Victim(measure::Role),
}

fn main() -> ExitCode {
    let error = match run() {
        Ok(status) => return status,
        Err(error) => error,
    };
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    ExitCode::FAILURE
}

fn run() -> Result<ExitCode> {
    ebpf::wrapper::become_rustc_if_called_so()?;
    match Cli::parse().task {
        Task::Ebpf(args) => ebpf::run(&args)?,
        Task::Vm(args) => vm::run(&args)?,
        Task::Litellm(args) => litellm::run(&args)?,
        Task::Kube(args) => kube::run(&args)?,
        Task::Demo(args) => demo::run(&args)?,
        Task::Prometheus(args) => prometheus::run(&args)?,
        Task::Pythons(args) => pythons::run(&args)?,
        Task::Kubelet(args) => litellm::kubelet::play(&args)?,
        Task::Victim(role) => measure::play(&role)?,
        // Its last line is the count of the tests, so nothing may be printed after it.
        Task::Test(args) if !test::run(&args)? => return Ok(ExitCode::FAILURE),
        Task::Measure(args) if !measure::run(&args)? => return Ok(ExitCode::FAILURE),
        Task::Accuracy(args) if !accuracy::run(&args)? => return Ok(ExitCode::FAILURE),
        Task::Test(_) | Task::Measure(_) | Task::Accuracy(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}
