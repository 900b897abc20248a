//! `loopwarden replay`: recorded incidents under another configuration, old and new side by side.
//!
//! Reads a journal and a configuration, asks the pure `pipeline/replay`, and shows what comes out. Touches no process and
//! needs no privilege but to read the file.

mod json;
mod read;
mod text;
mod tried;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::config::Source;
use crate::pipeline::replay::replay;
use tried::Tried;

/// Show what another configuration would have done with recorded incidents, and how long loops would have been blocked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file of the journal, its folder, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The configuration to try; without it /etc/loopwarden/config.yaml if there is one, else what is built in
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command; the value is the exit status.
pub fn run(args: Args) -> Result<u8> {
    let mut source = Source::new(args.config, None);
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("loopwarden: {error}");
            return Ok(2);
        }
    };
    let found = read::incidents(&args.file)?;
    found.report();
    let report = replay(&found.incidents, &Tried::new(config));
    let shown = if args.json {
        format!("{}\n", json::object(&found, &report, &source.describe()))
    } else {
        text::page(&found, &report, &source.describe())
    };
    let written = std::io::stdout().lock().write_all(shown.as_bytes());
    match written {
        // Whoever reads has had enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        other => other.context("cannot write the result").map(|()| 0),
    }
}
