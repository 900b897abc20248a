//! Signals: open a pidfd, verify once more, send, and learn from the pidfd that the child has ended.
//!
//! Knows no policy: it is told what to do by `rescue/` on the word of `pipeline::policy`, and refuses when the facts it
//! was told do not hold any more. Nothing here waits.

mod guard;
mod strike;

pub use guard::{Budget, EnforcerLock, GuardError, RunDir};
pub use strike::{Child, strike};
