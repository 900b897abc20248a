//! On which directory entries the content of a path depends.
//!
//! A Kubernetes `ConfigMap` is mounted as `config.yaml -> ..data/config.yaml` with `..data -> ..2026_11_21…`, and is changed
//! by renaming another link over `..data`: nothing ever happens to `config.yaml` itself. So every link on the way counts,
//! and where a part of the path is missing, the entry that would have to appear.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) dir: PathBuf,
    pub(super) name: OsString,
}

/// The entries that decide what `path` leads to: each link on the way and the file itself, or the first that is missing.
pub(super) fn spots(path: &Path) -> Vec<Spot> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut pending: VecDeque<OsString> = parts(&absolute).collect();
    let mut dir = PathBuf::from("/");
    let mut spots = Vec::new();
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            dir.pop();
            continue;
        }
        let here = dir.join(&name);
        if let Ok(target) = std::fs::read_link(&here) {
            links += 1;
            if links > MAX_LINKS {
                break;
            }
            spots.push(Spot {
                dir: dir.clone(),
                name,
            });
            if target.is_absolute() {
                dir = PathBuf::from("/");
            }
            pending = parts(&target).chain(pending).collect();
        } else if pending.is_empty() || std::fs::symlink_metadata(&here).is_err() {
            spots.push(Spot { dir, name });
            break;
        } else {
            dir = here;
        }
    }
    spots
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// The entries below `base`, as `directory/name` relative to it.
    fn below(base: &Path, path: &str) -> Vec<String> {
        let path = base.join(path);
        let relative = |spot: &Spot| {
            let dir = spot.dir.strip_prefix(base).ok()?;
            Some(dir.join(&spot.name).display().to_string())
        };
        spots(&path).iter().filter_map(relative).collect()
    }

    #[test]
    fn every_link_and_the_file_count() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("map/..one")).unwrap();
        std::fs::write(base.join("map/..one/c.yaml"), "{}").unwrap();
        symlink("..one", base.join("map/..data")).unwrap();
        symlink("..data/c.yaml", base.join("map/c.yaml")).unwrap();
        symlink(base.join("map"), base.join("absolute")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        for (path, expected) in [
            ("map/..one/c.yaml", vec!["map/..one/c.yaml"]),
            (
                "map/c.yaml",
                vec!["map/c.yaml", "map/..data", "map/..one/c.yaml"],
            ),
            (
                "absolute/c.yaml",
                vec!["absolute", "map/c.yaml", "map/..data", "map/..one/c.yaml"],
            ),
            ("map/../map/./nothing", vec!["map/nothing"]),
            ("no/such/place", vec!["no"]),
        ] {
            assert_eq!(below(&base, path), expected, "{path}");
        }
        assert_eq!(below(&base, "loop").len(), MAX_LINKS);
    }
}
