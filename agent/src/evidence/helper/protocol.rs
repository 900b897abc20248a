//! What the agent and its helper say to each other: one JSON object a line.

use serde::{Deserialize, Serialize};

use crate::pipeline::evidence::Stack;
use crate::pipeline::registers::Registers;
use crate::pipeline::{Frame, Pid, Tid};

/// Longest request, in bytes with the line's end: registers with 32 KiB of stack, as base64. An empty pipe takes it at once.
pub(super) const LONGEST_REQUEST: usize = 60 << 10;
/// Longest answer: two stacks of 128 frames with long names are a fraction of it.
pub(super) const LONGEST_ANSWER: usize = 1 << 20;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The process.
    pub pid: Pid,
    /// When it started, nanoseconds since boot; of procfs's precision or better.
    pub start_ns: u64,
    /// What is asked for.
    pub want: Want,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Want {
    /// Find out what the process runs, so that a later stack is quick.
    Prepare,
    /// The stack of a thread.
    Stack {
        /// Which.
        tid: Tid,
        /// Its registers at the entry to the kernel, where the kernel told: for a native stack.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registers: Option<Registers>,
    },
    /// The process has ended: drop what is known of it.
    Forget,
}

/// A request on the wire, with the number that its answer repeats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Numbered<T> {
    pub id: u64,
    #[serde(flatten)]
    pub what: T,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// The process is known now, or was already.
    Prepared {
        /// What it runs: `CPython 3.11`; nothing if its stacks are native ones.
        runtime: Option<String>,
    },
    /// A stack.
    Found(Box<Found>),
    /// The process is not known any more.
    Forgotten,
    /// It could not be had.
    Failed {
        /// Why, for a person.
        why: String,
    },
}

/// A stack, and what was seen with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// What the process runs: `CPython 3.11`; nothing if the stack is a native one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The stack.
    pub stack: Stack,
    /// Why there are no more frames further out, if there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    /// The thread ran on while its stack was read: the innermost frame is the innermost one that stayed.
    pub is_moving: bool,
    /// The interpreter lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gil: Option<GilView>,
    /// The thread that holds the lock that this one waits for, where that was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_holder: Option<ThreadView>,
}

/// Who has the interpreter lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GilView {
    /// The thread that holds it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Tid>,
    /// Whether that thread is on a CPU, or ready to be.
    pub is_holder_running: bool,
    /// Its innermost frame, if it is another thread than the one asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_frame: Option<Frame>,
    /// The thread asked about sleeps because it wants the interpreter lock.
    pub is_wanted: bool,
}

/// Another thread of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadView {
    /// Which.
    pub tid: Tid,
    /// Its name, as the kernel has it.
    pub name: String,
    /// What it is doing, if that came along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Stack>,
}
