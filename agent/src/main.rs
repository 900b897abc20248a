//! The `loopwarden` command.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use loopwarden::commands::{doctor, incidents, replay, run, watch};
use loopwarden::demo;
use loopwarden::evidence::helper;

/// Watchdog for event loops: sees a stall while it lasts, says what the loop is stuck on, and frees it when that is safe.
#[derive(Debug, Parser)]
#[command(
    name = "loopwarden",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Watch(watch::Args),
    Run(run::Args),
    /// The incident, unprotected and protected, side by side: needs nothing but root
    Demo(demo::Args),
    #[command(hide = true)]
    DemoRole(demo::RoleArgs),
    Doctor(doctor::Args),
    #[command(hide = true)]
    EvidenceHelper(helper::Args),
    Replay(replay::Args),
    Incidents(incidents::Args),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

fn start_log() {
    let mut log =
        env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"));
    log.format_target(false);
    // What goes wrong with the Kubernetes API is told once and by name, not by every try of the client.
    let asked = std::env::var("RUST_LOG").is_ok_and(|wanted| wanted.contains("kube_"));
    if !asked {
        log.filter_module("kube_client", log::LevelFilter::Off);
        log.filter_module("kube_runtime", log::LevelFilter::Off);
    }
    log.init();
}

fn main() -> ExitCode {
    start_log();
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Watch(args) => watch::run(args),
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::DemoRole(args) => demo::role(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::EvidenceHelper(args) => helper::serve(&args),
        Command::Replay(args) => replay::run(args),
        Command::Incidents(args) => incidents::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "loopwarden",
                &mut std::io::stdout(),
            );
            Ok(0)
        }
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("loopwarden: {error:#}");
            ExitCode::FAILURE
        }
    }
}
