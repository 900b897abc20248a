//! The liveness forecast against the demonstration's kubelet, an implementation of its own of the same rules: random probes,
//! random phases, random stalls with moments of air between. Without its probes, and with them.

mod blind;
mod deadline;
mod life;
mod node;
mod pod;
mod seen;
mod spec;
