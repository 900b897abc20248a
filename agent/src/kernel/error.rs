//! What can go wrong between the agent and the kernel. Each says what was tried, on what, and what came back.

use std::io;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel publishes no type information.
    #[error(
        "cannot read the kernel's type information at {path}: {error}. The kernel needs CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf {
        /// The file.
        path: &'static str,
        /// What came back.
        error: String,
    },
    /// The kernel's type information lacks a field.
    #[error(
        "this kernel's type information has no {field}, which the eBPF programs read. Please report the kernel version"
    )]
    NoField {
        /// Which.
        field: String,
    },
    /// The object could not be loaded.
    #[error("cannot load the eBPF object: {0}")]
    Load(String),
    /// A program could not be loaded or attached.
    #[error("cannot {step} the eBPF program `{program}`: {error}")]
    Program {
        /// `load` or `attach`.
        step: &'static str,
        /// Which.
        program: String,
        /// What came back.
        error: String,
    },
    /// A map could not be used.
    #[error("cannot {step} the eBPF map `{map}`: {error}")]
    Map {
        /// What was tried.
        step: &'static str,
        /// Which.
        map: String,
        /// What came back.
        error: String,
    },
    /// A system call failed.
    #[error("{call} failed: {error}")]
    Call {
        /// Which, and on what.
        call: String,
        /// What came back.
        error: io::Error,
    },
    /// No event ids can be read.
    #[error("cannot read tracepoints: {0}")]
    Tracefs(String),
    /// Nothing shows connections.
    #[error("connections cannot be seen without BPF")]
    NoConnections,
    /// The agent lives in a PID namespace of its own.
    #[error(
        "the agent runs in a PID namespace of its own, so process ids of the kernel mean nothing here. \
         Run it in the host's PID namespace (hostPID: true)"
    )]
    PidNamespace,
}
