//! Small readers of procfs. Each reads one file once; a process that is gone is an error like any other.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crate::pipeline::family::{Container, TELLING};
use crate::pipeline::place::Place;
use crate::pipeline::policy::Condition;
use crate::pipeline::{Pid, Tid};

fn unexpected(file: &str, text: &str) -> io::Error {
    let start: String = text.chars().take(60).collect();
    io::Error::other(format!("the file {file} has an unexpected form: `{start}`"))
}

/// The few fields of `/proc/PID/stat` that are of use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// State letter.
    pub state: char,
    /// Parent.
    pub parent: Pid,
    /// Start, in clock ticks since boot.
    pub start_ticks: u64,
    /// Faults so far that had to wait for a page.
    pub major_faults: u64,
    /// It has begun to end.
    pub ending: bool,
}

/// `PF_EXITING` among the kernel's flags of a task.
const EXITING: u64 = 4;
/// Threads of a process that are asked when its leader has ended.
const MOST_ASKED: usize = 16;

/// Reads a process's state, parent and coarse start time.
pub fn stat(pid: Pid) -> io::Result<Stat> {
    read_stat(&format!("/proc/{pid}/stat"))
}

/// The same of one thread.
pub fn thread_stat(pid: Pid, tid: Tid) -> io::Result<Stat> {
    read_stat(&format!("/proc/{pid}/task/{tid}/stat"))
}

fn read_stat(path: &str) -> io::Result<Stat> {
    // The name between the parentheses is the process's own choice: not always UTF-8, and it may hold parentheses.
    let bytes = std::fs::read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    parse_stat(&text).ok_or_else(|| unexpected("stat", &text))
}

fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: Pid(fields.get(1)?.parse().ok()?),
        start_ticks: fields.get(19)?.parse().ok()?,
        major_faults: fields.get(9)?.parse().ok()?,
        ending: fields.get(6)?.parse::<u64>().ok()? & EXITING != 0,
    })
}

/// The start of a process in nanoseconds since boot as far as procfs knows it: cut to hundredths of a second.
#[must_use]
pub fn start_ns(stat: &Stat) -> u64 {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    stat.start_ticks.saturating_mul(1_000_000_000 / per_second)
}

/// What `/proc/PID/status` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// State letter.
    pub state: char,
    /// Whoever traces it.
    pub tracer: Option<Pid>,
    /// Its ids, one for each PID namespace, outermost first.
    pub ns_pids: Vec<i32>,
    /// Ids of its process group, likewise.
    pub ns_groups: Vec<i32>,
    /// Threads that have not ended.
    pub threads: u32,
    /// Signals that are pending, of the process or its leader: bit N - 1 for signal N.
    pub pending: u64,
}

/// Where in the kernel a thread sleeps; `None` if it does not, or that may not be read.
#[must_use]
pub fn kernel_function(pid: Pid, tid: Tid) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/wchan")).ok()?;
    let name = text.trim();
    // A kernel that keeps names to itself gives an address or 0.
    (!name.is_empty() && !name.starts_with('0')).then(|| name.to_owned())
}

/// Whoever traces a thread.
#[must_use]
pub fn tracer(pid: Pid, tid: Tid) -> Option<Pid> {
    let bytes = std::fs::read(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    parse_status(&String::from_utf8_lossy(&bytes))?.tracer
}

/// Reads a process's status.
pub fn status(pid: Pid) -> io::Result<Status> {
    let bytes = std::fs::read(format!("/proc/{pid}/status"))?;
    let text = String::from_utf8_lossy(&bytes);
    parse_status(&text).ok_or_else(|| unexpected("status", &text))
}

fn parse_status(text: &str) -> Option<Status> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix(':'))
            })
            .map(str::trim)
    };
    let numbers = |name: &str| -> Vec<i32> {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    let mask = |name: &str| {
        field(name)
            .and_then(|bits| u64::from_str_radix(bits, 16).ok())
            .unwrap_or(0)
    };
    Some(Status {
        state: field("State")?.chars().next()?,
        tracer: field("TracerPid")?
            .parse()
            .ok()
            .filter(|pid| *pid != 0)
            .map(Pid),
        ns_pids: numbers("NSpid"),
        ns_groups: numbers("NSpgid"),
        threads: field("Threads")
            .and_then(|count| count.parse().ok())
            .unwrap_or(0),
        pending: mask("SigPnd") | mask("ShdPnd"),
    })
}

