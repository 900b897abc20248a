//! The Go that builds what comes as a Go module: the machine's own, or Debian's newer one, unpacked into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::{cmd, setup};

/// From this version on Go fetches the toolchain that a module asks for by itself, and checks its sum.
const OLDEST: (u32, u32) = (1, 21);
/// What is fetched where there is none.
const VERSION: &str = "1.24";
const SUITE: &str = "trixie";

/// A Go that is new enough.
#[derive(Debug)]
pub(crate) struct Go {
    program: PathBuf,
    /// Set for one that is not where it was built for.
    root: Option<PathBuf>,
}

impl Go {
    /// The one on PATH, else Debian's, fetched once.
    pub(crate) fn find() -> Result<Self> {
        if cmd::on_path("go") {
            let own = Self {
                program: "go".into(),
                root: None,
            };
            let told = own.version()?;
            if version_in(&told).is_some_and(|version| version >= OLDEST) {
                return Ok(own);
            }
            eprintln!(
                "`go` on PATH is {}: older than {}.{}, so another is taken",
                told.trim(),
                OLDEST.0,
                OLDEST.1
            );
        }
        fetched().with_context(|| {
            format!(
                "no Go of {}.{} or later is on PATH, and Debian's ({SUITE}) cannot be had; install one from https://go.dev/dl",
                OLDEST.0, OLDEST.1
            )
        })
    }

    /// A command of it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            command.env("GOROOT", root);
        }
        command
    }

    fn version(&self) -> Result<String> {
        cmd::output(self.command().arg("version").current_dir("/"))
    }
}

fn fetched() -> Result<Go> {
    let cache = setup::cache_dir()?;
    let folder = setup::part(
        &cache,
        &format!("go-{VERSION}"),
        &format!("golang-{VERSION} of {SUITE}"),
        fetch,
    )?;
    let root = folder.join(format!("usr/lib/go-{VERSION}"));
    let go = Go {
        program: root.join("bin/go"),
        root: Some(root),
    };
    let told = go.version()?;
    if version_in(&told).is_none() {
        bail!("the Go that was fetched says {told:?} when asked for its version");
    }
    Ok(go)
}

/// Debian's packages of a newer release, signatures checked; nothing of the system is changed.
fn fetch(folder: &Path) -> Result<()> {
    let apt = Apt::new(SUITE, folder.with_extension("apt"))?;
    apt.update()?;
    let packages = ["go", "src"].map(|part| format!("golang-{VERSION}-{part}"));
    cmd::output(
        apt.command("apt-get")
            .arg("download")
            .args(&packages)
            .current_dir(apt.folder()),
    )?;
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(apt.folder())?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            cmd::output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(folder))?;
        }
    }
    let _ = std::fs::remove_dir_all(apt.folder());
    Ok(())
}

/// `go version go1.24.4 linux/amd64`
fn version_in(told: &str) -> Option<(u32, u32)> {
    let number = told
        .split_whitespace()
        .find_map(|word| word.strip_prefix("go1."))?;
    let digits = number
        .split(|letter: char| !letter.is_ascii_digit())
        .next()?;
    Some((1, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_go_says() {
        for (told, expected) in [
            ("go version go1.24.4 linux/amd64\n", Some((1, 24))),
            ("go version go1.27rc1 linux/amd64", Some((1, 27))),
            ("go version devel +a1b2", None),
        ] {
            assert_eq!(version_in(told), expected, "{told}");
        }
    }
}
