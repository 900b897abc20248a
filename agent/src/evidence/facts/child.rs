//! The child that a loop waits for: its state, where it sleeps, its sockets.
//!
//! A process that is being ended gives up its descriptors before it closes them: while it is stuck closing a connection,
//! nothing of it names the socket any more. So the sockets of engines are taken down now and then, and of every child when
//! it is told to end.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crate::pipeline::evidence::{ChildDetail, Missing, SocketDetail};
use crate::pipeline::{Pid, Tid};
use crate::proc;
use crate::sockets::{self, Entry};

/// Descriptors of a child that are looked at.
const MOST_DESCRIPTORS: usize = 4096;
/// Looks at one child that are kept.
const LOOKS: usize = 3;
/// Sockets that are told.
const MOST_SOCKETS: usize = 8;
/// Children whose sockets are remembered; more are told to end at once only when a whole node goes down.
const MOST_REMEMBERED: usize = 256;

/// The sockets that children had: those of the last looks, because one that is told to end may have closed its own before it
/// is looked at.
#[derive(Debug, Default)]
pub(in crate::evidence) struct Remembered {
    children: HashMap<Pid, Vec<Sockets>>,
}

/// The sockets of one child at one look.
#[derive(Debug, Default)]
struct Sockets {
    inodes: HashSet<u64>,
    /// By both ends: one that no process has any more has no inode.
    ends: HashSet<(SocketAddr, SocketAddr)>,
    /// Its network namespace, as its link says.
    namespace: String,
}

impl Remembered {
    /// Takes down what a child has open.
    pub(in crate::evidence) fn remember(&mut self, pid: Pid) {
        let place = format!("/proc/{pid}");
        let inodes = inodes(&place);
        let full = self.children.len() >= MOST_REMEMBERED && !self.children.contains_key(&pid);
        if inodes.is_empty() || full {
            return;
        }
        let mut ends = HashSet::new();
        let scanned = sockets::scan(&place, &mut |entry| {
            if inodes.contains(&entry.inode) {
                ends.insert((entry.local, entry.remote));
            }
            false
        });
        if let Err(error) = scanned {
            log::debug!("sockets of {pid}: {error}");
        }
        let looks = self.children.entry(pid).or_default();
        if looks.len() >= LOOKS {
            looks.remove(0);
        }
        looks.push(Sockets {
            inodes,
            ends,
            namespace: namespace(&place),
        });
    }

    pub(in crate::evidence) fn forget(&mut self, pid: Pid) {
        self.children.remove(&pid);
    }

    fn of(&self, pid: Pid) -> &[Sockets] {
        self.children.get(&pid).map_or(&[], Vec::as_slice)
    }
}

/// What is known of a child of the loop's process.
pub(in crate::evidence) fn detail(
    pid: Pid,
    parent: Pid,
    exe: &str,
    remembered: &Remembered,
    missing: &mut Vec<Missing>,
) -> Option<ChildDetail> {
    let stat = proc::stat(pid).ok()?;
    let place = living(pid, stat.state);
    let state = place
        .thread
        .and_then(|tid| proc::thread_stat(pid, tid).ok())
        .map_or(stat.state, |thread| thread.state);
    let mut detail = ChildDetail {
        pid,
        exe: exe.to_owned(),
        age: age(proc::start_ns(&stat)),
        state: proc::state_name(state).to_owned(),
        kernel_function: place.thread.and_then(|tid| proc::kernel_function(pid, tid)),
        sockets: Vec::new(),
    };
    if state != 'Z' {
        match sockets_of(pid, parent, &place.path, remembered) {
            Ok(sockets) => detail.sockets = sockets,
            Err(error) => missing.push(Missing {
                what: "child_sockets".into(),
                why: error.to_string(),
            }),
        }
    }
    Some(detail)
}

/// Where to look at a process: its leader, or a thread that lives if the leader has ended.
struct Place {
    path: String,
    thread: Option<Tid>,
}

fn living(pid: Pid, state: char) -> Place {
    let leader = Tid(pid.0);
    let lives =
        |tid: &Tid| proc::thread_stat(pid, *tid).is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'));
    let thread = if matches!(state, 'Z' | 'X') {
        let threads = proc::threads(pid).unwrap_or_default();
        threads.into_iter().take(64).find(lives)
    } else {
        Some(leader)
    };
    Place {
        path: match thread {
            Some(tid) if tid != leader => format!("/proc/{pid}/task/{tid}"),
            _ => format!("/proc/{pid}"),
        },
        thread,
    }
}

fn age(start_ns: u64) -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let up: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(
        Duration::try_from_secs_f64(up)
            .ok()?
            .saturating_sub(Duration::from_nanos(start_ns)),
    )
}

fn namespace(place: &str) -> String {
    fs::read_link(format!("{place}/ns/net"))
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Inodes of the sockets that a process has open.
fn inodes(place: &str) -> HashSet<u64> {
    let Ok(entries) = fs::read_dir(format!("{place}/fd")) else {
        return HashSet::new();
    };
    entries
        .flatten()
        .take(MOST_DESCRIPTORS)
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            let link = link.to_str()?;
            link.starts_with("socket:")
                .then(|| super::inode(link))
                .flatten()
        })
        .collect()
}

fn sockets_of(
    pid: Pid,
    parent: Pid,
    place: &str,
    remembered: &Remembered,
) -> std::io::Result<Vec<SocketDetail>> {
    let now = inodes(place);
    let before = remembered.of(pid);
    let own = |entry: &Entry| {
        now.contains(&entry.inode)
            || before.iter().any(|look| {
                look.inodes.contains(&entry.inode)
                    || look.ends.contains(&(entry.local, entry.remote))
            })
    };
    // Near its end it has left its network namespace; its parent is in the same one, or there is no other way in.
    let here = namespace(place);
    let parents = format!("/proc/{parent}");
    let tables = match before.last() {
        _ if !here.is_empty() => place,
        Some(look) if namespace(&parents) == look.namespace => &parents,
        _ => return Ok(Vec::new()),
    };
    let mut found: Vec<SocketDetail> = Vec::new();
    sockets::scan(tables, &mut |entry| {
        // Nobody waits for these two.
        let idle = matches!(entry.detail.state.as_deref(), Some("LISTEN" | "TIME_WAIT"));
        if !idle && entry.detail.peer.is_some() && own(&entry) {
            found.push(entry.detail);
        }
        false
    })?;
    // Stable: those of one rank stay in the order of the tables.
    found.sort_by_key(SocketDetail::rank);
    found.dedup();
    found.truncate(MOST_SOCKETS);
    Ok(found)
}
