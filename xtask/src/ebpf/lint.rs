//! Formatting and clippy for the kernel half, which the workspace's own runs do not reach.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::build;
use super::toolchain::{Kind, Toolchain};
use crate::{cmd, layout, setup};

/// How cargo-clippy hands `-D warnings` to its driver.
const DENY_WARNINGS: &str = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";

/// Fails on a formatting difference or a lint.
pub(crate) fn run(toolchain: &Toolchain) -> Result<()> {
    cmd::run(
        layout::cargo()
            .current_dir(layout::root().join("ebpf"))
            .args(["fmt", "--check"]),
    )?;
    let mut cargo = build::cargo(toolchain)?;
    match toolchain.facts.how {
        Kind::Debian => {
            cargo
                .arg("check")
                .env("RUSTC_WORKSPACE_WRAPPER", debian_driver()?)
                .env("CLIPPY_ARGS", DENY_WARNINGS);
            cargo
                .args(["--release", "--quiet"])
                .args(toolchain.target_args());
        }
        Kind::Nightly => {
            cargo
                .args(["clippy", "--release", "--quiet"])
                .args(toolchain.target_args())
                .args(["--", "-Dwarnings"]);
        }
    }
    cmd::run(&mut cargo)
}

/// Debian's clippy for Debian's rustc, unpacked into the cache: its package conflicts with others that may be installed.
fn debian_driver() -> Result<PathBuf> {
    let version = cmd::output(Command::new("dpkg-query").args([
        "--show",
        "--showformat",
        "${Version}",
        "rustc-web",
    ]))?;
    let folder = setup::cache_dir()?.join(format!("rust-web-clippy-{version}"));
    let driver = folder.join("usr/bin/clippy-driver");
    if driver.exists() {
        return Ok(driver);
    }
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let package = format!("rust-web-clippy={version}");
    cmd::output(
        Command::new("apt-get")
            .current_dir(&folder)
            .args(["download", &package]),
    )
    .with_context(|| format!("cannot fetch the lints of Debian's rustc ({package})"))?;
    let deb = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download left no package in {}", folder.display()))?;
    cmd::run(Command::new("dpkg").arg("-x").arg(deb).arg(&folder))?;
    Ok(driver)
}
