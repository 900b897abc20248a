//! What builds the kernel half: a rustc with a `core` for BPF, bpf-linker, and LLVM's tools.
//!
//! There are two ways to a `core` for BPF, and neither can be counted on to be there: Debian ships one ready-made beside a
//! rustc of its own, and rustup's nightly can build one from `rust-src`. The finished object needs neither.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{cmd, setup};

/// bpf-linker's own version; it is linked against the LLVM below.
const BPF_LINKER: &str = "0.13.0";
/// Debian's packages of the LLVM that Debian's rustc also uses: bitcode is read by the version that wrote it or a later one.
const LLVM_PACKAGES: [&str; 3] = ["llvm-22", "llvm-22-dev", "libpolly-22-dev"];
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// The two ways to a `core` for BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Debian's rustc-web with its ready-made core
    Debian,
    /// rustup's nightly, building core from rust-src
    Nightly,
}

/// What tells one toolchain from another, as recorded beside the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The way to a `core` for BPF.
    pub(crate) how: Kind,
    /// `rustc --version`.
    pub(crate) rustc: String,
    /// `bpf-linker --version`.
    pub(crate) bpf_linker: String,
    /// `llvm-config --version`.
    pub(crate) llvm: String,
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let core = match self.how {
            Kind::Debian => "Debian's core",
            Kind::Nightly => "core built from source",
        };
        write!(
            f,
            "{} with {core}, {}, LLVM {}",
            self.rustc, self.bpf_linker, self.llvm
        )
    }
}

/// A toolchain that is ready to use.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) facts: Facts,
    linker: PathBuf,
    llvm_bin: PathBuf,
}

impl Toolchain {
    /// The wanted toolchain, or the first that is there; installs what is missing.
    pub(crate) fn find(wanted: Option<Kind>) -> Result<Self> {
        let how = match wanted {
            Some(kind) => {
                prepare(kind)?;
                kind
            }
            None => first_there()?,
        };
        let prefix = llvm_prefix()?;
        let llvm_bin = prefix.join("bin");
        let linker = bpf_linker(&prefix)?;
        let llvm = cmd::output(Command::new(llvm_bin.join("llvm-config")).arg("--version"))?;
        let facts = Facts {
            how,
            rustc: first_line(&cmd::output(rustc(how).arg("--version"))?),
            bpf_linker: first_line(&cmd::output(Command::new(&linker).arg("--version"))?),
            llvm: first_line(&llvm),
        };
        Ok(Self {
            facts,
            linker,
            llvm_bin,
        })
    }

    /// cargo, set up to compile with this toolchain; the caller adds the subcommand after [`Toolchain::target_args`].
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self.facts.how {
            Kind::Debian => {
                let mut command = crate::layout::cargo();
                // The ready-made core is complete, but a compiler that is not a nightly refuses the features BPF needs.
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Kind::Nightly => rustup_nightly("cargo"),
        };
        // A setting of the caller for the host must not reach a compilation for another target.
        command
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    }

    /// The arguments that choose the target.
    pub(crate) fn target_args(&self) -> &'static [&'static str] {
        match self.facts.how {
            Kind::Debian => &["--target", "bpfel-unknown-none"],
            Kind::Nightly => &["--target", "bpfel-unknown-none", "-Zbuild-std=core"],
        }
    }

    pub(crate) fn linker(&self) -> &Path {
        &self.linker
    }

    /// One of LLVM's tools.
    pub(crate) fn llvm_tool(&self, name: &str) -> Command {
        Command::new(self.llvm_bin.join(name))
    }
}

fn first_there() -> Result<Kind> {
    let Err(debian) = prepare(Kind::Debian) else {
        return Ok(Kind::Debian);
    };
    let Err(nightly) = prepare(Kind::Nightly) else {
        return Ok(Kind::Nightly);
    };
    bail!(
        "no toolchain with a core for BPF. Debian's: {debian:#}. rustup's nightly: {nightly:#}. \
         (Only building the kernel half needs one: the agent builds with stable Rust.)"
    )
}

fn prepare(kind: Kind) -> Result<()> {
    match kind {
        Kind::Debian => setup::need(&DEBIAN_PACKAGES),
        Kind::Nightly => {
            let listed = cmd::output(Command::new("rustup").args(["component", "list", "--toolchain", "nightly"]))
                .context("is rustup there, with a nightly? `rustup toolchain install nightly --component rust-src`")?;
            if !listed
                .lines()
                .any(|line| line.starts_with("rust-src") && line.ends_with("(installed)"))
            {
                cmd::run(Command::new("rustup").args([
                    "component",
                    "add",
                    "rust-src",
                    "--toolchain",
                    "nightly",
                ]))?;
            }
            Ok(())
        }
    }
}

fn rustc(kind: Kind) -> Command {
    match kind {
        Kind::Debian => Command::new(DEBIAN_RUSTC),
        Kind::Nightly => rustup_nightly("rustc"),
    }
}

fn rustup_nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", program])
        .env_remove("RUSTC")
        .env_remove("RUSTDOC");
    command
}

/// LLVM's folder: `$LLVM_PREFIX` where it is set, else the one of Debian's packages.
fn llvm_prefix() -> Result<PathBuf> {
    if let Some(prefix) = std::env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    setup::need(&LLVM_PACKAGES)
        .context("or set LLVM_PREFIX to the folder of an LLVM 22 with its development files")?;
    Ok(LLVM_PREFIX.into())
}

/// The bpf-linker of our version: from the cache, from PATH, or built into the cache.
fn bpf_linker(llvm: &Path) -> Result<PathBuf> {
    let root = setup::cache_dir()?.join(format!("bpf-linker-{BPF_LINKER}"));
    let cached = root.join("bin/bpf-linker");
    for candidate in [cached.clone(), PathBuf::from("bpf-linker")] {
        let version = cmd::output(Command::new(&candidate).arg("--version"));
        if version.is_ok_and(|version| version.split_whitespace().nth(1) == Some(BPF_LINKER)) {
            return Ok(candidate);
        }
    }
    println!("building bpf-linker {BPF_LINKER} into {}", root.display());
    let bin = llvm.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))
        .context("PATH has an entry that cannot be joined")?;
    cmd::run(
        crate::layout::cargo()
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"])
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(&root)
            .env("LLVM_PREFIX", llvm)
            .env("PATH", path)
            .env("RUSTFLAGS", format!("-L {}", llvm.join("lib").display()))
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    Ok(cached)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}
