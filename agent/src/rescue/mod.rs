//! The rescue thread: kernel events in, decisions by `pipeline/`, signals through `action/`, notices out.
//!
//! It owns the sensor and everything it decides on, and waits for nothing but the kernel: no stack capture, DNS, exporter,
//! Kubernetes API or async runtime. What can block is read by the scout (`target/`) and arrives as a message. Notices go
//! out through a callback that must not block.

mod accounts;
mod act;
mod chronicle;
mod due;
mod ended;
mod engines;
mod episode;
mod events;
mod explain;
mod gather;
mod guards;
mod look;
mod loops;
mod pods;
mod probed;
mod processes;
mod recognition;
mod reload;
mod risk;
mod sentinel;
mod settings;
mod stall;
mod stats;
mod thread;
mod threads;
mod unshown;

pub use settings::{EngineSettings, EvidenceLimits, Limits, Settings, TargetSettings};
pub use stats::Stats;
pub use thread::{Handle, Remote, StartError, Summary, start};
