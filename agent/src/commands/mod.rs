//! The commands: each turns its options into settings, starts what it needs, and says how it went.

mod checks;
mod common;
pub mod doctor;
pub mod incidents;
pub mod log_queue;
mod output;
pub mod replay;
pub mod run;
pub mod watch;
