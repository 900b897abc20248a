//! Stacks of real processes, asked for through the real helper: Debian's Python, other versions, and processes that lie.
#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod hostile;
mod python;
mod support;
mod versions;
