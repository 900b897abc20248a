//! Loopwarden's build and test tasks: `cargo xtask --help`.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod cmd;
mod ebpf;
mod litellm;
mod setup;
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
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Ebpf(args) => ebpf::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Litellm(args) => litellm::run(&args),
    }
}
