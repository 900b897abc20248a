//! The same stalls with other versions of CPython, with asyncio and uvloop, and below another root.
//!
//! `LOOPWARDEN_PYTHONS` is a folder with a root file system for each version, made by `cargo xtask pythons`, which prints it. Without
//! it the test says so and ends, except where `LOOPWARDEN_CI` is 1: there it fails.

use std::path::Path;
use std::process::Command;

use crate::python::{STALLS, is};
use crate::support::{Script, helper, marked, script, until};

/// Stalls that are also made with uvloop: what differs there is what is outside them.
const WITH_UVLOOP: [&str; 4] = ["sleep", "future", "popen", "json"];

#[test]
fn every_version_is_read() {
    let Some(folder) = std::env::var_os("LOOPWARDEN_PYTHONS") else {
        assert_ne!(
            std::env::var("LOOPWARDEN_CI").as_deref(),
            Ok("1"),
            "LOOPWARDEN_PYTHONS is not set: `cargo xtask pythons` prints what it should be"
        );
        eprintln!("left out: LOOPWARDEN_PYTHONS is not set (`cargo xtask pythons`)");
        return;
    };
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut versions: Vec<_> = entries
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with("3."))
        .collect();
    versions.sort();
    assert!(
        versions.len() >= 3,
        "{} holds {versions:?}",
        folder.display()
    );
    for version in versions {
        every_stall(&Path::new(&folder).join(&version), &version);
    }
}

fn every_stall(root: &Path, version: &str) {
    std::fs::copy(script("stalls.py"), root.join("stalls.py")).unwrap();
    let mut helper = helper();
    for stall in &STALLS {
        let loops = ["asyncio", "uvloop"].into_iter();
        for event_loop in loops.filter(|name| *name == "asyncio" || WITH_UVLOOP.contains(&stall.0))
        {
            let mut command = Command::new("chroot");
            command.arg(root).arg(format!("/usr/bin/python{version}"));
            let script = Script::start(command.args(["/stalls.py", stall.0, event_loop]));
            let what = format!("{} with {event_loop} in {version}", stall.0);
            let found = until(&mut helper, script.pid(), &what, |found| {
                let is_complete = match stall.0 {
                    "rlock" | "acquired" => found.lock_holder.is_some(),
                    "gil" => found.gil.as_ref().is_some_and(|gil| gil.is_wanted),
                    _ => true,
                };
                is(found, stall) && is_complete
            });
            assert_eq!(found.runtime, Some(format!("CPython {version}")));
            if let Some(holder) = found.lock_holder {
                let frame = &holder.stack.as_ref().unwrap().frames[0];
                assert_eq!(frame.function, "held");
                assert_eq!(frame.line, Some(marked("holder")));
            }
        }
    }
    assert_eq!(helper.started(), 1);
}
