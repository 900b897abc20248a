//! The demonstration from a checkout: builds the agent as users get it and runs it as root.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::{cmd, layout, setup};

/// Arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of `loopwarden demo`, such as --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    demo: Vec<OsString>,
}

/// Returns only when the demonstration could not be started: this process becomes it, so its exit status is this one's.
pub(crate) fn run(args: &Args) -> Result<()> {
    cmd::run(layout::cargo().args(["build", "--release", "--package", "loopwarden"]))?;
    let agent = layout::target().join("release/loopwarden");
    let agent = agent
        .to_str()
        .with_context(|| format!("the path {} is not UTF-8", agent.display()))?;
    let mut command = setup::root_command(agent)
        .context("the demonstration loads BPF programs, which needs root; it is built")?;
    command.arg("demo").args(&args.demo);
    Err(command.exec()).with_context(|| format!("cannot start `{}`", cmd::shown(&command)))
}
