//! Builds the stand-in for Prisma's query engine, the crate in `xtask/engine`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::lab::Lab;
use crate::cmd;

/// The name that the real one has, and that a guard looks for.
const NAME: &str = "query-engine-debian-openssl-3.0.x";

/// Builds it (cargo knows whether it has to) and puts it where `path` says.
pub(crate) fn build(lab: &Lab) -> Result<()> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/Cargo.toml");
    let built = executable(
        "standin-engine",
        cargo()
            .args(["build", "--release", "--locked", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(lab.path("target")),
    )?;
    let target = path(lab);
    // Renamed into place: an engine of a run beside this one may be running from the old file.
    let new = target.with_extension("new");
    fs::create_dir_all(target.parent().unwrap_or(&target))?;
    fs::copy(&built, &new)
        .with_context(|| format!("cannot copy {} to {}", built.display(), new.display()))?;
    fs::rename(&new, &target).with_context(|| format!("cannot rename {}", new.display()))
}

pub(crate) fn path(lab: &Lab) -> PathBuf {
    lab.path("engine").join(NAME)
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a `cargo build` and tells where it put the program `name`.
pub(crate) fn executable(name: &str, build: &mut Command) -> Result<PathBuf> {
    let messages = cmd::output(build.arg("--message-format=json-render-diagnostics"))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("`{}` built no program named {name}", cmd::shown(build)))
}
