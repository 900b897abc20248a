//! Tells what the agent sees and does: OTLP metrics and log records, and a text page for Prometheus.
//!
//! Notices come in through [`Exporter::notice`], which never waits; running loops and the agent's own state are read
//! through [`LoopSource`] and [`AgentSource`] before each push and for each scrape. Everything shown comes from one set of
//! series (`registry`). This room must never hold up the rescue path, keep more than its bounds, or show a credential.
//!
//! The way of a notice: `exporter` (task) → `instruments` (values) and `event` (log record) → `registry` (series) →
//! `text` and `page`, or `otlp` → `queue` → `sender` → `transport`.

mod clean;
mod clock;
pub mod delivery;
mod engine_news;
pub mod event;
mod exporter;
mod hub;
pub mod instruments;
pub mod journal;
pub mod lines;
pub mod metric;
pub mod names;
pub mod otlp;
pub mod pace;
mod page;
mod pod_event;
pub mod queue;
mod ready;
pub mod registry;
mod sender;
pub mod settings;
mod shared;
pub mod source;
pub mod text;
mod tls;
mod told;
pub mod transport;

#[cfg(test)]
mod credential_tests;

pub use exporter::{Exporter, NoticeSender, StartError};
pub use pod_event::pod_event;
pub use settings::{DEFAULT_LISTEN, FileOtlp, FileSettings, Settings, SettingsError};
pub use source::{
    AgentSource, AgentStats, HookVerdict, JournalStats, KubernetesStats, LoopSource, MapFill,
};
pub use tls::TlsError;
