//! The pure core: facts in, decisions out.
//!
//! Defines the types every other room speaks (loop, stall, wait episode, cause, refusal, notice) and decides what they
//! mean. It must never do I/O, read a clock or import another room: `now` is always an argument. Facts come from `kernel/`
//! and procfs readers; what it returns goes to `action/` (signals) and `export/` (notices).

pub mod cause;
pub mod classify;
pub mod collect;
pub mod engines;
pub mod event;
pub mod evidence;
pub mod family;
pub mod gate;
pub mod histogram;
pub mod ids;
pub mod interpreter;
pub mod liveness;
pub mod notice;
pub mod place;
pub mod pod;
pub mod policy;
pub mod recognise;
pub mod record;
pub mod redact;
pub mod refusal;
pub mod registers;
pub mod replay;
pub mod stamp;
pub mod story;

pub use cause::{Cause, CauseKind, ChildCause, Frame, Signalled, StarvedBy, StoppedBy};
pub use evidence::{Collect, Evidence};
pub use histogram::Histogram;
pub use ids::{IncidentId, LoopId, Mono, NsPid, Pid, PidKey, Tid};
pub use notice::{
    ActionNotice, EndedBy, GraceReason, LoopInfo, LoopTotals, Mode, Notice, Outcome, Signal,
    StallView,
};
pub use refusal::Refusal;
