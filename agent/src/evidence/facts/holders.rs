//! Who else has a pipe or socket open: a search through `/proc/*/fd`, nearest processes first, that ends after a bounded
//! number of descriptors.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::pipeline::Pid;
use crate::pipeline::evidence::Holder;
use crate::proc;

/// Descriptors that are looked at for one question, at some 3 µs each.
const MOST_DESCRIPTORS: usize = 8192;
/// Processes likewise.
const MOST_PROCESSES: usize = 4096;

/// Which end of a pipe is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The one that is written.
    Writing,
    /// The one that is read.
    Reading,
    /// Any: a socket.
    Any,
}

impl End {
    /// The end that a thread waits for in a call.
    pub(super) fn opposite(call: &str) -> Self {
        if call.contains("write") || call.contains("send") {
            End::Reading
        } else {
            End::Writing
        }
    }

    /// The link of a descriptor shows in its mode how the file was opened.
    fn matches(self, mode: u32) -> bool {
        match self {
            End::Writing => mode & 0o200 != 0,
            End::Reading => mode & 0o400 != 0,
            End::Any => true,
        }
    }
}

/// What came of a search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// This process, the nearest one.
    Found(Holder),
    /// Nobody has it.
    Nobody,
    /// Too many descriptors to look at all of them.
    GaveUp,
}

/// Finds who else holds what `link` names (`pipe:[N]`, `socket:[N]`): children of `pid` first, then their descendants, then
/// the rest of the machine, itself last.
pub(super) fn search(pid: Pid, link: &str, end: End) -> Search {
    let mut left = MOST_DESCRIPTORS;
    let mut seen = HashSet::from([pid]);
    if let Some(found) = below(pid, link, end, &mut seen, &mut left) {
        return found;
    }
    let mut others = proc::processes().unwrap_or_default();
    others.retain(|other| seen.insert(*other));
    let too_many = others.len() > MOST_PROCESSES;
    others.truncate(MOST_PROCESSES);
    others.push(pid);
    match first(&others, link, end, &mut left) {
        Some(found) => found,
        None if too_many => Search::GaveUp,
        None => Search::Nobody,
    }
}

/// The same among what descends from `pid` only.
pub(super) fn search_below(pid: Pid, link: &str, end: End) -> Search {
    let mut left = MOST_DESCRIPTORS;
    below(pid, link, end, &mut HashSet::from([pid]), &mut left).unwrap_or(Search::Nobody)
}

fn below(
    pid: Pid,
    link: &str,
    end: End,
    seen: &mut HashSet<Pid>,
    left: &mut usize,
) -> Option<Search> {
    let mut generation = vec![pid];
    while !generation.is_empty() && seen.len() < MOST_PROCESSES {
        let mut next = Vec::new();
        for parent in generation {
            next.extend(proc::children(parent).unwrap_or_default());
        }
        next.retain(|child| seen.insert(*child));
        if let Some(found) = first(&next, link, end, left) {
            return Some(found);
        }
        generation = next;
    }
    None
}

fn first(pids: &[Pid], link: &str, end: End, left: &mut usize) -> Option<Search> {
    for pid in pids {
        match holds(*pid, link, end, left) {
            Some(true) => return Some(Search::Found(holder(*pid))),
            Some(false) => {}
            None => return Some(Search::GaveUp),
        }
    }
    None
}

/// A process by its id.
pub(super) fn holder(pid: Pid) -> Holder {
    Holder {
        pid,
        tid: None,
        exe: proc::exe_name(pid).unwrap_or_default(),
    }
}

/// Whether a process holds that end; `None` when no more may be looked at.
fn holds(pid: Pid, link: &str, end: End, left: &mut usize) -> Option<bool> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Some(false);
    };
    for entry in entries.flatten() {
        *left = left.checked_sub(1)?;
        let path = entry.path();
        let same = fs::read_link(&path).is_ok_and(|target| target.as_os_str() == link);
        if same && end.matches(mode(&path)) {
            return Some(true);
        }
    }
    Some(false)
}

/// Of the link itself: what it points to is not touched.
fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.permissions().mode())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_at_the_other_end_is_found_before_anybody_else() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let own = Pid(std::process::id());
        let out = child.stdout.as_ref().unwrap().as_raw_fd();
        let link = proc::descriptor(own, out).unwrap();
        // Until it runs `cat` it may be seen under another name.
        let found = loop {
            match search(own, &link, End::Writing) {
                Search::Found(holder) if holder.exe != "cat" => std::thread::yield_now(),
                found => break found,
            }
        };
        assert!(
            matches!(&found, Search::Found(holder) if holder.pid == Pid(child.id())),
            "{found:?}"
        );
        // The end that is read is here.
        assert!(matches!(
            search(own, &link, End::Reading),
            Search::Found(Holder { pid, .. }) if pid == own
        ));
        assert_eq!(search(own, "pipe:[1]", End::Any), Search::Nobody);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
