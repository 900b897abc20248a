//! Loopwarden: a node agent that sees stalls of event loops while they last and frees them when that is safe.
//!
//! The way through the house: `kernel` turns kernel memory and events into facts, `pipeline` (pure) decides, `action`
//! signals, `export` tells. See `docs/architecture.md`.

pub mod action;
pub mod commands;
pub mod config;
pub mod demo;
pub mod evidence;
pub mod export;
pub mod kernel;
pub mod kube;
pub mod pipeline;
pub mod proc;
pub mod rescue;
pub mod sockets;
pub mod target;
pub mod wiring;