impl Status {
    /// Whether the process runs. `frozen` is what its cgroup says.
    #[must_use]
    pub fn condition(&self, frozen: bool) -> Condition {
        // A leader that has ended is a zombie while its other threads go on: the process has not ended.
        let ended = matches!(self.state, 'Z' | 'X') && self.threads <= 1;
        if ended {
            Condition::Gone
        } else if self.tracer.is_some() || self.state == 't' {
            Condition::Traced
        } else if self.state == 'T' || frozen {
            Condition::Held
        } else {
            Condition::Free
        }
    }

    /// Whether a signal that tells it to end is pending.
    #[must_use]
    pub fn is_told(&self) -> bool {
        TELLING
            .iter()
            .any(|signal| self.pending & (1 << (signal - 1)) != 0)
    }

    /// The state in words.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        state_name(self.state)
    }
}

/// A state letter in words.
#[must_use]
pub fn state_name(state: char) -> &'static str {
    match state {
        'R' => "running",
        'S' => "sleeping",
        'D' => "uninterruptible",
        'T' => "stopped",
        't' => "traced",
        'Z' => "zombie",
        'X' => "dead",
        'I' => "idle",
        _ => "unknown",
    }
}

/// Basename of the executable of a live process.
pub fn exe_name(pid: Pid) -> io::Result<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(name
        .strip_suffix(" (deleted)")
        .map(str::to_owned)
        .unwrap_or(name))
}

/// The command line, words joined by spaces. For matching only: it never leaves the agent.
pub fn command_line(pid: Pid) -> io::Result<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    Ok(String::from_utf8_lossy(&bytes)
        .trim_end_matches('\0')
        .replace('\0', " "))
}

/// The threads of a process.
pub fn threads(pid: Pid) -> io::Result<Vec<Tid>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Some(tid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            threads.push(Tid(tid));
        }
    }
    Ok(threads)
}

/// The children of a process that it has not reaped: those that have ended count, too.
pub fn children(pid: Pid) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for tid in threads(pid)? {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/children"))?;
        let numbers = text.split_whitespace().map(str::parse);
        for number in numbers {
            found.push(Pid(number.map_err(|_| unexpected("children", &text))?));
        }
    }
    Ok(found)
}

/// How many unreaped children a wait for any child, or for any of a group (0: the caller's own), can be about.
pub fn awaited_children(pid: Pid, group: Option<i32>) -> io::Result<usize> {
    let own = status(pid)?;
    let depth = own.ns_pids.len().saturating_sub(1);
    let group = match group {
        Some(0) => own.ns_groups.get(depth).copied(),
        other => other,
    };
    let is_meant = |child: &&Pid| {
        let known = status(**child).ok();
        group.is_none() || known.is_none_or(|known| known.ns_groups.get(depth).copied() == group)
    };
    Ok(children(pid)?.iter().filter(is_meant).count())
}

/// All processes of the machine.
pub fn processes() -> io::Result<Vec<Pid>> {
    let names = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(names.map(Pid).collect())
}

/// What a descriptor of a process is, as its link says (`socket:[1]`, `anon_inode:[eventpoll]`, a path).
pub fn descriptor(pid: Pid, fd: i32) -> io::Result<String> {
    let link: PathBuf = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"))?;
    Ok(link.to_string_lossy().into_owned())
}

/// The epoll descriptors of a process.
pub fn epoll_descriptors(pid: Pid) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_epoll = std::fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]");
        if is_epoll
            && let Some(fd) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
        {
            found.push(fd);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The process behind a pidfd of another process; `None` if the descriptor is no pidfd or its process has ended.
pub fn pidfd_target(pid: Pid, fd: i32) -> io::Result<Option<Pid>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
    Ok(parse_pidfd(&text))
}

fn parse_pidfd(text: &str) -> Option<Pid> {
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim()
        .parse()
        .ok()
        .map(Pid)
}

/// Inode of the network namespace of a process.
pub fn network_namespace(pid: Pid) -> io::Result<u32> {
    let inode = std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino();
    u32::try_from(inode).map_err(|_| unexpected("ns/net", &inode.to_string()))
}

/// What a process's cgroups tell of where it runs.
pub fn place(pid: Pid) -> io::Result<Place> {
    let bytes = std::fs::read(format!("/proc/{pid}/cgroup"))?;
    Ok(Place::parse(&String::from_utf8_lossy(&bytes)))
}

