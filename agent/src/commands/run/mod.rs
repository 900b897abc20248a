//! `loopwarden run`: the node agent.

mod agent;
mod sources;

use std::path::PathBuf;

use agent::Agent;
use anyhow::Result;

use super::common::catch_signals;
use crate::config::{Config, OtlpProtocol, Source};
use crate::export::{FileOtlp, FileSettings, Settings};
use crate::pipeline::Mode;

/// Run the node agent: watch every process the configuration names, tell the world, and in enforce mode end wedged engines.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file; without it /etc/loopwarden/config.yaml if there is one, else observe LiteLLM
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Wins over the file's mode
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,
    /// Print the configuration in force, presets expanded, and end
    #[arg(long)]
    print_config: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ModeArg {
    /// Everything but the signal
    Observe,
    /// Signals are sent
    Enforce,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Observe => Self::Observe,
            ModeArg::Enforce => Self::Enforce,
        }
    }
}

/// Runs the command; the value is the exit status.
pub fn run(args: Args) -> Result<u8> {
    let mut source = Source::new(args.config, args.mode.map(Mode::from));
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("loopwarden: {error}");
            return Ok(2);
        }
    };
    if args.print_config {
        print!("{}", config.to_yaml());
        return Ok(0);
    }
    let exports =
        match Settings::from_env_over(&file_settings(&config), |name| std::env::var(name).ok()) {
            Ok(exports) => exports,
            Err(error) => {
                eprintln!("loopwarden: {error}");
                return Ok(2);
            }
        };
    // Before any thread starts, so that none of them takes these signals.
    let signals = catch_signals()?;
    log::info!("configuration: {}", source.describe());
    Agent::start(source, config, exports)?.serve(&signals)
}

fn file_settings(config: &Config) -> FileSettings {
    let otlp = config.export.otlp.as_ref().map(|otlp| FileOtlp {
        endpoint: Some(otlp.endpoint.clone()),
        protocol: Some(
            match otlp.protocol {
                OtlpProtocol::Grpc => "grpc",
                OtlpProtocol::HttpProtobuf => "http/protobuf",
            }
            .to_owned(),
        ),
        ..FileOtlp::default()
    });
    let metrics_listen = config.export.metrics.as_ref().map(|metrics| metrics.listen);
    FileSettings {
        otlp,
        metrics_listen,
        interval: None,
    }
}
