//! What was found out about a stalled loop beside the quick look: it comes later, from another thread, and only explains.
//!
//! `evidence/` gathers it, `classify` reads the [`Details`], and lines, events and the journal show all of it. No decision to
//! signal ever reads it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Frame;
use super::ids::{Mono, Pid, Tid};

/// How far evidence goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collect {
    /// What procfs shows, and the stack: memory of watched processes is read.
    #[default]
    Full,
    /// What procfs shows: peers, files, holders, the child. No memory of watched processes is read.
    Procfs,
    /// Nothing beyond the quick look that names the cause.
    Off,
}

impl Collect {
    /// The words of the configuration and the command line.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("full", Self::Full),
        ("procfs", Self::Procfs),
        ("off", Self::Off),
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Procfs => "procfs",
            Self::Off => "off",
        }
    }
}

/// Everything gathered at one moment of one stall.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// When it was asked for.
    pub asked: Mono,
    /// How long gathering took.
    pub took: Duration,
    /// Facts that name what is waited for.
    pub details: Details,
    /// Stack of the loop thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Stack>,
    /// Stack of the thread that holds what is waited for, where that can be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_stack: Option<Stack>,
    /// The child waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<ChildDetail>,
    /// What could not be had, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// Facts that name what a stalled thread waits for. Each is absent unless it was shown.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Details {
    /// The other end of the socket that it waits on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<SocketDetail>,
    /// The file that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Who holds what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SocketDetail {
    /// `tcp`, `udp` or `unix`.
    pub protocol: String,
    /// Address of the other end: `IP:PORT`, `[IP]:PORT`, or a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// State as the kernel names it, such as `ESTABLISHED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Bytes sent and not acknowledged by the other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unacknowledged_bytes: Option<u64>,
}

impl SocketDetail {
    /// Closed by its process, and not yet let go by the other end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(
            self.state.as_deref(),
            Some("FIN_WAIT1" | "CLOSING" | "LAST_ACK")
        )
    }

    /// What says most about a process that does not end comes first: a close that is not answered, then bytes that are
    /// not, then a connection that does not come about, then the rest.
    #[must_use]
    pub fn rank(&self) -> u8 {
        let waits = self.unacknowledged_bytes.is_some_and(|bytes| bytes > 0);
        match self.state.as_deref() {
            _ if self.is_closing() => 0,
            _ if waits => 1,
            Some("SYN_SENT") => 2,
            Some("FIN_WAIT2" | "CLOSE_WAIT") => 3,
            _ => 4,
        }
    }
}

/// A process or thread that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: Pid,
    /// The thread, where one is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<Tid>,
    /// Basename of its executable.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exe: String,
}

/// A stack, innermost frame first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// What kind of frames.
    pub kind: StackKind,
    /// The frames.
    pub frames: Vec<Frame>,
}

/// Which reader made a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StackKind {
    /// Frames of the Python interpreter.
    Python,
    /// Machine code, with JavaScript where the process offers a perf map.
    Native,
}

/// What is known of the child that a loop waits for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ChildDetail {
    /// Its id on the host.
    pub pid: Pid,
    /// Basename of its executable.
    pub exe: String,
    /// How long it has existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Duration>,
    /// State, spelled out.
    pub state: String,
    /// Where in the kernel it sleeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_function: Option<String>,
    /// Its sockets, those that are closing or have unacknowledged bytes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<SocketDetail>,
}

/// A part of the evidence that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which part: `stack`, `peer`, …
    pub what: String,
    /// Why, for a person.
    pub why: String,
}
