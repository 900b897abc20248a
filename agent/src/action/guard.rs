//! What keeps an enforcing agent from doing harm twice: one enforcer per loop process, a budget of kills that survives a
//! restart of the agent, both in a folder that only root may write.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, flock};

use crate::pipeline::{Mono, PidKey};

/// Environment variable that names another folder (for tests).
pub const RUN_DIR: &str = "LOOPWARDEN_RUN_DIR";
const DEFAULT_DIR: &str = "/run/loopwarden";

/// Why the folder or a file in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The folder is missing and cannot be made, or a file in it cannot be used.
    #[error(
        "cannot use {path}: {error}. The agent keeps locks and kill budgets there; it must be able to write it"
    )]
    Io {
        /// Which.
        path: PathBuf,
        /// What came back.
        error: io::Error,
    },
    /// Others could write the folder.
    #[error(
        "{path} can be written by others than root (owner {owner}, mode {mode:o}): chown root and chmod 700 it"
    )]
    Unsafe {
        /// Which.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
}

/// The folder of locks and budgets.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Opens the folder, made if missing, and checks that only its owner (root, or who runs the agent) may write it.
    pub fn open() -> Result<Self, GuardError> {
        Self::at(
            std::env::var_os(RUN_DIR).map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from),
        )
    }

    fn at(path: PathBuf) -> Result<Self, GuardError> {
        let wrong = |error| GuardError::Io {
            path: path.clone(),
            error,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(wrong)?;
        Self::verify(&path)?;
        Ok(Self(path))
    }

    /// Checks whether the folder could be used, without making it.
    pub fn inspect() -> Result<(), GuardError> {
        let path =
            std::env::var_os(RUN_DIR).map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from);
        if fs::symlink_metadata(&path).is_ok() {
            Self::verify(&path)?;
        }
        // What would be made is made below the nearest folder that is there.
        let there = path.ancestors().find(|folder| folder.exists());
        let there = there.unwrap_or(Path::new("/"));
        rustix::fs::access(there, Access::WRITE_OK).map_err(|error| GuardError::Io {
            path: there.to_owned(),
            error: error.into(),
        })
    }

    /// Fails if others than root, or who runs the agent, could write it.
    fn verify(path: &Path) -> Result<(), GuardError> {
        let found = fs::symlink_metadata(path).map_err(|error| GuardError::Io {
            path: path.to_owned(),
            error,
        })?;
        let mode = found.mode() & 0o7777;
        let ours = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
        if !found.is_dir() || !ours || mode & 0o022 != 0 {
            return Err(GuardError::Unsafe {
                path: path.to_owned(),
                owner: found.uid(),
                mode,
            });
        }
        Ok(())
    }

    /// Files are named by host pid and start time: a reused pid is another process. The start is kept to hundredths of a
    /// second, because that is all an agent without BPF can see.
    fn file(&self, process: PidKey, suffix: &str) -> PathBuf {
        self.0.join(format!(
            "{}-{}.{suffix}",
            process.pid,
            process.start_ns / 10_000_000
        ))
    }

    /// Removes what belongs to processes that `alive` knows to have ended, unless an agent holds their lock: it sees what this one
    /// does not.
    pub fn sweep(&self, alive: impl Fn(u32) -> Option<bool>) {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let pid = name
                .to_str()
                .and_then(|name| name.split_once('-')?.0.parse().ok());
            if pid.and_then(&alive) != Some(false) {
                continue;
            }
            let path = entry.path();
            let lock = lock_if_there(&path.with_extension("lock"));
            if !matches!(lock, Ok(Locked::Other) | Err(_)) {
                // Another agent may have been faster.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A lock file that is there or not.
enum Locked {
    /// By this file, until it is closed.
    Ours { _file: File },
    /// By another agent.
    Other,
    /// There is none.
    Missing,
}

fn lock_if_there(path: &Path) -> io::Result<Locked> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Locked::Missing),
        file => file?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Locked::Ours { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Locked::Other),
        Err(error) => Err(error.into()),
    }
}

/// Held for as long as this agent may signal children of one loop process.
#[derive(Debug)]
pub struct EnforcerLock {
    _file: File,
}

impl EnforcerLock {
    /// Takes the lock; `None` if another agent holds it.
    pub fn take(dir: &RunDir, process: PidKey) -> Result<Option<Self>, GuardError> {
        let path = dir.file(process, "lock");
        let file = open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(GuardError::Io {
                path,
                error: error.into(),
            }),
        }
    }
}

fn open(path: &Path) -> Result<File, GuardError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| GuardError::Io {
            path: path.to_owned(),
            error,
        })
}

/// At most so many kills in so much time.
#[derive(Debug)]
pub struct Budget {
    count: usize,
    per: Duration,
    spent: VecDeque<Mono>,
    file: Option<PathBuf>,
}

impl Budget {
    /// A budget that only this agent knows.
    #[must_use]
    pub fn new(count: usize, per: Duration) -> Self {
        Self {
            count,
            per,
            spent: VecDeque::new(),
            file: None,
        }
    }

