//! `docs/dependencies.md` names every direct dependency of every manifest with its pinned version, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The workspaces of the repository: the kernel half and the stand-in engine are built apart.
const WORKSPACES: [&str; 3] = [".", "ebpf", "xtask/engine"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Name and version requirement of every direct dependency of a workspace; those by path are the project's own.
fn direct_dependencies(workspace: &str) -> Vec<(String, String)> {
    let manifest = root().join(workspace).join("Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .arg("--manifest-path")
        .arg(&manifest)
        .output()
        .expect("cargo can be started");
    assert!(
        output.status.success(),
        "cargo metadata of {}: {}",
        manifest.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .flat_map(|package| package["dependencies"].as_array().expect("dependencies"))
        .filter(|dependency| dependency["path"].is_null())
        .map(|dependency| {
            let text = |field: &str| dependency[field].as_str().expect(field).to_owned();
            (text("name"), text("req"))
        })
        .collect()
}

/// The rows of the page: `` | `name` | version | … ``.
fn documented(page: &str) -> BTreeMap<&str, &str> {
    page.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((name, rest.split_once(" |")?.0))
        })
        .collect()
}

#[test]
fn every_direct_dependency_is_pinned_and_explained() {
    let path = root().join("docs/dependencies.md");
    let page = std::fs::read_to_string(&path).expect("docs/dependencies.md can be read");
    let documented = documented(&page);
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for workspace in WORKSPACES {
        for (name, required) in direct_dependencies(workspace) {
            let Some(version) = required.strip_prefix('=') else {
                wrong.push(format!(
                    "{workspace}: {name} is not pinned: it asks for {required}"
                ));
                continue;
            };
            if documented.get(name.as_str()) != Some(&version) {
                wrong.push(format!(
                    "{workspace}: {name} {version} has no row in the page"
                ));
            }
            used.insert(name);
        }
    }
    for name in documented.keys().filter(|name| !used.contains(**name)) {
        wrong.push(format!(
            "{name} has a row in the page, and no manifest names it"
        ));
    }
    assert!(!used.is_empty());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
