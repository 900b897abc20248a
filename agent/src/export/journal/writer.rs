//! Appending lines to the journal's files, within its size.
//!
//! A line is one `write`. A run of the agent begins with a file of its own, made with its first line, so what an earlier run left
//! half-written at the end of its file is never touched; the same after a failure. What was not written whole is taken back.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::dir::{Dir, DirError, failed, file_name};
use crate::pipeline::IncidentId;

/// Files that the journal's size is divided into, so that rotation takes a part of it.
const PARTS: u64 = 8;
/// Longest file: removing the oldest should not take a week.
const LONGEST: u64 = 8 << 20;
/// Files of all runs together: an agent that is started over and over must not fill the folder with short ones.
const FILES: usize = 512;
/// Longest line.
const LINE: u64 = 256 << 10;
/// Room for the lock and the cursor.
const RESERVED: u64 = 16 << 10;

/// Where a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Number of the file.
    pub(super) file: u64,
    /// Where in it the line begins.
    pub(super) offset: u64,
}

/// Writes into one folder.
#[derive(Debug)]
pub(super) struct Writer {
    dir: Dir,
    max_bytes: u64,
    /// All files with their sizes, oldest first, the one that is written to included.
    files: VecDeque<(u64, u64)>,
    current: Option<Current>,
    unsynced: bool,
}

#[derive(Debug)]
struct Current {
    number: u64,
    file: File,
    length: u64,
}

impl Writer {
    /// Opens the folder for `run`; removes what is more than `max_bytes`.
    pub(super) fn open(path: &Path, run: IncidentId, max_bytes: u64) -> Result<Self, DirError> {
        let dir = Dir::for_writing(path, run)?;
        let files = dir.files()?.into();
        let mut writer = Self {
            dir,
            max_bytes,
            files,
            current: None,
            unsynced: false,
        };
        writer.make_room(0)?;
        Ok(writer)
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Where the next line will be.
    pub(super) fn end(&self) -> Position {
        match &self.current {
            Some(current) => Position {
                file: current.number,
                offset: current.length,
            },
            None => Position {
                file: self.next_number(),
                offset: 0,
            },
        }
    }

    fn next_number(&self) -> u64 {
        self.files
            .back()
            .map_or(1, |(last, _)| last.saturating_add(1))
    }

    /// Longest line that is taken.
    pub(super) fn line_limit(&self) -> usize {
        usize::try_from((self.part() / 2).min(LINE)).unwrap_or(usize::MAX)
    }

    /// Bytes in all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }

    /// Puts another size into force.
    pub(super) fn limit(&mut self, max_bytes: u64) -> Result<(), DirError> {
        self.max_bytes = max_bytes;
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.length > self.part())
        {
            self.current = None;
        }
        self.make_room(0)
    }

    /// Appends a line. After an error the writer is not to be used again.
    pub(super) fn append(&mut self, line: &[u8]) -> Result<Position, DirError> {
        let bytes = line.len() as u64;
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.length + bytes > self.part())
        {
            self.sync()?;
            self.current = None;
        }
        self.make_room(bytes)?;
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.next_file()?,
        };
        let wrong = |error| {
            failed(
                "write",
                &self.dir.path.join(file_name(current.number)),
                error,
            )
        };
        if current.file.metadata().map_err(wrong)?.nlink() == 0 {
            return Err(wrong(io::Error::other("the file was removed by somebody")));
        }
        if let Err(error) = current.file.write_all(line) {
            // Best effort: what stays is half a line at the end of a file that is not written to any more.
            let _ = current.file.set_len(current.length);
            return Err(wrong(error));
        }
        let position = Position {
            file: current.number,
            offset: current.length,
        };
        current.length += bytes;
        if let Some((_, size)) = self.files.back_mut() {
            *size = current.length;
        }
        self.current = Some(current);
        self.unsynced = true;
        Ok(position)
    }

    /// Waits until what was appended is on the disk.
    pub(super) fn sync(&mut self) -> Result<(), DirError> {
        let Some(current) = self.current.as_ref().filter(|_| self.unsynced) else {
            return Ok(());
        };
        current.file.sync_data().map_err(|error| {
            failed(
                "sync",
                &self.dir.path.join(file_name(current.number)),
                error,
            )
        })?;
        self.unsynced = false;
        Ok(())
    }

    fn part(&self) -> u64 {
        (self.max_bytes.saturating_sub(RESERVED) / PARTS).min(LONGEST)
    }

    /// Removes the oldest files until `bytes` more fit.
    fn make_room(&mut self, bytes: u64) -> Result<(), DirError> {
        let most = self.max_bytes.saturating_sub(RESERVED);
        while self.bytes() + bytes > most || self.files.len() > FILES {
            let Some(&(oldest, _)) = self.files.front() else {
                break;
            };
            if self
                .current
                .as_ref()
                .is_some_and(|current| current.number == oldest)
            {
                break;
            }
            self.dir.remove(oldest)?;
            self.files.pop_front();
        }
        Ok(())
    }

    fn next_file(&mut self) -> Result<Current, DirError> {
        let number = self.next_number();
        let file = self.dir.create(number)?;
        self.files.push_back((number, 0));
        Ok(Current {
            number,
            file,
            length: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: IncidentId = IncidentId(1);
    const MIB: u64 = 1 << 20;

    /// A test beside this one may be between fork and exec, with a copy of the lock of an earlier run until the exec.
    fn open(path: &Path) -> Writer {
        loop {
            match Writer::open(path, RUN, MIB) {
                Err(DirError::Locked { .. }) => std::thread::yield_now(),
                opened => return opened.unwrap(),
            }
        }
    }

    fn total(path: &Path) -> u64 {
        std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    }

    #[test]
    fn the_folder_never_grows_past_its_limit_and_keeps_the_newest() {
        let home = tempfile::tempdir().unwrap();
        let mut writer = open(home.path());
        let mut line = vec![b'x'; 1000];
        line.push(b'\n');
        let mut last = Position::default();
        for _ in 0..3000 {
            let position = writer.append(&line).unwrap();
            assert!(position > last);
            last = position;
        }
        writer.sync().unwrap();
        assert!(total(home.path()) <= MIB, "{}", total(home.path()));
        assert!(total(home.path()) > MIB / 2);
        assert_eq!(
            writer.bytes() + std::fs::metadata(home.path().join("lock")).unwrap().len(),
            total(home.path())
        );
        assert!(writer.line_limit() < 128 << 10);
        writer.limit(MIB / 2).unwrap();
        assert!(total(home.path()) <= MIB / 2);
        writer.append(&line).unwrap();
    }

    #[test]
    fn every_run_has_files_of_its_own_and_few_are_kept() {
        let home = tempfile::tempdir().unwrap();
        for run in 0..FILES as u64 + 40 {
            let mut writer = open(home.path());
            assert_eq!(
                writer.append(b"{}\n").unwrap(),
                Position {
                    file: run + 1,
                    offset: 0
                }
            );
        }
        let writer = open(home.path());
        assert_eq!(writer.files.len(), FILES);
    }

    #[test]
    fn a_file_or_folder_that_vanished_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("j");
        let mut writer = open(&path);
        writer.append(b"{}\n").unwrap();
        std::fs::remove_file(path.join(file_name(1))).unwrap();
        let error = writer.append(b"{}\n").unwrap_err().to_string();
        assert!(error.contains("removed by somebody"), "{error}");
        let mut writer = Writer {
            current: None,
            ..writer
        };
        std::fs::remove_dir_all(&path).unwrap();
        assert!(writer.append(b"{}\n").is_err());
    }
}
