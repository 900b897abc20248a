//! This program again, as rustc's wrapper, to keep the checkout's folder out of the object.
//!
//! cargo puts a hash of the absolute path of every dependency outside the workspace (`abi/` is one, for `ebpf/`) into
//! `-C metadata`, and rustc puts that into the name of every function. With the crate's name in its place, two checkouts
//! in different folders give the same bytes (measured: without it they differ).

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

const VARIABLE: &str = "LOOPWARDEN_XTASK_IS_RUSTC_WRAPPER";

/// Makes this program the wrapper of the rustc that the given cargo will call.
pub(crate) fn install(cargo: &mut Command) -> Result<()> {
    cargo
        .env("RUSTC_WRAPPER", crate::layout::this_program()?)
        .env(VARIABLE, "1");
    Ok(())
}

/// Becomes rustc when cargo called this program as its wrapper; returns otherwise.
pub(crate) fn become_rustc_if_called_so() -> Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(());
    }
    let mut args = std::env::args().skip(1);
    let rustc = args
        .next()
        .context("called as rustc's wrapper without a rustc")?;
    // exec returns only when it failed.
    let failed = Command::new(&rustc)
        .args(with_stable_metadata(args.collect()))
        .exec();
    Err(failed).with_context(|| format!("cannot start {rustc}"))
}

fn with_stable_metadata(args: Vec<String>) -> Vec<String> {
    let name = args
        .iter()
        .position(|arg| arg == "--crate-name")
        .and_then(|at| args.get(at + 1))
        .cloned();
    let Some(name) = name.filter(|name| name.starts_with("loopwarden")) else {
        return args;
    };
    args.into_iter()
        .map(|arg| {
            if arg.starts_with("metadata=") {
                format!("metadata={name}")
            } else {
                arg
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_hash_of_our_own_crates_gives_way_to_their_name() {
        let given = args("--crate-name loopwarden_abi -C metadata=0123abcd -C extra-filename=-x");
        let wanted =
            args("--crate-name loopwarden_abi -C metadata=loopwarden_abi -C extra-filename=-x");
        assert_eq!(with_stable_metadata(given), wanted);
    }

    #[test]
    fn other_crates_and_questions_to_rustc_stay_as_they_are() {
        for untouched in ["--crate-name aya_ebpf -C metadata=0123abcd", "-vV"] {
            assert_eq!(with_stable_metadata(args(untouched)), args(untouched));
        }
    }
}
