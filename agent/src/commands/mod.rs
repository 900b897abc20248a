//! The commands: each turns its options into settings, starts what it needs, and says how it went.

pub mod doctor;
mod output;
pub mod watch;
