//! What a stalled loop waits for, by name: sockets and their peers, files, holders, stacks, the state of the child.
//!
//! A thread of its own takes questions from the rescue thread through a bounded queue and answers by message. It explains and
//! decides nothing: no signal depends on it, and the rescue never waits for it. It only reads; nothing in the watched process
//! changes. What can hang or be hostile (memory, files below `/proc/PID/root`) is read in a disposable process.

mod budget;
pub mod facts;
pub mod helper;
mod interpreters;
pub mod native;
pub mod python;
mod stacks;
mod thread;

pub use stacks::ReadRegisters;
pub use thread::{Answer, Collector, Question, Request};
