//! The commands: each turns its options into settings, starts what it needs, and says how it went.

mod checks;
mod common;
pub mod doctor;
pub mod incidents;
mod output;
pub mod replay;
mod rulebook;
pub mod run;
mod to_pods;
pub mod watch;
