//! What a task needs from the machine: Debian packages, and a folder that outlives `cargo clean`.
//!
//! Nothing else of the system is changed: no sources are added, no files outside the cache are written.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd;

/// Makes sure that these Debian packages are installed; installs only what is missing.
///
/// Asks the package lists first as they are, and refreshes them only when that was not enough.
pub(crate) fn need(packages: &[&str]) -> Result<()> {
    if !cmd::on_path("dpkg-query") {
        bail!(
            "this task takes its tools from Debian packages and there is no dpkg here; \
             run it on Debian 12 or later (a container will do). It needs: {}",
            packages.join(" ")
        );
    }
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", missing.join(" "));
    if install(&missing).is_err() {
        run_as_root(&["apt-get", "update"]).with_context(|| by_hand(&missing))?;
        install(&missing).with_context(|| by_hand(&missing))?;
    }
    Ok(())
}

/// Where downloads and built tools are kept: `$LOOPWARDEN_CACHE`, `$XDG_CACHE_HOME/loopwarden` or `~/.cache/loopwarden`.
///
/// The folder exists when this returns.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let dir = choose_cache_dir(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
        .context("no place for the cache: set LOOPWARDEN_CACHE, or HOME")?;
    fs::create_dir_all(&dir).with_context(|| {
        format!(
            "cannot create the cache folder {}; set LOOPWARDEN_CACHE to another",
            dir.display()
        )
    })?;
    Ok(dir)
}

/// A part of a cache folder, made by `make` unless it is there and made from the same recipe.
///
/// It counts as whole only with its stamp, a file that is written last and names what the part was made from. Makers that may
/// run side by side hold a lock of their own.
pub(crate) fn part(
    cache: &Path,
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let part = cache.join(name);
    let stamp = cache.join(format!("{name}.stamp"));
    if part.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == recipe) {
        return Ok(part);
    }
    eprintln!("making {name} in {}", cache.display());
    let _ = fs::remove_file(&stamp);
    if part.exists() {
        fs::remove_dir_all(&part)
            .with_context(|| format!("cannot remove the half-made {}", part.display()))?;
    }
    make(&part).with_context(|| format!("cannot make {}", part.display()))?;
    fs::write(&stamp, recipe).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(part)
}

/// A command that runs as root: itself when this process is root, through sudo otherwise.
pub(crate) fn root_command(program: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    if cmd::on_path("sudo") {
        let mut command = Command::new("sudo");
        command.args(["--", program]);
        return Ok(command);
    }
    bail!(
        "`{program}` has to run as root, this is not root, and there is no sudo: start the task as root"
    )
}

/// Whether this process has effective user id 0.
pub(crate) fn is_root() -> Result<bool> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    effective_uid(&status)
        .map(|uid| uid == 0)
        .context("no effective user id in /proc/self/status")
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query fails when it does not know one of the names, which is an answer here, so its status is not looked at.
    let out = Command::new("dpkg-query")
        .args([
            "--show",
            "--showformat",
            "${Package} ${db:Status-Status}\\n",
        ])
        .args(packages)
        .output()
        .context("cannot start dpkg-query")?;
    let listed = String::from_utf8_lossy(&out.stdout);
    Ok(packages
        .iter()
        .copied()
        .filter(|package| !is_listed_installed(&listed, package))
        .collect())
}

fn is_listed_installed(listed: &str, package: &str) -> bool {
    let name = package.split(':').next().unwrap_or(package);
    listed
        .lines()
        .any(|line| line.split_once(' ') == Some((name, "installed")))
}

fn install(packages: &[&str]) -> Result<()> {
    let mut words = vec![
        "apt-get",
        // Another apt-get may be at work, for instance the machine's own daily one.
        "-oDPkg::Lock::Timeout=600",
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
        // Rather fail than take away what the machine's owner has installed.
        "--no-remove",
    ];
    words.extend(packages);
    run_as_root(&words)
}

fn run_as_root(words: &[&str]) -> Result<()> {
    // Through env, because sudo drops the variables of its caller.
    cmd::run(
        root_command("env")?
            .arg("DEBIAN_FRONTEND=noninteractive")
            .args(words),
    )
}

fn by_hand(packages: &[&str]) -> String {
    format!(
        "could not install Debian packages; as root, run: apt-get update && apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

fn choose_cache_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(dir) = variable("LOOPWARDEN_CACHE") {
        return Some(dir.into());
    }
    let base = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("loopwarden"))
}

fn effective_uid(status: &str) -> Option<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_goes_where_the_environment_says() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let cases: [Case; 4] = [
            (
                &[
                    ("LOOPWARDEN_CACHE", "/c"),
                    ("XDG_CACHE_HOME", "/x"),
                    ("HOME", "/h"),
                ],
                Some("/c"),
            ),
            (
                &[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")],
                Some("/x/loopwarden"),
            ),
            (&[("HOME", "/h")], Some("/h/.cache/loopwarden")),
            (&[], None),
        ];
        for (environment, expected) in cases {
            let got = choose_cache_dir(|name| {
                environment
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| OsString::from(value))
            });
            assert_eq!(
                got.as_deref(),
                expected.map(std::path::Path::new),
                "{environment:?}"
            );
        }
    }

    #[test]
    fn a_package_counts_only_when_fully_installed() {
        let listed = "busybox-static installed\nqemu-utils config-files\nlibc6-dev installed\n";
        assert!(is_listed_installed(listed, "busybox-static"));
        assert!(is_listed_installed(listed, "libc6-dev:amd64"));
        assert!(!is_listed_installed(listed, "qemu-utils"));
        assert!(!is_listed_installed(listed, "busybox"));
    }

    #[test]
    fn root_is_known_by_the_effective_user_id() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }
}
