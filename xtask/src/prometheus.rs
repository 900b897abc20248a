//! Builds the Prometheus that the export tests run against, and prints the path of its binary.
//!
//! From its Go module, with the exact dependencies of its release: Debian's package is built without the OTLP receiver
//! (its changelog: "Disable OTLP Ingestion endpoint"), which is the part the tests need. Nothing outside the cache and
//! Go's own caches is written.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::golang::Go;
use crate::{cmd, setup};

/// Prometheus 3.5.3: its Go module counts 3.x as 0.300 + x. Go checks the sum against its public log.
const MODULE: &str = "github.com/prometheus/prometheus@v0.305.3";
const VERSION: &str = "3.5.3";

/// Arguments
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<()> {
    println!("{}", fetch()?.display());
    Ok(())
}

/// The binary from the cache, or built into the cache. Delete its folder to build it anew.
fn fetch() -> Result<PathBuf> {
    let folder = folder()?;
    let binary = folder.join("prometheus");
    if binary.is_file() {
        return Ok(binary);
    }
    eprintln!("building Prometheus {VERSION} from its Go module (some minutes, once)");
    let go = Go::find()?;
    let module = download(&go)?;
    // A copy, because Go builds nothing changed below its module cache: without the service discoveries of every cloud
    // the build takes a third of the time.
    let source = folder.join("source");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    cmd::output(
        Command::new("cp")
            .arg("-r")
            .arg("--no-preserve=mode")
            .arg(&module)
            .arg(&source),
    )?;
    let discoveries = source.join("plugins/plugins.go");
    std::fs::remove_file(&discoveries)
        .with_context(|| format!("cannot remove {}", discoveries.display()))?;
    build(&go, &source, &folder.join("prometheus.new"))?;
    // Moved into place, so that an interrupted run leaves nothing that looks finished.
    std::fs::rename(folder.join("prometheus.new"), &binary)
        .with_context(|| format!("cannot move {} into place", binary.display()))?;
    let _ = std::fs::remove_dir_all(&source);
    Ok(binary)
}

/// Where the binary is, or will be.
pub(crate) fn binary() -> Result<PathBuf> {
    Ok(folder()?.join("prometheus"))
}

fn folder() -> Result<PathBuf> {
    Ok(setup::cache_dir()?.join(format!("prometheus-{VERSION}")))
}

/// The folder of the module in Go's cache.
fn download(go: &Go) -> Result<PathBuf> {
    let answer = cmd::output(
        go.command()
            .args(["mod", "download", "-json", MODULE])
            .current_dir("/"),
    )?;
    let answer: serde_json::Value = serde_json::from_str(&answer)
        .with_context(|| format!("`go mod download` answered {answer:?}"))?;
    let folder = answer["Dir"]
        .as_str()
        .with_context(|| format!("`go mod download` names no folder: {answer}"))?;
    Ok(PathBuf::from(folder))
}

fn build(go: &Go, source: &Path, binary: &Path) -> Result<()> {
    let version = format!("-s -w -X github.com/prometheus/common/version.Version={VERSION}");
    cmd::output(
        go.command()
            .args(["build", "-trimpath", "-ldflags", &version, "-o"])
            .arg(binary)
            .arg("./cmd/prometheus")
            .current_dir(source),
    )?;
    let help = cmd::output(Command::new(binary).arg("--help-long"))?;
    ensure!(
        help.contains("web.enable-otlp-receiver"),
        "the Prometheus that was built has no OTLP receiver"
    );
    Ok(())
}
