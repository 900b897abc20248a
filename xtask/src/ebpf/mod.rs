//! Builds the kernel half into the committed object, and checks that the committed object comes from its source.
//!
//! Users never need this: `ebpf/object/loopwarden.bpf.o` is embedded in the agent, so stable Rust is enough for them.
//! Beside it lies `toolchain.json`: what built it, and the hashes that tell when it is stale.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{bpf, cmd, layout};

mod build;
mod lint;
mod record;
mod toolchain;
pub(crate) mod wrapper;

use record::Record;
use toolchain::{Kind, Toolchain};

/// Arguments of `cargo xtask ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing: fail when the committed object is stale or does not come from its source
    #[arg(long)]
    check: bool,
    /// Take this toolchain instead of the first one that is there
    #[arg(long, value_enum)]
    toolchain: Option<Kind>,
    /// Write the object to this file and leave the committed one and its record alone
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        return check(args.toolchain);
    }
    let toolchain = Toolchain::find(args.toolchain)?;
    println!("building with {}", toolchain.facts);
    if let Some(output) = &args.output {
        return build::object(&toolchain, output);
    }
    let object = committed_object();
    build::object(&toolchain, &object)?;
    let record = Record::of(&toolchain.facts, &layout::root(), &object)?;
    record.write(&record_file())?;
    println!("wrote {} ({})", object.display(), record.object_sha256);
    Ok(())
}

fn check(kind: Option<Kind>) -> Result<()> {
    let recorded = Record::read(&record_file())?;
    let present = Record::of(&recorded.toolchain, &layout::root(), &committed_object())?;
    record::compare(&recorded, &present)?;
    println!(
        "the committed object is the recorded one, and its sources are the ones in this checkout"
    );

    let toolchain = Toolchain::find(kind)?;
    let fresh = layout::target().join("ebpf/fresh.bpf.o");
    println!("rebuilding with {}", toolchain.facts);
    build::object(&toolchain, &fresh)?;
    if toolchain.facts == recorded.toolchain {
        compare_bytes(&recorded, &fresh)?;
    } else {
        println!(
            "the recorded toolchain is another ({}): bytes cannot be compared",
            recorded.toolchain
        );
        run_kernel_tests(&fresh)?;
    }
    lint::run(&toolchain)
}

fn compare_bytes(recorded: &Record, fresh: &Path) -> Result<()> {
    let hash = record::file_sha256(fresh)?;
    if hash != recorded.object_sha256 {
        bail!(
            "the recorded toolchain makes another object from these sources: {} has {hash}, recorded is {}; \
             run `cargo xtask ebpf` and commit the result",
            fresh.display(),
            recorded.object_sha256
        );
    }
    println!("the recorded toolchain makes the same bytes again");
    Ok(())
}

/// The fresh object cannot be compared, so it has to show that it does the same.
fn run_kernel_tests(object: &Path) -> Result<()> {
    if !bpf::allowed_for("the kernel tests on the rebuilt object")? {
        return Ok(());
    }
    let object =
        std::path::absolute(object).context("cannot make the path of the object absolute")?;
    cmd::run(
        layout::cargo()
            .args(["test", "--package", "loopwarden", "--test", "kernel"])
            .env("LOOPWARDEN_BPF_OBJECT", object),
    )
}

fn committed_object() -> PathBuf {
    layout::root().join("ebpf/object/loopwarden.bpf.o")
}

fn record_file() -> PathBuf {
    layout::root().join("ebpf/object/toolchain.json")
}
