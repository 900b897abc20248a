//! Why a stack could not be read.

use std::io;

use crate::pipeline::Tid;

/// Why a stack could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of CPython is mapped.
    #[error("the process runs no CPython")]
    NotPython,
    /// A CPython whose structures are not known.
    #[error("this CPython cannot be read: {0} (3.8 to 3.14 with a global interpreter lock can)")]
    Unsupported(String),
    /// The memory belongs to nobody any more.
    #[error("the process has ended or runs another program")]
    Gone,
    /// The kernel refused.
    #[error("reading {path} failed: {source}")]
    File {
        /// What was read.
        path: String,
        /// What came back.
        source: io::Error,
    },
    /// No memory there.
    #[error("reading the process's memory at {at:#x} failed: {source}")]
    Memory {
        /// Where.
        at: u64,
        /// What came back.
        source: io::Error,
    },
    /// What was read cannot be what it should be: it changed meanwhile, or is made up.
    #[error("there is no {what} at {at:#x} of the process's memory")]
    Implausible {
        /// What was looked for.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// The request's allowance is used up.
    #[error("the process's structures are too large: gave up after {0} reads")]
    Allowance(u32),
    /// The interpreter does not know the thread.
    #[error("thread {0} runs no Python")]
    NoThread(Tid),
}

/// `Implausible`, shorter.
pub(super) fn implausible<T>(what: &'static str, at: u64) -> Result<T, Error> {
    Err(Error::Implausible { what, at })
}
