//! The Python stack of one thread of a running process, read from its memory without stopping it.
//!
//! Everything comes from `/proc/PID/mem`: the interpreter's `_PyRuntime` is found through the symbol table that the loader mapped, so no
//! file of the process is opened: containers, deleted files and dead network file systems make no difference. The process runs on
//! meanwhile, and may be hostile: whatever is read is checked, every walk is bounded, and a stack counts only as far as two
//! readings of it agree.
//!
//! Runs in the helper process only. Must never: write to the process, stop it, or trust a length or pointer it read.

mod code;
mod error;
mod frames;
mod gil;
mod image;
mod layout;
mod lines;
mod lock;
mod memory;
mod object;
mod process;
mod threads;

pub use error::Error;
pub use frames::Stack;
pub use process::{Gil, Program, Python, Thread};
