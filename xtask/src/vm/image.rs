//! The file system that a kernel boots into: busybox, the two programs, runc with its libraries, and an init that runs the tests
//! and reports.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::artifacts::Binaries;
use super::cpio::Archive;
use crate::cmd;

const BUSYBOX: &str = "/bin/busybox";
/// Where Debian has it; it starts the containers of the tests.
const RUNC: &str = "/usr/sbin/runc";
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
    let programs = [
        ("busybox", read(Path::new(BUSYBOX))?),
        ("kernel-tests", tests),
        ("loopwarden", agent),
        ("runc", read(Path::new(RUNC))?),
    ];
    let libraries: Vec<Library> = libraries_of(RUNC)?
        .into_iter()
        .map(|path| read(&path).map(|content| Library { path, content }))
        .collect::<Result<_>>()?;
    fill(
        Archive::new(BufWriter::new(file)),
        &programs,
        &libraries,
        test_args,
    )
    .with_context(|| format!("cannot write {}", to.display()))
}

/// A shared library, at the path at which its program looks for it.
struct Library {
    path: PathBuf,
    content: Vec<u8>,
}

/// The libraries that a program is started with, its loader among them.
fn libraries_of(program: &str) -> Result<Vec<PathBuf>> {
    let said = cmd::output(Command::new("ldd").arg(program))?;
    let found = libraries_in(&said);
    ensure!(
        !found.is_empty(),
        "ldd names no libraries of {program}: {said}"
    );
    Ok(found)
}

/// Lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`; the kernel's own has no path.
fn libraries_in(said: &str) -> Vec<PathBuf> {
    let path_of = |line: &str| {
        let path = line.split(" => ").last()?.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    said.lines().filter_map(path_of).collect()
}

/// The folders above these files that are not in the image yet, the outer ones first.
fn folders_above(libraries: &[Library]) -> BTreeSet<String> {
    let above = libraries.iter().flat_map(|it| it.path.ancestors().skip(1));
    above
        .map(|folder| folder.to_string_lossy().trim_matches('/').to_owned())
        .filter(|folder| !folder.is_empty() && !FOLDERS.contains(&folder.as_str()))
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn fill<W: Write>(
    mut archive: Archive<W>,
    programs: &[(&str, Vec<u8>)],
    libraries: &[Library],
    test_args: &[String],
) -> std::io::Result<()> {
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    for folder in folders_above(libraries) {
        archive.folder(&folder)?;
    }
    for name in ["sbin", "usr/bin", "usr/sbin"] {
        archive.symlink(name, "/bin")?;
    }
    // Without this node a kernel starts init with no output at all.
    archive.character_device("dev/console", 5, 1)?;
    for (name, content) in programs {
        archive.executable(&format!("bin/{name}"), content)?;
    }
    for library in libraries {
        let name = library.path.to_string_lossy();
        archive.executable(name.trim_start_matches('/'), &library.content)?;
    }
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
    read(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_taken_from_where_the_loader_finds_them() {
        let said = "\tlinux-vdso.so.1 (0x00007ff0cdae2000)\n\
                    \tlibseccomp.so.2 => /lib/x86_64-linux-gnu/libseccomp.so.2 (0x00007ff0cdaae000)\n\
                    \tlibgone.so.1 => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007ff0cdae4000)\n";
        let paths = [
            "/lib/x86_64-linux-gnu/libseccomp.so.2",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries_in(said), paths.map(PathBuf::from));
        let libraries = paths.map(|path| Library {
            path: path.into(),
            content: Vec::new(),
        });
        // A folder has to come before what is in it.
        let folders: Vec<String> = folders_above(&libraries).into_iter().collect();
        assert_eq!(folders, ["lib", "lib/x86_64-linux-gnu", "lib64"]);
    }
}
