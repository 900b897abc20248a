//! Starting a command with a clean signal mask.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::SigSet;

/// The agent blocks the signals it takes through a descriptor, and a child inherits what its parent blocks: a command that
/// cannot be ended by SIGTERM would be the result.
pub fn with_clean_mask(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this one is a single sigprocmask.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty()
                .thread_set_mask()
                .map_err(std::io::Error::from)
        })
    }
}

/// Gives memory that the start needed and nothing needs any more back to the machine.
pub fn trim_memory() {
    // SAFETY: takes a number, frees unused pages only.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_ended_whatever_we_block() {
        let mut set = SigSet::empty();
        set.add(nix::sys::signal::Signal::SIGTERM);
        set.thread_block().unwrap();
        let output = with_clean_mask(Command::new("grep").args(["SigBlk", "/proc/self/status"]))
            .output()
            .unwrap();
        set.thread_unblock().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "SigBlk:\t0000000000000000"
        );
    }
}
