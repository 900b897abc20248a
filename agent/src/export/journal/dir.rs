//! The journal's folder: made if missing, checked, locked by one writer, its files named by number.
//!
//! Everything below it is opened relative to the folder's descriptor and never through a symbolic link. Only root, or who
//! runs the agent, may own the folder and write to it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};

use crate::pipeline::IncidentId;

const LOCK: &str = "lock";

/// Why the folder or a file in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// A call failed.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        error: io::Error,
    },
    /// Others could write the folder.
    #[error(
        "{path} can be written by others than root (owner {owner}, mode {mode:o}): chown root and chmod 700 it, or choose another \
         journal.dir"
    )]
    Unsafe {
        /// Which.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// Another agent writes there.
    #[error(
        "another agent{holder} writes the journal in {path}: give each agent a journal.dir of its own"
    )]
    Locked {
        /// Which folder.
        path: PathBuf,
        /// Who, as far as the lock's file says.
        holder: String,
    },
}

/// The folder, held open.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) path: PathBuf,
    fd: File,
    /// Held for as long as the folder is written to.
    lock: Option<File>,
}

impl Dir {
    /// Makes the folder if it is missing, checks who may write it, and takes its lock for `run`.
    pub(super) fn for_writing(path: &Path, run: IncidentId) -> Result<Self, DirError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failed("make the folder", path, error))?;
        let mut dir = Self::for_reading(path)?;
        dir.check()?;
        let lock = dir.open(LOCK, OFlags::RDWR | OFlags::CREATE)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder =
                    holder(&lock).map_or_else(String::new, |(pid, _)| format!(" (pid {pid})"));
                return Err(DirError::Locked {
                    path: path.to_owned(),
                    holder,
                });
            }
            Err(error) => return Err(failed("lock", &path.join(LOCK), error.into())),
        }
        // For readers: which run is going on.
        let text = format!("{} {run}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.write_all_at(text.as_bytes(), 0))
            .map_err(|error| failed("write", &path.join(LOCK), error))?;
        dir.lock = Some(lock);
        Ok(dir)
    }

    /// Opens the folder as it is.
    pub(super) fn for_reading(path: &Path) -> Result<Self, DirError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| failed("open the folder", path, error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            fd: fd.into(),
            lock: None,
        })
    }

    fn check(&self) -> Result<(), DirError> {
        let found = self
            .fd
            .metadata()
            .map_err(|error| failed("look at", &self.path, error))?;
        let mode = found.mode() & 0o7777;
        let ours = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
        if ours && mode & 0o022 == 0 {
            return Ok(());
        }
        Err(DirError::Unsafe {
            path: self.path.clone(),
            owner: found.uid(),
            mode,
        })
    }

    /// The run that writes here at this moment.
    pub(super) fn running(&self) -> Option<IncidentId> {
        let lock = self.open(LOCK, OFlags::RDONLY).ok()?;
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => holder(&lock).and_then(|(_, run)| run),
            _ => None,
        }
    }

    /// Whether the path still leads to this folder, with this lock.
    pub(super) fn is_there(&self) -> bool {
        let same = |held: &File, path: &Path| {
            let (Ok(held), Ok(found)) = (held.metadata(), fs::symlink_metadata(path)) else {
                return false;
            };
            (held.dev(), held.ino()) == (found.dev(), found.ino())
        };
        let locked = |lock: &File| same(lock, &self.path.join(LOCK));
        same(&self.fd, &self.path) && self.lock.as_ref().is_none_or(locked)
    }

    /// The journal's files, oldest first, with their sizes.
    pub(super) fn files(&self) -> Result<Vec<(u64, u64)>, DirError> {
        let wrong = |error| failed("list", &self.path, error);
        let mut files = Vec::new();
        // Through the descriptor, in case the path leads elsewhere by now.
        let entries = rustix::fs::Dir::read_from(&self.fd).map_err(|error| wrong(error.into()))?;
        for entry in entries {
            let entry = entry.map_err(|error| wrong(error.into()))?;
            let Some(number) = number(OsStr::from_bytes(entry.file_name().to_bytes())) else {
                continue;
            };
            match rustix::fs::statat(&self.fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => files.push((number, u64::try_from(found.st_size).unwrap_or(0))),
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(wrong(error.into())),
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// A new file; one that is there already is an error.
    pub(super) fn create(&self, number: u64) -> Result<File, DirError> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL;
        let file = self.open(&file_name(number), flags)?;
        // So that the file is found again after a loss of power.
        self.fd
            .sync_all()
            .map_err(|error| failed("sync", &self.path, error))?;
        Ok(file)
    }

    /// A file for reading.
    pub(super) fn read(&self, number: u64) -> Result<File, DirError> {
        self.open(&file_name(number), OFlags::RDONLY)
    }

    /// Removes a file; one that is gone already is fine.
    pub(super) fn remove(&self, number: u64) -> Result<(), DirError> {
        let name = file_name(number);
        match unlinkat(&self.fd, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove", &self.path.join(name), error.into())),
        }
    }

    /// Removes a small file, if it is there.
    pub(super) fn remove_small(&self, name: &str) -> Result<(), DirError> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove", &self.path.join(name), error.into())),
        }
    }

    /// The text of a small file; empty if there is none.
    pub(super) fn small(&self, name: &str) -> Result<String, DirError> {
        let file = match self.open(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(DirError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(String::new());
            }
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(4096)
            .read_to_string(&mut text)
            .map_err(|error| failed("read", &self.path.join(name), error))?;
        Ok(text)
    }

    /// Puts a small file in the place of the old one, whole.
    pub(super) fn replace_small(&self, name: &str, text: &str) -> Result<(), DirError> {
        let new = format!("{name}.new");
        let mut file = self.open(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        let moved = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_data())
            .and_then(|()| Ok(rustix::fs::renameat(&self.fd, &new, &self.fd, name)?));
        moved.map_err(|error| failed("write", &self.path.join(name), error))
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<File, DirError> {
        // NONBLOCK: a FIFO that somebody put there must not hold us.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(io::Error::from)
            .and_then(|file| {
                if file.metadata()?.is_file() {
                    Ok(file)
                } else {
                    Err(io::Error::other("it is no plain file"))
                }
            });
        opened.map_err(|error| failed("open", &self.path.join(name), error))
    }
}

pub(super) fn failed(action: &'static str, path: &Path, error: io::Error) -> DirError {
    DirError::Io {
        action,
        path: path.to_owned(),
        error,
    }
}

pub(super) fn file_name(number: u64) -> String {
    format!("incidents-{number:010}.jsonl")
}

fn number(name: &OsStr) -> Option<u64> {
    let digits = name
        .to_str()?
        .strip_prefix("incidents-")?
        .strip_suffix(".jsonl")?;
    let plain = digits.len() >= 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// What the holder of the lock wrote into it.
fn holder(lock: &File) -> Option<(u32, Option<IncidentId>)> {
    let mut text = [0; 64];
    let length = lock.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    let mut words = text.split_ascii_whitespace();
    let pid = words.next()?.parse().ok()?;
    Some((pid, words.next().and_then(|run| run.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: IncidentId = IncidentId(77);

    #[test]
    fn one_writer_at_a_time_and_readers_see_which() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/journal");
        let dir = Dir::for_writing(&path, RUN).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join(LOCK)).unwrap().mode() & 0o777, 0o600);
        let second = Dir::for_writing(&path, RUN).unwrap_err().to_string();
        assert!(
            second.contains(&format!("pid {}", std::process::id())),
            "{second}"
        );
        let reader = Dir::for_reading(&path).unwrap();
        assert_eq!(reader.running(), Some(RUN));
        drop(dir);
        // A test beside this one may be between fork and exec, with a copy of the descriptor until the exec.
        while reader.running().is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_folder_of_others_and_links_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("journal");
        drop(Dir::for_writing(&path, RUN).unwrap());
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o770);
        fs::set_permissions(&path, mode).unwrap();
        let error = Dir::for_writing(&path, RUN).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");

        let other = home.path().join("other");
        let dir = Dir::for_writing(&other, RUN).unwrap();
        let victim = home.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, other.join(file_name(1))).unwrap();
        assert!(dir.create(1).is_err());
        assert!(dir.read(1).is_err());
        rustix::fs::mkfifoat(rustix::fs::CWD, other.join(file_name(2)), Mode::RUSR).unwrap();
        assert!(
            dir.read(2).is_err(),
            "a FIFO is neither read nor waited for"
        );
        let linked = home.path().join("linked");
        std::os::unix::fs::symlink(&other, &linked).unwrap();
        assert!(Dir::for_writing(&linked, RUN).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_folder_that_was_moved_away_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("journal");
        let dir = Dir::for_writing(&path, RUN).unwrap();
        assert!(dir.is_there());
        fs::rename(&path, home.path().join("elsewhere")).unwrap();
        assert!(!dir.is_there());
        fs::create_dir(&path).unwrap();
        assert!(!dir.is_there());
    }

    #[test]
    fn only_names_of_ours_are_files_of_the_journal() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::for_writing(&home.path().join("j"), RUN).unwrap();
        for name in ["incidents-1.jsonl", "incidents-+000000001.jsonl", "notes"] {
            fs::write(dir.path.join(name), "x").unwrap();
        }
        dir.create(12).unwrap();
        dir.create(3).unwrap();
        assert_eq!(dir.files().unwrap(), [(3, 0), (12, 0)]);
        assert!(dir.create(3).is_err());
        dir.remove(3).unwrap();
        dir.remove(3).unwrap();
        assert_eq!(dir.files().unwrap(), [(12, 0)]);
        assert_eq!(dir.small("sent").unwrap(), "");
        dir.replace_small("sent", "a").unwrap();
        dir.replace_small("sent", "b").unwrap();
        assert_eq!(dir.small("sent").unwrap(), "b");
    }
}