/// The same of a process that may be about to end; `None` if nothing tells any more: version 1 shows who is ending in the root.
#[must_use]
pub fn place_if_told(pid: Pid) -> Option<Place> {
    let told_by = |task: &str| {
        let cgroups = std::fs::read(format!("{task}/cgroup")).ok()?;
        // Afterwards: who is not ending yet was not when its cgroups were read.
        let is_ending = read_stat(&format!("{task}/stat")).ok()?.ending;
        (!is_ending).then(|| Place::parse(&String::from_utf8_lossy(&cgroups)))
    };
    told_by(&format!("/proc/{pid}")).or_else(|| {
        let threads = threads(pid).ok()?;
        let mut asked = threads.iter().take(MOST_ASKED);
        asked.find_map(|tid| told_by(&format!("/proc/{pid}/task/{tid}")))
    })
}

/// Where a process runs: the containers its cgroups name, else its namespaces.
pub fn container(pid: Pid, place: &Place) -> io::Result<Container> {
    if let Some(ids) = &place.containers {
        return Ok(Container::Named(ids.clone()));
    }
    // A leader that has ended has left its namespaces; its other threads are still there.
    let namespace = |name: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{name}")).or_else(|error| {
            let of_thread =
                |tid: &Tid| std::fs::read_link(format!("/proc/{pid}/task/{tid}/ns/{name}")).ok();
            threads(pid)?.iter().find_map(of_thread).ok_or(error)
        })
    };
    let (pids, mounts) = (namespace("pid")?, namespace("mnt")?);
    Ok(Container::Namespaces(format!(
        "{} {}",
        pids.display(),
        mounts.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_call_itself_anything() {
        let rest = "S 5 6 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let stat = parse_stat(&format!("12 (a) R 1 (b)) {rest}")).unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.start_ticks, stat.ending),
            ('S', Pid(5), 4242, false)
        );
        let rest = "Z 5 6 7 0 -1 4228364 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert!(parse_stat(&format!("12 (a) {rest}")).unwrap().ending);
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn a_dead_leader_with_live_threads_is_not_gone() {
        let status = |text: &str| parse_status(text).unwrap();
        let dead = status(
            "State:\tZ (zombie)\nTracerPid:\t0\nNSpid:\t10\t3\nNSpgid:\t10\t3\nThreads:\t2\n",
        );
        assert_eq!(dead.condition(false), Condition::Free);
        assert_eq!(dead.ns_pids, [10, 3]);
        let zombie = status("State:\tZ (zombie)\nTracerPid:\t0\nThreads:\t1\n");
        assert_eq!(zombie.condition(false), Condition::Gone);
        let traced = status("State:\tS (sleeping)\nTracerPid:\t7\nThreads:\t1\n");
        assert_eq!(traced.condition(false), Condition::Traced);
        let sleeping = status("State:\tS (sleeping)\nTracerPid:\t0\nThreads:\t1\n");
        assert_eq!(
            (sleeping.condition(false), sleeping.condition(true)),
            (Condition::Free, Condition::Held)
        );
    }

    #[test]
    fn a_pending_signal_tells_a_process_to_end() {
        let table = [
            ("0000000000000000", "0000000000000000", false),
            // SIGTERM, sent to the process.
            ("0000000000000000", "0000000000004000", true),
            // SIGINT, sent to the leader.
            ("0000000000000002", "0000000000000000", true),
            // SIGUSR1 and SIGHUP.
            ("0000000000000000", "0000000000000201", false),
        ];
        for (own, shared, told) in table {
            let text =
                format!("State:\tS (sleeping)\nTracerPid:\t0\nSigPnd:\t{own}\nShdPnd:\t{shared}\n");
            assert_eq!(parse_status(&text).unwrap().is_told(), told, "{text}");
        }
    }

    #[test]
    fn pidfds_are_told_from_other_descriptors() {
        assert_eq!(
            parse_pidfd("pos:\t0\nflags:\t02\nPid:\t77\nNSpid:\t77\n"),
            Some(Pid(77))
        );
        assert_eq!(parse_pidfd("pos:\t0\nPid:\t-1\n"), None);
        assert_eq!(parse_pidfd("pos:\t0\n"), None);
    }
}
