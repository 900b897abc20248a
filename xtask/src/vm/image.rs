//! The file system that a kernel boots into: busybox, the two programs, and an init that runs the tests and reports.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::artifacts::Binaries;
use super::cpio::Archive;
use crate::cmd;

const BUSYBOX: &str = "/bin/busybox";
const INIT: &str = include_str!("init.sh");
/// Where init mounts something, and what programs expect to find.
const FOLDERS: [&str; 10] = [
    "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var",
];

/// Writes the image.
pub(crate) fn write(to: &Path, binaries: &Binaries, test_args: &[String]) -> Result<()> {
    let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let folder = to.parent().context("the image needs a folder")?;
    let tests = stripped(&binaries.tests, &folder.join("kernel-tests"))?;
    let agent = stripped(&binaries.agent, &folder.join("loopwarden"))?;
    let busybox = std::fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    fill(
        Archive::new(BufWriter::new(file)),
        &busybox,
        &tests,
        &agent,
        test_args,
    )
    .with_context(|| format!("cannot write {}", to.display()))
}

fn fill<W: Write>(
    mut archive: Archive<W>,
    busybox: &[u8],
    tests: &[u8],
    agent: &[u8],
    test_args: &[String],
) -> std::io::Result<()> {
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    for name in ["sbin", "usr/bin", "usr/sbin"] {
        archive.symlink(name, "/bin")?;
    }
    // Without this node a kernel starts init with no output at all.
    archive.character_device("dev/console", 5, 1)?;
    archive.executable("bin/busybox", busybox)?;
    archive.executable("bin/kernel-tests", tests)?;
    archive.executable("bin/loopwarden", agent)?;
    archive.executable("init", INIT.as_bytes())?;
    archive.file(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")?;
    archive.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")?;
    // One a line; a trailing line break is needed, because the shell's `read` drops a line without.
    let lines = test_args
        .iter()
        .flat_map(|arg| [arg.as_str(), "\n"])
        .collect::<String>();
    archive.file("etc/test-args", lines.as_bytes())?;
    archive.finish()?;
    Ok(())
}

/// The program without its debug information, which is most of its size.
fn stripped(program: &Path, to: &Path) -> Result<Vec<u8>> {
    cmd::run(
        Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(to)
            .arg(program),
    )?;
    std::fs::read(to).with_context(|| format!("cannot read {}", to.display()))
}
