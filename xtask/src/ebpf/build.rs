//! One compilation of the kernel half, such that the same sources and toolchain give the same bytes in any folder.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::toolchain::Toolchain;
use super::wrapper;
use crate::{cmd, layout};

/// aya's bindings to the kernel's register layout are chosen by this.
const ARCH: &str = "x86_64";
/// Between the flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Builds the object and writes it, stripped of DWARF, to `output`. BTF, maps and symbols stay.
pub(crate) fn object(toolchain: &Toolchain, output: &Path) -> Result<()> {
    let built = target_dir().join("bpfel-unknown-none/release/loopwarden-ebpf");
    cmd::run(
        cargo(toolchain)?
            .args(["build", "--release", "--quiet"])
            .args(toolchain.target_args()),
    )?;
    if let Some(folder) = output.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // `strip_debug` of rustc is not enough: BTF is made from the DWARF by the linker, so the DWARF can go only afterwards.
    cmd::run(
        toolchain
            .llvm_tool("llvm-strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(output)
            .arg(built),
    )
}

/// cargo in the crate's folder, with the flags of every compilation for BPF.
pub(crate) fn cargo(toolchain: &Toolchain) -> Result<std::process::Command> {
    let mut command = toolchain.cargo();
    command
        .current_dir(layout::root().join("ebpf"))
        .env("CARGO_TARGET_DIR", target_dir())
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags(toolchain.linker()).join(SEPARATOR),
        );
    wrapper::install(&mut command)?;
    Ok(command)
}

/// A folder of its own: another `RUSTFLAGS` in the same one would rebuild everything each time.
fn target_dir() -> std::path::PathBuf {
    layout::target().join("ebpf")
}

fn flags(linker: &Path) -> Vec<String> {
    let mut flags = vec![
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "--cfg".to_owned(),
        format!("bpf_target_arch=\"{ARCH}\""),
        remap(&layout::root(), "/loopwarden"),
    ];
    flags.extend(layout::cargo_home().map(|home| remap(&home, "/cargo")));
    flags
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}
