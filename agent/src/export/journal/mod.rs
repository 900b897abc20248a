//! The journal: what happened, on disk, so that it outlives the pod and the agent.
//!
//! Append-only files of JSON lines (`docs/journal.md`). Notices come in through [`JournalSender`], which never waits; a thread of
//! its own builds records (`pipeline::collect`), decides which are written in full (`keep`), and writes them (`writer`) into a
//! folder that only root may write (`dir`). It must never hold up the rescue path, take more room than it may, or trust what it
//! finds on disk. `read` is the way back, for `incidents`, `replay` and the backlog of the exporters.

mod backlog;
mod dir;
mod keep;
mod line;
pub mod read;
#[cfg(test)]
mod samples;
mod sending;
mod store;
mod thread;
mod writer;

pub use dir::DirError;
pub use line::{Aggregate, Line, decode};
pub use thread::{
    InForceOf, Journal, JournalInbox, JournalSender, JournalSettings, JournalState, Setup,
};

/// A record as it stands in the file.
#[cfg(test)]
pub(super) fn encoded(record: &crate::pipeline::record::IncidentRecord) -> String {
    String::from_utf8(line::incident(record, 1 << 20).unwrap()).unwrap()
}
