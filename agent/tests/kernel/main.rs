//! Shows that a machine has what the kernel tests need.

use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};

/// Makes this program a victim that only ends with the status it names.
const VICTIM: &str = "LOOPWARDEN_TEST_VICTIM";

fn main() {
    if let Some(status) = std::env::var(VICTIM)
        .ok()
        .and_then(|status| status.parse().ok())
    {
        std::process::exit(status);
    }
    let mut tests = vec![
        exists("btf", "/sys/kernel/btf/vmlinux"),
        Trial::test("victims", || {
            ends_with(Command::new(std::env::current_exe()?).env(VICTIM, "7"), 7)
        }),
        Trial::test("agent", || {
            ends_with(Command::new(agent()).arg("--help"), 0)
        }),
        Trial::test("loopback", || {
            std::net::TcpListener::bind("127.0.0.1:0")?;
            Ok(())
        }),
    ];
    if std::env::var_os("LOOPWARDEN_VM").is_some() {
        tests.extend([
            exists(
                "tracefs",
                "/sys/kernel/tracing/events/syscalls/sys_enter_wait4/id",
            ),
            exists("cgroup2", "/sys/fs/cgroup/cgroup.procs"),
        ]);
    }
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

fn exists(name: &'static str, path: &'static str) -> Trial {
    Trial::test(name, move || {
        std::fs::metadata(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(())
    })
}

fn agent() -> std::ffi::OsString {
    std::env::var_os("LOOPWARDEN_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_loopwarden").to_owned().into())
}

fn ends_with(command: &mut Command, expected: i32) -> Result<(), Failed> {
    let status = command.status()?;
    if status.code() == Some(expected) {
        return Ok(());
    }
    Err(format!("ended with {status} instead of {expected}").into())
}
