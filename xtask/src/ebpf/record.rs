//! `toolchain.json`: what the committed object was made with and from.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::toolchain::Facts;

/// What the object is compiled from. The object itself lies below `ebpf/` too and is not one of its sources.
const SOURCES: [&str; 6] = [
    "abi/Cargo.toml",
    "abi/src",
    "ebpf/Cargo.lock",
    "ebpf/Cargo.toml",
    "ebpf/build.rs",
    "ebpf/src",
];

/// What is recorded beside the object.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) toolchain: Facts,
    pub(crate) sources_sha256: String,
    pub(crate) object_sha256: String,
}

impl Record {
    /// The record of an object and of the sources below `root`.
    pub(crate) fn of(toolchain: &Facts, root: &Path, object: &Path) -> Result<Self> {
        Ok(Self {
            toolchain: toolchain.clone(),
            sources_sha256: sources_sha256(root)?,
            object_sha256: file_sha256(object)?,
        })
    }

    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| {
            format!(
                "cannot read {}; `cargo xtask ebpf` writes it",
                file.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not what `cargo xtask ebpf` writes; run it again",
                file.display()
            )
        })
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text =
            serde_json::to_string_pretty(self).context("cannot write the record as JSON")? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// Fails when the checkout's sources or object are not the recorded ones.
pub(crate) fn compare(recorded: &Record, present: &Record) -> Result<()> {
    if recorded.sources_sha256 != present.sources_sha256 {
        bail!(
            "the committed eBPF object is stale: its sources (ebpf/ and abi/) have changed since; \
             run `cargo xtask ebpf` and commit ebpf/object/"
        );
    }
    if recorded.object_sha256 != present.object_sha256 {
        bail!(
            "the committed eBPF object is not the recorded one ({} instead of {}); \
             run `cargo xtask ebpf` and commit ebpf/object/",
            present.object_sha256,
            recorded.object_sha256
        );
    }
    Ok(())
}

/// The hash of a file's bytes.
pub(crate) fn file_sha256(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

/// One hash over the path, length and bytes of every source, in the order of the paths.
fn sources_sha256(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let bytes =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        hash.update(format!("{name} {}\n", bytes.len()));
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        let entries =
            std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
        for entry in entries {
            collect(
                &entry
                    .with_context(|| format!("cannot list {}", path.display()))?
                    .path(),
                files,
            )?;
        }
    } else if path.exists() {
        files.push(path.to_owned());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Checkout(PathBuf);

    impl Checkout {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir()
                .join(format!("loopwarden-record-{name}-{}", std::process::id()));
            std::fs::create_dir_all(root.join("abi/src")).unwrap();
            std::fs::create_dir_all(root.join("ebpf/src")).unwrap();
            std::fs::create_dir_all(root.join("ebpf/object")).unwrap();
            let checkout = Self(root);
            checkout.write("abi/src/lib.rs", "one");
            checkout.write("ebpf/src/main.rs", "two");
            checkout
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.join(name), text).unwrap();
        }

        fn hash(&self) -> String {
            sources_sha256(&self.0).unwrap()
        }
    }

    impl Drop for Checkout {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_hash_of_the_sources_does_not_depend_on_the_folder() {
        assert_eq!(Checkout::new("a").hash(), Checkout::new("b").hash());
    }

    #[test]
    fn a_changed_added_or_renamed_source_changes_the_hash_and_the_object_does_not() {
        let checkout = Checkout::new("c");
        let before = checkout.hash();
        checkout.write("ebpf/object/loopwarden.bpf.o", "object");
        assert_eq!(checkout.hash(), before);
        checkout.write("ebpf/src/main.rs", "changed");
        let changed = checkout.hash();
        assert_ne!(changed, before);
        checkout.write("ebpf/src/poll.rs", "");
        let added = checkout.hash();
        assert_ne!(added, changed);
        std::fs::rename(
            checkout.0.join("ebpf/src/poll.rs"),
            checkout.0.join("ebpf/src/wait.rs"),
        )
        .unwrap();
        assert_ne!(checkout.hash(), added);
    }
}
