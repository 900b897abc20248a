//! What a test works with: programs of the right names, a loop that obeys, the real agent and its lines.
//!
//! Tests wait for lines and answers, never for time to pass; the limits below only end a test that would hang.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

pub(crate) mod alive;
pub(crate) mod cgroup;
pub(crate) mod gate;
pub(crate) mod line;
pub(crate) mod node;
pub(crate) mod runc;
pub(crate) mod scene;
pub(crate) mod shared;
pub(crate) mod victim;
pub(crate) mod watch;

/// The engine's executable, as `--engine` matches it.
pub(crate) const ENGINE: &str = "query-engine-test";
/// Another child of the loop: no engine.
pub(crate) const HELPER: &str = "helper-test";
/// A shell between the loop and its engine.
pub(crate) const SHELL: &str = "shell-test";

/// A loop below a shared agent.
pub(crate) const LOOP: &str = "loop-test";

static PROGRAMS: OnceLock<TempDir> = OnceLock::new();

/// Whether this is the emulated machine of `cargo xtask vm`.
pub(crate) fn in_vm() -> bool {
    std::env::var_os("LOOPWARDEN_VM").is_some()
}

/// How much slower than here things may be.
pub(crate) fn slowness() -> u32 {
    if in_vm() { 10 } else { 1 }
}

/// After this long, what a test waits for will not come any more.
pub(crate) fn limit() -> Duration {
    Duration::from_secs(30) * slowness()
}

/// This program, which all others in the folder are links to.
const SEED: &str = "seed";

/// Makes the folder of programs; [`remove_programs`] ends it.
pub(crate) fn make_programs() -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("loopwarden-ktests-")
        .tempdir()
        .context("cannot make a folder for the victims")?;
    // A link, or a copy where that is another file system. Copied once, before there are threads: what is open for writing while
    // another thread forks cannot be run.
    let this = std::env::current_exe().context("cannot find this program's file")?;
    let seed = folder.path().join(SEED);
    std::fs::hard_link(&this, &seed)
        .or_else(|_| std::fs::copy(&this, &seed).map(|_| ()))
        .with_context(|| format!("cannot put {} at {}", this.display(), seed.display()))?;
    // Set once, here.
    let _ = PROGRAMS.set(folder);
    for name in [ENGINE, HELPER, SHELL, LOOP] {
        make_program(name)?;
    }
    Ok(())
}

/// Removes the folder, when all tests are over.
pub(crate) fn remove_programs() {
    if let Some(folder) = PROGRAMS.get() {
        // What is left behind is a few files below the system's folder for such.
        let _ = std::fs::remove_dir_all(folder.path());
    }
}

/// This program under another name: the basename of the executable is what engines are known by.
pub(crate) fn program(name: &str) -> PathBuf {
    folder().join(name)
}

/// Makes another name for this program.
pub(crate) fn make_program(name: &str) -> Result<PathBuf> {
    let path = program(name);
    std::fs::hard_link(program(SEED), &path)
        .with_context(|| format!("cannot make a program at {}", path.display()))?;
    Ok(path)
}

/// The folder of programs.
pub(crate) fn folder() -> &'static Path {
    PROGRAMS
        .get()
        .map_or(Path::new("/nonexistent"), TempDir::path)
}
