//! Container images without a registry or a build tool: an archive in Docker's format, with one layer.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::hex;
use crate::cmd;

/// The sandbox of each pod.
pub(crate) const PAUSE: &str = "docker.io/loopwarden/pause:1";
/// A shell and its tools.
pub(crate) const BUSYBOX: &str = "docker.io/loopwarden/busybox:1";
/// Nothing but the links that Debian's root folder has: the machine's own `/usr` is to be mounted.
pub(crate) const HOST: &str = "docker.io/loopwarden/host:1";

/// Where Debian's busybox-static puts it.
const PROGRAM: &str = "/bin/busybox";
/// A sandbox sleeps until it is killed; as process 1 it is deaf to other signals.
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "2147483647"];

/// Writes all images as archives into a folder, and tells their paths.
pub(crate) fn write_all(folder: &Path) -> Result<[PathBuf; 3]> {
    let pause = write(folder, "pause", PAUSE, &SLEEP, busybox)?;
    let tools = write(folder, "busybox", BUSYBOX, &[], busybox)?;
    let host = write(folder, "host", HOST, &[], |root| {
        for name in ["bin", "lib", "lib64", "sbin"] {
            symlink(Path::new("usr").join(name), root.join(name))?;
        }
        Ok(())
    })?;
    Ok([pause, tools, host])
}

fn write(
    folder: &Path,
    file: &str,
    name: &str,
    entrypoint: &[&str],
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let work = tempfile::tempdir_in(folder).context("cannot create a folder for an image")?;
    let root = work.path().join("root");
    for below in ["proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(below))?;
    }
    fill(&root)?;
    let layer = work.path().join("layer.tar");
    tar(&layer, &root, &["."])?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Entrypoint": entrypoint},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sum(&fs::read(&layer)?))]},
        "history": [{}],
    })
    .to_string();
    let config_name = format!("{}.json", sum(config.as_bytes()));
    fs::write(work.path().join(&config_name), config)?;
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]);
    fs::write(work.path().join("manifest.json"), manifest.to_string())?;
    let archive = folder.join(file).with_extension("tar");
    tar(
        &archive,
        work.path(),
        &[&config_name, "layer.tar", "manifest.json"],
    )?;
    Ok(archive)
}

fn busybox(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(PROGRAM, root.join("bin/busybox"))
        .with_context(|| format!("cannot copy {PROGRAM}"))?;
    for name in cmd::output(Command::new(PROGRAM).arg("--list"))?.lines() {
        if name != "busybox" {
            symlink("busybox", root.join("bin").join(name))?;
        }
    }
    Ok(())
}

fn tar(archive: &Path, folder: &Path, members: &[&str]) -> Result<()> {
    cmd::output(
        Command::new("tar")
            .args([
                "--create",
                "--numeric-owner",
                "--owner=0",
                "--group=0",
                "--sort=name",
                "--file",
            ])
            .arg(archive)
            .arg("--directory")
            .arg(folder)
            .args(members),
    )
    .map(drop)
}

fn sum(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
