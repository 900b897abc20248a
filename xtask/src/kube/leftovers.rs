//! Ends everything that a node has started, and unmounts and removes what it has made: at the end of a run, and of a former one that was killed.
//!
//! A component is known by its id and start time, written down when it was started, and by its working directory; containers by
//! descending from a containerd-shim that works below the node's folder.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::machine;
use crate::cmd;
use crate::litellm::process;

const PIDS: &str = "pids";
const LOGS: &str = "log";
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// Writes down that a component runs.
pub(crate) fn note(folder: &Path, name: &str, pid: u32) -> Result<()> {
    let start = start_time(pid).with_context(|| format!("{name} has ended at its start"))?;
    let pids = folder.join(PIDS);
    fs::create_dir_all(&pids)?;
    fs::write(pids.join(name), format!("{pid} {start}"))
        .with_context(|| format!("cannot write down the id of {name}"))
}

/// Whether a component that was written down still runs.
pub(crate) fn is_running(folder: &Path, name: &str) -> bool {
    component(folder, &folder.join(PIDS).join(name)).is_some()
}

/// Removes all of it but the logs.
pub(crate) fn sweep(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    // The kubelet among them first of all: it would start again what is ended.
    let components: Vec<OwnedFd> = files(&folder.join(PIDS))
        .iter()
        .filter_map(|file| component(folder, file))
        .collect();
    kill(&components);
    // A shim that is just being started is seen in the next round.
    for _ in 0..20 {
        let shims = shims(folder);
        if shims.is_empty() {
            break;
        }
        let containers: Vec<OwnedFd> = shims
            .iter()
            .flat_map(|(pid, _)| descendants(*pid))
            .collect();
        kill(&containers);
        let shims: Vec<OwnedFd> = shims.into_iter().map(|(_, held)| held).collect();
        kill(&shims);
    }
    unmount_below(folder)?;
    machine::restore(folder);
    machine::remove_cgroups();
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_name() == LOGS {
            continue;
        }
        let path = entry.path();
        let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Holds a component that still runs: same id, same start, same folder.
fn component(folder: &Path, file: &Path) -> Option<OwnedFd> {
    let text = fs::read_to_string(file).ok()?;
    let (pid, start) = text.split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    let held = process::hold(pid)?;
    let same = start_time(pid)? == start.trim()
        && fs::read_link(format!("/proc/{pid}/cwd"))
            .ok()?
            .starts_with(folder);
    same.then_some(held)
}

/// The shims that work for this node's containerd.
fn shims(folder: &Path) -> Vec<(u32, OwnedFd)> {
    let is_shim = |pid: u32| {
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
        let program =
            link("exe").and_then(|exe| Some(exe.file_name()?.to_string_lossy().into_owned()));
        program.is_some_and(|name| name.starts_with("containerd-shim"))
            && link("cwd").is_some_and(|cwd| cwd.starts_with(folder))
    };
    process::all()
        .into_iter()
        .filter(|pid| is_shim(*pid))
        .filter_map(|pid| {
            let held = process::hold(pid)?;
            is_shim(pid).then_some((pid, held))
        })
        .collect()
}

/// All that descends from a process, the furthest last.
fn descendants(pid: u32) -> Vec<OwnedFd> {
    let mut held = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in process::children(parent) {
            parents.push(child.pid);
            held.push(child.into_held());
        }
    }
    held
}

fn kill(processes: &[OwnedFd]) {
    for process in processes {
        process::signal_held(process, Signal::KILL);
    }
    let end = cmd::now() + GONE_LIMIT;
    for process in processes {
        let left = end.saturating_duration_since(cmd::now());
        let Ok(left) = Timespec::try_from(left) else {
            continue;
        };
        // A pidfd is readable when its process has ended.
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left));
    }
}

/// Volumes, layers, network namespaces: what was mounted last goes first.
fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    for mount in mounts_below(&mounts, folder).into_iter().rev() {
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", mount.display()))?;
    }
    Ok(())
}

fn mounts_below(mounts: &str, folder: &Path) -> Vec<PathBuf> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(folder) && point != folder)
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Field 22 of its `stat`.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.split_whitespace().nth(19)?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_a_component_that_was_written_down_and_works_in_the_folder_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let start = |cwd: &Path| {
            Command::new("sleep")
                .arg("1000")
                .current_dir(cwd)
                .spawn()
                .unwrap()
        };
        let (mut ours, mut elsewhere, mut unknown) =
            (start(&path), start(Path::new("/")), start(&path));
        note(&path, "ours", ours.id()).unwrap();
        note(&path, "elsewhere", elsewhere.id()).unwrap();
        assert!(is_running(&path, "ours") && !is_running(&path, "elsewhere"));
        fs::write(
            path.join(PIDS).join("reused"),
            format!("{} 1", unknown.id()),
        )
        .unwrap();
        let held: Vec<OwnedFd> = files(&path.join(PIDS))
            .iter()
            .filter_map(|file| component(&path, file))
            .collect();
        assert_eq!(held.len(), 1);
        kill(&held);
        assert!(!ours.wait().unwrap().success());
        for child in [&mut elsewhere, &mut unknown] {
            assert!(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn mounts_below_a_folder_are_found_and_the_folder_itself_is_not() {
        let line = |point: &str| format!("1 2 0:3 / {point} rw - tmpfs tmpfs rw\n");
        let mounts = ["/a", "/a/b", "/a/b/c\\040d", "/ab"].map(line).concat();
        assert_eq!(
            mounts_below(&mounts, Path::new("/a")),
            [PathBuf::from("/a/b"), PathBuf::from("/a/b/c d")]
        );
    }
}
