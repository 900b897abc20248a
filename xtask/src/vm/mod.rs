//! Boots Debian's kernels in QEMU and runs the kernel tests inside, as the machine's only program.
//!
//! The development kernel is one of many that users run: older ones lack hooks and map types, newer ones refuse or rename
//! them. The same test binary runs everywhere; what cannot run somewhere is left out by name in the tests themselves.
//! Nothing needs KVM or root: the processor is emulated, the kernel comes from Debian, the file system is made here.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::setup;

mod artifacts;
mod cpio;
mod image;
mod kernels;
mod machine;

use kernels::Kernel;
use machine::{Machine, Outcome};

/// qemu emulates, busybox is the tests' user space, strip keeps the image small, runc starts the tests' containers.
const PACKAGES: [&str; 4] = ["qemu-system-x86", "busybox-static", "binutils", "runc"];

/// Arguments of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Boot this kernel; may be given several times
    #[arg(long = "kernel", value_enum, default_values_t = [Kernel::V6_1])]
    kernels: Vec<Kernel>,
    /// Boot every kernel there is
    #[arg(long, conflicts_with = "kernels")]
    full: bool,
    /// Give up on a kernel after this many seconds (an emulated processor is some 20 times slower)
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
    /// Arguments of the test binary, such as a part of a test's name
    #[arg(last = true)]
    tests: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::need(&PACKAGES)?;
    let binaries = artifacts::build()?;
    let kernels = if args.full {
        Kernel::ALL.to_vec()
    } else {
        args.kernels.clone()
    };
    let folder = crate::layout::target().join("vm");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let initramfs = folder.join("initramfs.cpio");
    image::write(&initramfs, &binaries, &args.tests)?;

    let mut summaries = Vec::new();
    let mut failed = Vec::new();
    for kernel in kernels {
        let outcome = boot(
            kernel,
            &initramfs,
            &folder,
            Duration::from_secs(args.timeout),
        );
        match outcome {
            Ok(outcome) => {
                if outcome.status != 0 {
                    failed.push(kernel.to_string());
                }
                summaries.push(format!("{kernel}: {outcome}"));
            }
            Err(error) => {
                eprintln!("kernel {kernel}: {error:#}");
                summaries.push(format!("{kernel}: FAILED, see above"));
                failed.push(kernel.to_string());
            }
        }
    }
    println!("\n{}", summaries.join("\n"));
    if !failed.is_empty() {
        bail!("the kernel tests failed on {}", failed.join(", "));
    }
    Ok(())
}

fn boot(
    kernel: Kernel,
    initramfs: &std::path::Path,
    folder: &std::path::Path,
    limit: Duration,
) -> Result<Outcome> {
    let image = kernels::fetch(kernel)?;
    println!(
        "booting {kernel} ({}) without KVM, at most {} s",
        image.release,
        limit.as_secs()
    );
    let console_log: PathBuf = folder.join(format!("console-{kernel}.log"));
    Machine {
        label: kernel.to_string(),
        vmlinuz: image.vmlinuz,
        initramfs: initramfs.to_owned(),
        console_log,
        limit,
    }
    .run()
}
