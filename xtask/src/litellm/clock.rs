//! A wall clock of a process's own: Debian's libfaketime, preloaded, reads it from a file. The monotonic clock stays the real one.
//!
//! An IAM token then expires when the run wants it to, while everything that sleeps or waits takes as long as ever.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::lab::Lab;
use crate::setup;

/// The clock of one process; what the library leaves behind is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Clock {
    file: PathBuf,
    shown_to: Option<u32>,
}

impl Clock {
    /// A clock that is right so far.
    pub(crate) fn new(lab: &Lab, name: &str) -> Result<Self> {
        let clock = Self {
            file: lab.run.path(&format!("{name}.clock")),
            shown_to: None,
        };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Makes a command, and all that it starts, read this clock.
    pub(crate) fn show_to(&self, command: &mut Command) {
        command.envs(self.environment());
    }

    /// What a program needs in its environment to read it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        [
            // Of the two variants of the library the one for programs with threads.
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_DONT_RESET", "1".into()),
        ]
    }

    /// Remembers which process reads it: its shared memory is named by that.
    pub(crate) fn is_shown_to(&mut self, pid: u32) {
        self.shown_to = Some(pid);
    }

    /// Moves it: `+20m` is twenty minutes fast.
    pub(crate) fn set(&self, offset: &str) -> Result<()> {
        // Renamed into place: the file is read at every look at the clock, and half of it would be another time.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset}\n"))
            .and_then(|()| fs::rename(&new, &self.file))
            .with_context(|| format!("cannot set the clock {}", self.file.display()))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Some(pid) = self.shown_to {
            for name in ["faketime_shm_", "sem.faketime_sem_"] {
                let _ = fs::remove_file(format!("/dev/shm/{name}{pid}"));
            }
        }
    }
}

/// Installs the library if it is not there.
pub(crate) fn need_library() -> Result<()> {
    if library().is_file() {
        return Ok(());
    }
    setup::need(&["libfaketime"])
}

fn library() -> PathBuf {
    format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1",
        std::env::consts::ARCH
    )
    .into()
}
