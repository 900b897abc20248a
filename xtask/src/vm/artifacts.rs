//! What runs inside: the kernel tests and the agent, linked statically, because the image has no libraries.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{cmd, layout};

/// The two programs.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub(crate) tests: PathBuf,
    pub(crate) agent: PathBuf,
}

/// Builds both in cargo's release profile.
pub(crate) fn build() -> Result<Binaries> {
    let mut cargo = layout::static_cargo("test");
    cargo.args(["--package", "loopwarden", "--test", "kernel", "--no-run"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    println!("building the kernel tests and the agent, statically linked");
    let out = cargo
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", cmd::shown(&cargo)))?;
    if !out.status.success() {
        bail!("`{}` failed: {}", cmd::shown(&cargo), out.status);
    }
    executables(&String::from_utf8_lossy(&out.stdout))
}

/// The part of cargo's messages that names what was built.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

fn executables(messages: &str) -> Result<Binaries> {
    let (mut tests, mut agent) = (None, None);
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).with_context(|| {
            format!("cargo printed a line that is not one of its messages: {line}")
        })?;
        let (Some(target), Some(executable)) = (message.target, message.executable) else {
            continue;
        };
        if message.reason != "compiler-artifact" {
            continue;
        }
        match target.kind.first().map(String::as_str) {
            Some("test") if target.name == "kernel" => tests = Some(executable),
            Some("bin") if target.name == "loopwarden" => agent = Some(executable),
            _ => {}
        }
    }
    Ok(Binaries {
        tests: tests.context("cargo built no test target `kernel`")?,
        agent: agent.context("cargo built no binary `loopwarden`")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executables_are_found_by_kind_and_name() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"libc","kind":["lib"]},"executable":null}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"compiler-artifact","target":{"name":"loopwarden","kind":["bin"]},"executable":"/t/loopwarden"}
{"reason":"compiler-artifact","target":{"name":"kernel","kind":["test"]},"executable":"/t/kernel-1"}
{"reason":"build-finished","success":true}"#;
        let found = executables(messages).unwrap();
        assert_eq!(found.tests, PathBuf::from("/t/kernel-1"));
        assert_eq!(found.agent, PathBuf::from("/t/loopwarden"));
    }

    #[test]
    fn a_missing_test_target_is_said() {
        let error = executables(r#"{"reason":"build-finished"}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`kernel`"), "{error}");
    }
}
