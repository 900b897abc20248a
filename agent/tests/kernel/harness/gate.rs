//! Lets a victim go on when the test says so.

use std::fs::File;

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;

/// A named pipe that a thread of a victim waits for.
pub(crate) struct Gate(TempDir);

impl Gate {
    pub(crate) fn make() -> Result<Self> {
        let gate = Self(tempfile::tempdir()?);
        mkfifoat(CWD, gate.path(), Mode::RUSR | Mode::WUSR).context("cannot make a gate")?;
        Ok(gate)
    }

    pub(crate) fn path(&self) -> String {
        self.0.path().join("gate").display().to_string()
    }

    pub(crate) fn open(&self) -> Result<()> {
        let file = File::options().write(true).open(self.path());
        file.map(drop).context("cannot open the gate")
    }
}
