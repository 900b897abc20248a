//! Whether a process is frozen by its cgroup.
//!
//! Two sources. `/proc/PID/wchan` names the kernel's freezer where the threads sleep, without any path into anybody's cgroup
//! mount. Linux before 5.16 with the ORC unwinder (Debian's 5.10) says `0` there for everything that sleeps; then the cgroup's own
//! files tell. They are looked up anew each time, from mounts that are known beforehand: a process can be moved, and a
//! descriptor for each process would be one that nearly none needs.
//!
//! Called on the rescue thread: procfs and cgroupfs only, whose files are short and come from the kernel's memory.

use super::mounts::{Folder, Mounts, read_bounded};
use crate::pipeline::{LoopId, Pid};
use crate::proc;

/// A dozen lines with a path each.
const MOST_OF_CGROUPS: u64 = 64 << 10;
/// What one look at the state of a cgroup reads.
const MOST_OF_STATE: u64 = 1 << 10;
/// Sleeping processes that are asked whether `wchan` says anything here.
const MOST_ASKED: usize = 512;

/// Tells frozen processes from others.
#[derive(Debug, Default)]
pub struct Freezer {
    mounts: Mounts,
}

impl Freezer {
    /// Looks up the mounts once.
    #[must_use]
    pub fn find() -> Self {
        let mounts = Mounts::read().unwrap_or_else(|error| {
            log::warn!("cannot list cgroup mounts: reading /proc/self/mountinfo failed: {error}");
            Mounts::default()
        });
        Self { mounts }
    }

    /// Whether a process is frozen; not, if nothing can tell.
    #[must_use]
    pub fn is_frozen(&self, pid: Pid) -> bool {
        if let Some(parked) = parked(&format!("/proc/{pid}")) {
            return parked;
        }
        match proc::stat(pid).map(|stat| stat.state) {
            // Who runs is in no freezer.
            Ok('R') | Err(_) => false,
            // A leader that has ended is parked nowhere, and in version 1 in no cgroup; its threads are.
            Ok('Z') => proc::threads(pid).is_ok_and(|threads| {
                threads.iter().any(|tid| {
                    let task = format!("/proc/{pid}/task/{tid}");
                    parked(&task).unwrap_or_else(|| self.by_cgroup(&task))
                })
            }),
            Ok(_) => self.by_cgroup(&format!("/proc/{pid}")),
        }
    }

    /// Whether a thread is frozen that was just seen in a state, and asleep in a function of the kernel if that named one.
    #[must_use]
    pub fn holds(&self, thread: LoopId, state: char, sleeps_in: Option<&str>) -> bool {
        match (sleeps_in, state) {
            (Some(function), _) => is_its_place(function),
            (None, 'S' | 'D') => {
                let (pid, tid) = (thread.process.pid, thread.tid);
                self.by_cgroup(&format!("/proc/{pid}/task/{tid}"))
            }
            _ => false,
        }
    }

    fn by_cgroup(&self, task: &str) -> bool {
        let Ok(cgroups) = read_bounded(format!("{task}/cgroup"), MOST_OF_CGROUPS) else {
            return false;
        };
        let folders = self.mounts.folders(&cgroups, "freezer");
        folders.iter().any(is_held)
    }

    /// Whether frozen processes can be told from others here; if not, why.
    pub fn check(&self) -> Result<(), String> {
        let asked = proc::processes().unwrap_or_default();
        let mut asked = asked.iter().take(MOST_ASKED);
        if self.mounts.have("freezer") || asked.any(|pid| parked(&format!("/proc/{pid}")).is_some())
        {
            return Ok(());
        }
        Err(
            "/proc/PID/wchan is 0 for every process, and no cgroup file system with a freezer is mounted: frozen engines look asleep"
                .to_owned(),
        )
    }
}

/// Whether a task sleeps in the kernel's freezer: version 2 parks it where signals are taken, version 1 in the refrigerator.
/// `None` if the kernel does not say where it sleeps, or if it runs.
fn parked(task: &str) -> Option<bool> {
    place(&read_bounded(format!("{task}/wchan"), MOST_OF_STATE).ok()?)
}

fn place(wchan: &str) -> Option<bool> {
    match wchan.trim() {
        "" | "0" => None,
        function => Some(is_its_place(function)),
    }
}

fn is_its_place(function: &str) -> bool {
    matches!(
        function,
        "do_freezer_trap" | "get_signal" | "__refrigerator"
    )
}

/// Version 2 calls a group frozen once all in it is; one that is asked to be may have one process that is late, and all
/// others are held already. Version 1 tells both from an ancestor's state, too.
fn is_held(folder: &Folder) -> bool {
    let files: &[&str] = if folder.unified {
        &["cgroup.events", "cgroup.freeze"]
    } else {
        &["freezer.state"]
    };
    files.iter().any(|file| {
        read_bounded(folder.path.join(file), MOST_OF_STATE).is_ok_and(|text| says_held(file, &text))
    })
}

fn says_held(file: &str, text: &str) -> bool {
    match file {
        "cgroup.events" => text.lines().any(|line| line.trim() == "frozen 1"),
        "cgroup.freeze" => text.trim() == "1",
        _ => matches!(text.trim(), "FROZEN" | "FREEZING"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_task_sleeps_tells_if_the_kernel_says_so() {
        let table = [
            ("do_freezer_trap", Some(true)),
            ("get_signal\n", Some(true)),
            ("__refrigerator", Some(true)),
            ("do_wait", Some(false)),
            ("0", None),
            ("", None),
        ];
        for (wchan, expected) in table {
            assert_eq!(place(wchan), expected, "{wchan}");
        }
    }

    #[test]
    fn the_states_of_both_versions_are_read() {
        let table = [
            ("cgroup.events", "populated 1\nfrozen 1\n", true),
            ("cgroup.events", "populated 1\nfrozen 0\n", false),
            // Linux before 5.2.
            ("cgroup.events", "populated 1\n", false),
            ("cgroup.freeze", "1\n", true),
            ("cgroup.freeze", "0\n", false),
            ("freezer.state", "FROZEN\n", true),
            ("freezer.state", "FREEZING\n", true),
            ("freezer.state", "THAWED\n", false),
        ];
        for (file, text, held) in table {
            assert_eq!(says_held(file, text), held, "{file}: {text}");
        }
    }

    #[test]
    fn a_group_is_held_as_its_files_say() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        let group = |unified| Folder {
            path: folder.path().to_owned(),
            mount: folder.path().to_owned(),
            unified,
        };
        assert!(!is_held(&group(true)) && !is_held(&group(false)));
        write("freezer.state", "FREEZING\n");
        assert!(!is_held(&group(true)) && is_held(&group(false)));
        // One of its processes is late.
        write("cgroup.events", "populated 1\nfrozen 0\n");
        write("cgroup.freeze", "1\n");
        assert!(is_held(&group(true)));
        write("cgroup.freeze", "0\n");
        assert!(!is_held(&group(true)));
        // An ancestor was frozen: this one was never asked to be.
        write("cgroup.events", "populated 1\nfrozen 1\n");
        assert!(is_held(&group(true)));
    }

    #[test]
    fn this_process_is_not_frozen() {
        let own = Pid(std::process::id());
        let freezer = Freezer::find();
        assert!(!freezer.is_frozen(own));
        assert!(!freezer.by_cgroup(&format!("/proc/{own}")));
    }
}
