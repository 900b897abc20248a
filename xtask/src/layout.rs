//! Where things are: the repository, its target folder, and the cargo that runs this task.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The only user-space target that the VM and the release binary are built for so far.
pub(crate) const HOST: &str = "x86_64-unknown-linux-gnu";

/// The root folder of the checkout.
pub(crate) fn root() -> PathBuf {
    // cargo tells the manifest folder of the checkout it runs in; the compiled-in one serves when the binary is called directly.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that started this task, in the root folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// This program's file, to start it again.
pub(crate) fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot tell the path of this program")?;
    // A build that ran meanwhile may have put a new file in this one's place; the kernel then marks the old path.
    let shown = path.to_string_lossy();
    Ok(shown
        .strip_suffix(" (deleted)")
        .map_or(path.clone(), PathBuf::from))
}

/// cargo's home, where the sources of dependencies are.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// cargo with a subcommand, in the release profile, for binaries that need no library of the system.
///
/// Built with `--target`, they lie in a folder of their own beside the usual ones, and build scripts and macros, which
/// cannot be linked statically, are shared with all other builds.
pub(crate) fn static_cargo(subcommand: &str) -> Command {
    let mut command = cargo();
    command
        .args([subcommand, "--release", "--target", HOST])
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-Ctarget-feature=+crt-static",
        );
    command
}
