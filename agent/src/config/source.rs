//! Which file the configuration comes from, and reading it within bounds.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Config, ConfigError};
use crate::pipeline::Mode;

/// Read where no `--config` is given, if it is there.
pub const DEFAULT_PATH: &str = "/etc/loopwarden/config.yaml";

/// A megabyte: a thousand targets fit in.
const MAX_BYTES: u64 = 1 << 20;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    /// A file that was named, or has once been used, must be there: its absence is an error, not the built-in default.
    required: bool,
    mode: Option<Mode>,
}

impl Source {
    /// The file given with `--config`, else the default path if it exists, else what is built in. `mode` is `--mode`.
    #[must_use]
    pub fn new(path: Option<PathBuf>, mode: Option<Mode>) -> Self {
        Self {
            required: path.is_some(),
            path: path.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH)),
            mode,
        }
    }

    /// As `new` without a named file, with another default path.
    #[cfg(test)]
    pub(super) fn at(path: PathBuf, mode: Option<Mode>) -> Self {
        Self {
            path,
            required: false,
            mode,
        }
    }

    /// The file that is, or would be, read.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to call the source in messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let path = self.path.display();
        if self.required {
            path.to_string()
        } else {
            format!("built-in configuration (there is no {path})")
        }
    }

    /// Reads and checks the configuration as it is now.
    pub fn load(&mut self) -> Result<Config, ConfigError> {
        match std::fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.required => {
                Config::built_in(self.mode)
            }
            _ => {
                self.required = true;
                let text = read(&self.path)?;
                Config::parse(&text, &self.path.display().to_string(), self.mode)
            }
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    // Without O_NONBLOCK, opening a pipe that nobody writes would hang the reload thread for good.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path);
    let file: File = open.map_err(|error| unreadable(format!("cannot be opened: {error}")))?;
    let metadata = file
        .metadata()
        .map_err(|error| unreadable(format!("cannot be examined: {error}")))?;
    if !metadata.is_file() {
        return Err(unreadable(
            "is no regular file; give the path of a YAML file".to_owned(),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(unreadable(
            "is larger than 1 MiB; is it a configuration file?".to_owned(),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].split(|byte| *byte == b'\n').count();
        unreadable(format!(
            "is not UTF-8 (line {line}, byte {at} of the file); save it as UTF-8"
        ))
    })
}
