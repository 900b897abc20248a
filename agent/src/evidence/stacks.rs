//! Stacks for the evidence thread: registers from the kernel, everything else through the disposable helper.
//!
//! Never waits longer than the limits below; what did not come in time is said to be missing.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::helper::{Found, Helper, Outcome, Request, Want};
use crate::pipeline::evidence::{Evidence, Holder, Missing};
use crate::pipeline::registers::Registers;
use crate::pipeline::{LoopId, Pid, PidKey, Tid};
use crate::proc;

/// A cold start reads symbol tables of large programs.
const PREPARE_LIMIT: Duration = Duration::from_secs(5);
/// A stack of a process that is known takes milliseconds; on a starved machine the helper may wait for a CPU.
const STACK_LIMIT: Duration = Duration::from_secs(2);

/// Where a thread is: one reading if it is blocked, several if it runs.
pub type ReadRegisters = Box<dyn FnMut(Pid, Tid) -> Result<Vec<Registers>, String> + Send>;

pub(super) struct Stacks {
    helper: Helper,
    registers: ReadRegisters,
    /// What known processes run; `None` is anything but an interpreter that the helper can read.
    runtimes: HashMap<Pid, (PidKey, Option<String>)>,
}

impl fmt::Debug for Stacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stacks")
            .field("helper", &self.helper)
            .finish_non_exhaustive()
    }
}

impl Stacks {
    pub(super) fn new(registers: ReadRegisters) -> Self {
        Self {
            helper: Helper::new(),
            registers,
            runtimes: HashMap::new(),
        }
    }

    /// Makes ready what takes long, before the loop stalls.
    pub(super) fn prepare(&mut self, id: LoopId) {
        match self.ask(id.process, Want::Prepare, PREPARE_LIMIT) {
            Ok(Outcome::Prepared { runtime }) => {
                self.runtimes.insert(id.process.pid, (id.process, runtime));
            }
            Ok(other) => log::debug!("preparing for stacks of {id:?}: {other:?}"),
            // Said again, and to people, when a stack is wanted and cannot be had.
            Err(why) => log::debug!("preparing for stacks of {id:?}: {why}"),
        }
    }

    /// Adds the stack of the loop thread, and of who holds what it waits for if that is shown.
    pub(super) fn collect(&mut self, id: LoopId, evidence: &mut Evidence) {
        let found = match self.stack(id.process, id.tid) {
            Ok(found) => found,
            Err(why) => {
                evidence.missing.push(Missing {
                    what: "stack".into(),
                    why,
                });
                return;
            }
        };
        if let Some(why) = found.cut {
            evidence.missing.push(Missing {
                what: "outer frames".into(),
                why,
            });
        }
        evidence.stack = Some(found.stack);
        if let Some(holder) = found.lock_holder {
            let exe = proc::exe_name(id.process.pid).unwrap_or_default();
            evidence.details.holder = Some(Holder {
                pid: id.process.pid,
                tid: Some(holder.tid),
                exe,
            });
            evidence.holder_stack = holder.stack.or_else(|| {
                let found = self.stack(id.process, holder.tid).ok()?;
                Some(found.stack)
            });
        }
    }

    pub(super) fn forget(&mut self, pid: Pid) {
        if let Some((key, _)) = self.runtimes.remove(&pid) {
            // The helper drops the least used by itself; this only makes room sooner.
            let _ = self.ask(key, Want::Forget, STACK_LIMIT);
        }
    }

    /// CPU time of the helper that runs now.
    pub(super) fn helper_cpu(&self) -> Duration {
        let read = |id: u32| {
            let text = std::fs::read_to_string(format!("/proc/{id}/schedstat")).ok()?;
            text.split_whitespace().next()?.parse().ok()
        };
        Duration::from_nanos(self.helper.id().and_then(read).unwrap_or(0))
    }

    fn stack(&mut self, process: PidKey, tid: Tid) -> Result<Found, String> {
        let known = self.runtimes.get(&process.pid);
        let is_python = known.is_some_and(|(key, runtime)| *key == process && runtime.is_some());
        let mut registers = Err("not wanted".to_owned());
        if !is_python {
            registers = (self.registers)(process.pid, tid);
        }
        let mut samples = registers.as_ref().map_or_else(|_| Vec::new(), Clone::clone);
        // Of several the middle one: the first may be the end of what was before.
        let middle = (!samples.is_empty()).then(|| samples.swap_remove(samples.len() / 2));
        let want = Want::Stack {
            tid,
            registers: middle,
        };
        match self.ask(process, want, STACK_LIMIT)? {
            Outcome::Found(found) => Ok(*found),
            Outcome::Failed { why } => Err(match registers {
                Err(error) if !is_python => format!("{why}; {error}"),
                _ => why,
            }),
            other => Err(format!("the helper answered something else: {other:?}")),
        }
    }

    fn ask(&mut self, process: PidKey, want: Want, limit: Duration) -> Result<Outcome, String> {
        let request = Request {
            pid: process.pid,
            start_ns: process.start_ns,
            want,
        };
        let answer = self.helper.ask(&request, limit);
        answer
            .map(|answer| answer.outcome)
            .map_err(|failure| failure.to_string())
    }
}
