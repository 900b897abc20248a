//! The machine has what the kernel tests need.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::{in_vm, watch};
use crate::victim::FLAG;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        exists("btf", "/sys/kernel/btf/vmlinux"),
        Case::new("machine::victims", || {
            ends_with(
                Command::new(std::env::current_exe()?).args([FLAG, "exits", "7"]),
                7,
            )
        }),
        Case::new("machine::agent", || {
            ends_with(Command::new(watch::binary()).arg("--version"), 0)
        }),
    ];
    if in_vm() {
        cases.push(exists(
            "tracefs",
            "/sys/kernel/tracing/events/syscalls/sys_enter_wait4/id",
        ));
        cases.push(exists("cgroup2", "/sys/fs/cgroup/cgroup.procs"));
    }
    cases
}

fn exists(name: &str, path: &'static str) -> Case {
    Case::new(format!("machine::{name}"), move || {
        std::fs::metadata(path).map(|_| ()).context(path)
    })
}

fn ends_with(command: &mut Command, expected: i32) -> Result<()> {
    let status = command.status()?;
    ensure!(
        status.code() == Some(expected),
        "ended with {status} instead of {expected}"
    );
    Ok(())
}
