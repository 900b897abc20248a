//! The disposable helper process: reads what can hang for good or be hostile, and is killed and replaced when it does not answer.
//!
//! It is this program, started again as `loopwarden evidence-helper`, and speaks JSON lines on stdin and stdout: one request, one answer.
//! Nothing of it is trusted by the agent: an answer that is too long, malformed or not the one asked for counts as none.

mod client;
mod confine;
mod protocol;
mod server;

pub use client::{Failure, Helper};
pub use protocol::{Answer, Found, GilView, Outcome, Request, ThreadView, Want};
pub use server::{Args, serve};
