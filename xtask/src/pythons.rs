//! Root file systems with other versions of CPython, for the tests of stacks, and prints their folder.
//!
//! Debian's packages of other releases, unpacked into the cache; nothing of the system is changed. `uvloop` comes as a wheel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::{cmd, setup};

/// Versions, and the Debian release that has each. Statically linked, as Debian builds them.
const VERSIONS: [(&str, &str); 3] = [("3.9", "bullseye"), ("3.13", "trixie"), ("3.14", "sid")];
const UVLOOP: &str = "uvloop==0.23.0";

/// Arguments
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<()> {
    let folder = folder()?;
    for (version, suite) in VERSIONS {
        fetch(&folder.join(version), version, suite)?;
    }
    println!("{}", folder.display());
    Ok(())
}

/// Where they are, or will be.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(setup::cache_dir()?.join("pythons"))
}

/// From the cache, or into it. Delete a version's folder to get a newer one.
fn fetch(root: &Path, version: &str, suite: &str) -> Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    eprintln!("fetching Debian's Python {version} ({suite})");
    let apt = Apt::new(suite, setup::cache_dir()?.join("apt-pythons").join(suite))?;
    apt.update()?;
    let packages = [
        format!("python{version}-minimal"),
        format!("libpython{version}-stdlib"),
    ];
    // The whole of what they depend on: below another root nothing of this machine is there.
    cmd::output(
        apt.command("apt-get")
            .args([
                "install",
                "--download-only",
                "--yes",
                "--no-install-recommends",
            ])
            .args(&packages),
    )?;
    // Unpacked aside and moved into place, so that an interrupted run leaves nothing that looks finished.
    let aside = root.with_extension("new");
    let _ = std::fs::remove_dir_all(&aside);
    merged_usr(&aside)?;
    let archives = apt.folder().join("archives");
    for entry in std::fs::read_dir(&archives)
        .with_context(|| format!("cannot list {}", archives.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            unpack(&path, &aside)?;
        }
    }
    uvloop(&aside, version)?;
    let works = ["-c", "import asyncio, uvloop"];
    cmd::output(
        setup::root_command("chroot")?
            .arg(&aside)
            .arg(format!("/usr/bin/python{version}"))
            .args(works),
    )?;
    let _ = std::fs::remove_dir_all(apt.folder());
    std::fs::rename(&aside, root)
        .with_context(|| format!("cannot move {} into place", aside.display()))
}

/// Debian's layout since 2023: `/lib` is a link. Its newer packages bring no link themselves.
fn merged_usr(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let folder = root.join("usr").join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        std::os::unix::fs::symlink(Path::new("usr").join(name), root.join(name))
            .with_context(|| format!("cannot link {} to {}", name, folder.display()))?;
    }
    Ok(())
}

fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let tar = root.with_extension("tar");
    let file =
        std::fs::File::create(&tar).with_context(|| format!("cannot create {}", tar.display()))?;
    let status = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(file)
        .status()
        .context("cannot start dpkg-deb")?;
    if !status.success() {
        bail!(
            "dpkg-deb --fsys-tarfile {} ended with {status}",
            deb.display()
        );
    }
    cmd::output(
        Command::new("tar")
            .args(["--extract", "--keep-directory-symlink", "--file"])
            .arg(&tar)
            .arg("--directory")
            .arg(root),
    )?;
    std::fs::remove_file(&tar).with_context(|| format!("cannot remove {}", tar.display()))
}

/// The wheel for that version, where Debian's interpreter looks for packages.
fn uvloop(root: &Path, version: &str) -> Result<()> {
    let packages = root.join("usr/lib/python3/dist-packages");
    std::fs::create_dir_all(&packages)
        .with_context(|| format!("cannot create {}", packages.display()))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ];
    cmd::output(
        Command::new("python3")
            .args(pip)
            .args([
                "--only-binary",
                ":all:",
                "--python-version",
                version,
                "--target",
            ])
            .arg(&packages)
            .arg(UVLOOP),
    )
    .map(drop)
    .context("pip is needed (Debian's python3-pip)")
}
