//! Facts about this kernel, the plan of hooks, loading, and reading maps and ring: the only room that touches BPF.
//!
//! Turns bytes from the kernel into the pipeline's types and decides nothing about loops.

mod board;
mod bpf;
mod convert;
mod error;
mod load;
mod namespace;
mod offsets;
mod plain;
pub mod plan;
mod sensor;
mod tracefs;

pub use bpf::BpfSensor;
pub use error::KernelError;
pub use load::{Loaded, Outcome, load};
pub use plan::{Plan, Verdict, Way};
pub use sensor::{Adoption, Listed, Sensor, Totals};
