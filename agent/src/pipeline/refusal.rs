//! Why no signal was sent. The same word is the metric attribute, the field of the line and the start of the sentence a
//! person reads.

/// Which guard refused an action.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The child is not what the configuration names as an engine.
    NotEngine,
    /// The process waited for is no direct child of the loop's process.
    NotChild,
    /// A shell or wrapper stands between the loop and the engine.
    WaitsOnWrapper,
    /// The call waits for any of several children.
    AmbiguousChild,
    /// Nobody has told the child to end.
    NotToldToEnd,
    /// The loop's process is ending itself.
    TargetEnding,
    /// The child runs in another container than the loop.
    OtherContainer,
    /// The process that was decided about is not there any more, or its identity cannot be shown.
    IdentityChanged,
    /// The wait ended before the signal.
    WaitOver,
    /// A debugger traces the child.
    Traced,
    /// The child or the loop is frozen or stopped.
    Frozen,
    /// The waiting thread is not shown to be the loop thread.
    NotLoopThread,
    /// The kill budget is used up.
    Budget,
    /// The pause after an action is not over.
    Paused,
    /// Another enforcing agent guards the same process.
    AnotherEnforcer,
    /// The kernel did not let us signal.
    NoPermission,
    /// The agent does not see the initial PID namespace, so that ids cannot be told apart.
    NoPidNamespace,
}

impl Refusal {
    /// All guards, in the order of the contract.
    pub const ALL: [Refusal; 17] = [
        Refusal::NotEngine,
        Refusal::NotChild,
        Refusal::WaitsOnWrapper,
        Refusal::AmbiguousChild,
        Refusal::NotToldToEnd,
        Refusal::TargetEnding,
        Refusal::OtherContainer,
        Refusal::IdentityChanged,
        Refusal::WaitOver,
        Refusal::Traced,
        Refusal::Frozen,
        Refusal::NotLoopThread,
        Refusal::Budget,
        Refusal::Paused,
        Refusal::AnotherEnforcer,
        Refusal::NoPermission,
        Refusal::NoPidNamespace,
    ];

    /// The word of the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::NotEngine => "not_engine",
            Refusal::NotChild => "not_child",
            Refusal::WaitsOnWrapper => "waits_on_wrapper",
            Refusal::AmbiguousChild => "ambiguous_child",
            Refusal::NotToldToEnd => "not_told_to_end",
            Refusal::TargetEnding => "target_ending",
            Refusal::OtherContainer => "other_container",
            Refusal::IdentityChanged => "identity_changed",
            Refusal::WaitOver => "wait_over",
            Refusal::Traced => "traced",
            Refusal::Frozen => "frozen",
            Refusal::NotLoopThread => "not_loop_thread",
            Refusal::Budget => "budget",
            Refusal::Paused => "paused",
            Refusal::AnotherEnforcer => "another_enforcer",
            Refusal::NoPermission => "no_permission",
            Refusal::NoPidNamespace => "no_pid_namespace",
        }
    }

    /// What a person reads after the word.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Refusal::NotEngine => "the child is no engine of this target (see --engine)",
            Refusal::NotChild => "the process waited for is no direct child of the loop's process",
            Refusal::WaitsOnWrapper => {
                "a wrapper stands between the loop and the engine (see through_wrapper)"
            }
            Refusal::AmbiguousChild => "the call waits for any of several children",
            Refusal::NotToldToEnd => "nobody has told the child to end",
            Refusal::TargetEnding => "the loop's process is being shut down",
            Refusal::OtherContainer => "the child is not shown to be in the loop's container",
            Refusal::IdentityChanged => {
                "the child decided about is gone, or its identity cannot be shown"
            }
            Refusal::WaitOver => "the wait ended first",
            Refusal::Traced => "a debugger traces the child",
            Refusal::Frozen => "the child or the loop is frozen or stopped",
            Refusal::NotLoopThread => "the waiting thread is not shown to be the loop thread",
            Refusal::Budget => "the kill budget is used up",
            Refusal::Paused => "the pause after the last action is not over",
            Refusal::AnotherEnforcer => "another enforcing agent guards this process",
            Refusal::NoPermission => "the kernel refused the signal (CAP_KILL is needed)",
            Refusal::NoPidNamespace => "the agent does not run in the host's PID namespace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_serialised_form() {
        for refusal in Refusal::ALL {
            assert_eq!(serde_json::to_value(refusal).unwrap(), refusal.name());
        }
    }
}
