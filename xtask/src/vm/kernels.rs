//! Debian's cloud kernels: which there are, and how they come into the cache.
//!
//! apt works with sources, lists and state of its own: see `apt.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::{cmd, setup};

/// The package that always depends on the newest cloud kernel of its release.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel that the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 11 (bullseye)
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12 (bookworm)
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13 (trixie)
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// The most common first: it tells most when time is short.
    pub(crate) const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V5_10];

    fn version(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
        }
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.version())
    }
}

/// A kernel that is ready to boot.
#[derive(Debug)]
pub(crate) struct Image {
    /// What `uname -r` will say.
    pub(crate) release: String,
    pub(crate) vmlinuz: PathBuf,
}

/// The kernel from the cache, or from Debian into the cache. Delete its folder to get a newer one.
pub(crate) fn fetch(kernel: Kernel) -> Result<Image> {
    let folder = setup::cache_dir()?.join("kernels").join(kernel.version());
    if let Some(image) = unpacked(&folder) {
        return Ok(image);
    }
    println!(
        "fetching Debian's {kernel} cloud kernel ({})",
        kernel.suite()
    );
    let folder_of_apt = setup::cache_dir()?.join("apt").join(kernel.suite());
    let apt = Apt::new(kernel.suite(), folder_of_apt)?;
    apt.update()?;
    let package = kernel_package(&apt)?;
    cmd::output(
        apt.command("apt-get")
            .args(["download", &package])
            .current_dir(apt.folder()),
    )?;
    let deb = newest_deb(apt.folder(), &package)?;
    // Unpacked aside and moved into place, so that an interrupted run leaves nothing that looks finished.
    let aside = folder.with_extension("new");
    let _ = std::fs::remove_dir_all(&aside);
    std::fs::create_dir_all(&aside)
        .with_context(|| format!("cannot create {}", aside.display()))?;
    cmd::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&deb)
            .arg(&aside),
    )?;
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::rename(&aside, &folder)
        .with_context(|| format!("cannot move {} into place", aside.display()))?;
    // The modules in the package are ten times the kernel, and the package itself is not needed again.
    let _ = std::fs::remove_dir_all(folder.join("lib"));
    let _ = std::fs::remove_file(&deb);
    unpacked(&folder).with_context(|| format!("{package} holds no boot/vmlinuz-*"))
}

fn unpacked(folder: &Path) -> Option<Image> {
    let entries = std::fs::read_dir(folder.join("boot")).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let release = name.strip_prefix("vmlinuz-")?.to_owned();
        Some(Image {
            release,
            vmlinuz: entry.path(),
        })
    })
}

fn newest_deb(folder: &Path, package: &str) -> Result<PathBuf> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path
                .file_name()
                .map(std::ffi::OsStr::to_string_lossy)
                .unwrap_or_default();
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        })
        .with_context(|| format!("apt-get download left no {package} in {}", folder.display()))
}

/// The kernel that the release's meta package depends on now.
fn kernel_package(apt: &Apt) -> Result<String> {
    let depends = cmd::output(apt.command("apt-cache").args(["depends", META_PACKAGE]))?;
    match newest_kernel(&depends) {
        Some(package) => Ok(package),
        None => bail!("{META_PACKAGE} depends on no kernel; apt-cache said: {depends}"),
    }
}

fn newest_kernel(depends: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_dependency_of_the_meta_package() {
        let depends =
            "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: x\n";
        assert_eq!(
            newest_kernel(depends).as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(newest_kernel("linux-image-cloud-amd64\n"), None);
    }
}
