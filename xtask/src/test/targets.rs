//! The workspace's integration tests by name: cargo can pick targets, but not leave one out.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{cmd, layout};

/// The part of cargo's metadata that names targets.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The names of all integration test targets, sorted.
pub(crate) fn of_workspace() -> Result<Vec<String>> {
    test_names(&cmd::output(layout::cargo().args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?)
}

fn test_names(json: &str) -> Result<Vec<String>> {
    let metadata: Metadata =
        serde_json::from_str(json).context("cannot read what `cargo metadata` printed")?;
    let targets = metadata
        .packages
        .into_iter()
        .flat_map(|package| package.targets);
    let mut names: Vec<String> = targets
        .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        .map(|target| target.name)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_integration_tests_are_listed() {
        let json = r#"{"packages":[
            {"targets":[{"name":"loopwarden","kind":["lib"]},{"name":"watch","kind":["test"]},{"name":"kernel","kind":["test"]}]},
            {"targets":[{"name":"xtask","kind":["bin"]}]}]}"#;
        assert_eq!(test_names(json).unwrap(), ["kernel", "watch"]);
    }
}
