//! Facts about this kernel, the plan of hooks, loading, and reading maps and ring: the only room that touches BPF.
//!
//! Turns bytes from the kernel into the pipeline's types and decides nothing about loops.

mod board;
mod bpf;
mod btf;
pub mod clock;
mod convert;
mod error;
mod load;
mod namespace;
mod offsets;
mod plain;
pub mod plan;
pub mod realtime;
pub mod registers;
mod sampler;
mod samples;
mod sensor;
pub mod spawn;
pub mod syscalls;
pub mod thread_call;
mod tracefs;

pub use bpf::BpfSensor;
pub use error::KernelError;
pub use load::{Loaded, Outcome, load};
pub use namespace::{is_initial as in_host_pid_namespace, procfs_is_ours};
pub use plan::{Plan, Verdict, Way};
pub use sampler::Sampler;
pub use sensor::{Adoption, Listed, Sensor, Totals};

pub use loopwarden_abi::{BUCKETS, MAX_LOOPS, MAX_TASKS, Settings, bucket_bound, bucket_of};

/// The best sensor this machine allows.
#[must_use]
pub fn sensor(settings: Settings) -> Box<dyn Sensor> {
    match load(settings) {
        Outcome::Loaded(loaded) => {
            let mut plan = loaded.plan.clone();
            match BpfSensor::new(*loaded) {
                Ok(mut sensor) => {
                    sensor.pass_on_logs();
                    Box::new(sensor)
                }
                Err(error) => {
                    plan.way = Way::Sampling;
                    plan.verdicts
                        .insert("maps".to_owned(), Verdict::Broken(error.to_string()));
                    Box::new(Sampler::new(plan))
                }
            }
        }
        Outcome::Refused(plan) => Box::new(Sampler::new(plan)),
    }
}