    /// The budget of one loop process, with what earlier agents have spent (`CLOCK_MONOTONIC`, so within this boot).
    pub fn of(
        dir: &RunDir,
        process: PidKey,
        count: usize,
        per: Duration,
    ) -> Result<Self, GuardError> {
        let path = dir.file(process, "budget");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(GuardError::Io { path, error }),
        };
        // A torn last line is a kill that may have happened: counting the readable ones errs by one at most.
        let spent = text
            .lines()
            .filter_map(|line| line.parse().ok().map(Mono))
            .collect();
        Ok(Self {
            count,
            per,
            spent,
            file: Some(path),
        })
    }

    /// Puts other limits into force; what was spent stays spent.
    pub fn limit(&mut self, count: usize, per: Duration) {
        self.count = count;
        self.per = per;
    }

    /// Whether nothing is left.
    pub fn is_spent(&mut self, now: Mono) -> bool {
        while self
            .spent
            .front()
            .is_some_and(|at| now.since(*at) > self.per)
        {
            self.spent.pop_front();
        }
        self.spent.len() >= self.count
    }

    /// The newest of what was spent and may still count, oldest first: few enough to be kept with an incident.
    pub fn newest(&self) -> impl Iterator<Item = Mono> {
        let old = self.spent.len().saturating_sub(32);
        self.spent.iter().skip(old).copied()
    }

    /// Takes one, before the signal is sent: an agent that dies in between has spent it.
    pub fn spend(&mut self, now: Mono) -> Result<(), GuardError> {
        self.spent.push_back(now);
        let Some(path) = &self.file else {
            return Ok(());
        };
        let wrong = |error| GuardError::Io {
            path: path.clone(),
            error,
        };
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .map_err(wrong)?;
        file.write_all(format!("{}\n", now.0).as_bytes())
            .map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Pid;

    fn dir(name: &str) -> RunDir {
        let path =
            std::env::temp_dir().join(format!("loopwarden-guard-{}-{name}", std::process::id()));
        RunDir::at(path).unwrap()
    }

    const PROCESS: PidKey = PidKey {
        pid: Pid(42),
        start_ns: 77_000_000_000,
    };
    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_budget_outlives_the_agent_and_renews_itself() {
        let dir = dir("budget");
        let now = Mono(1_000_000_000_000);
        let mut budget = Budget::of(&dir, PROCESS, 2, MINUTE).unwrap();
        assert!(!budget.is_spent(now));
        budget.spend(now).unwrap();
        budget.spend(now.plus(Duration::from_secs(1))).unwrap();
        let mut restarted = Budget::of(&dir, PROCESS, 2, MINUTE).unwrap();
        assert!(restarted.is_spent(now.plus(Duration::from_secs(2))));
        assert!(!restarted.is_spent(now.plus(MINUTE + Duration::from_millis(1))));
        let reused = PidKey {
            start_ns: 78_000_000_000,
            ..PROCESS
        };
        assert!(!Budget::of(&dir, reused, 2, MINUTE).unwrap().is_spent(now));
        fs::remove_dir_all(&dir.0).unwrap();
    }

    #[test]
    fn only_one_enforcer_gets_the_lock() {
        let dir = dir("lock");
        let first = EnforcerLock::take(&dir, PROCESS).unwrap();
        assert!(first.is_some());
        assert!(EnforcerLock::take(&dir, PROCESS).unwrap().is_none());
        drop(first);
        // A test beside this one may be between fork and exec, with a copy of the descriptor until the exec.
        while EnforcerLock::take(&dir, PROCESS).unwrap().is_none() {
            std::thread::yield_now();
        }
        fs::remove_dir_all(&dir.0).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let dir = dir("open");
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
        fs::set_permissions(&dir.0, mode).unwrap();
        assert!(matches!(
            RunDir::at(dir.0.clone()),
            Err(GuardError::Unsafe { .. })
        ));
        fs::remove_dir_all(&dir.0).unwrap();
    }

    #[test]
    fn leftovers_of_ended_processes_are_swept() {
        let dir = dir("sweep");
        Budget::of(&dir, PROCESS, 2, MINUTE)
            .unwrap()
            .spend(Mono(5))
            .unwrap();
        dir.sweep(|pid| Some(pid == 42));
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
        dir.sweep(|_| Some(false));
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
        fs::remove_dir_all(&dir.0).unwrap();
    }

    #[test]
    fn what_another_agent_may_need_is_not_swept() {
        let dir = dir("sweep-held");
        let count = || fs::read_dir(&dir.0).unwrap().count();
        let held = EnforcerLock::take(&dir, PROCESS).unwrap();
        assert!(held.is_some());
        let mut budget = Budget::of(&dir, PROCESS, 2, MINUTE).unwrap();
        budget.spend(Mono(5)).unwrap();
        dir.sweep(|_| Some(false));
        assert_eq!(count(), 2, "its lock is held");
        drop(held);
        // Whether it lives cannot be told.
        dir.sweep(|_| None);
        assert_eq!(count(), 2);
        // A test beside this one may be between fork and exec, with a copy of the descriptor until the exec.
        while count() > 0 {
            dir.sweep(|_| Some(false));
            std::thread::yield_now();
        }
        fs::remove_dir_all(&dir.0).unwrap();
    }
}
