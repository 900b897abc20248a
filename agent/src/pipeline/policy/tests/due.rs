//! When which signal is due.

use super::*;

#[test]
fn a_wedged_engine_is_killed_when_its_grace_is_over_and_not_before() {
    let rules = EngineRules::default();
    assert_eq!(
        decide(&wedged(), &rules, at(1000)),
        Decision::Later(at(1500))
    );
    assert_eq!(
        decide(&wedged(), &rules, at(1499)),
        Decision::Later(at(1500))
    );
    assert_eq!(
        decide(&wedged(), &rules, at(1500)),
        strike(Signal::Kill, 500)
    );
}

#[test]
fn grace_runs_from_the_later_of_signal_and_wait() {
    let rules = EngineRules::default();
    let told_later = child(|child| child.told = Some(at(1200)));
    assert_eq!(
        decide(&told_later, &rules, at(1600)),
        Decision::Later(at(1700))
    );
    // A drain that signalled long ago and waits briefly has its grace from the start of the wait.
    let told_long_ago = child(|child| child.told = Some(at(1)));
    assert_eq!(
        decide(&told_long_ago, &rules, at(1100)),
        Decision::Later(at(1500))
    );
}

#[test]
fn no_grace_means_at_once() {
    let rules = EngineRules {
        grace: Duration::ZERO,
        ..EngineRules::default()
    };
    assert_eq!(decide(&wedged(), &rules, at(1000)), strike(Signal::Kill, 0));
}

#[test]
fn an_untold_engine_is_asked_first_and_only_where_the_operator_says_so() {
    let untold = child(|child| child.told = None);
    let rules = EngineRules {
        untold_grace: Some(Duration::from_secs(2)),
        ..EngineRules::default()
    };
    assert_eq!(decide(&untold, &rules, at(2999)), Decision::Later(at(3000)));
    assert_eq!(
        decide(&untold, &rules, at(3000)),
        strike(Signal::Term, 2000)
    );
    let termed = with(|facts| {
        facts.children[0].told = None;
        facts.termed = Some(at(3000));
    });
    assert_eq!(decide(&termed, &rules, at(3499)), Decision::Later(at(3500)));
    assert_eq!(decide(&termed, &rules, at(3500)), strike(Signal::Kill, 500));
}

#[test]
fn a_wait_older_than_the_agent_gets_the_unknown_grace_from_first_sight() {
    let old = with(|facts| {
        facts.children[0].told = None;
        facts.older_than_agent = true;
        facts.start = at(1000);
        facts.first_seen = at(4000);
    });
    let rules = EngineRules::default();
    assert_eq!(
        decide(&old, &rules, at(13_999)),
        Decision::Later(at(14_000))
    );
    assert_eq!(
        decide(&old, &rules, at(14_000)),
        strike(Signal::Term, 10_000)
    );
}

#[test]
fn time_in_which_loop_or_child_was_held_does_not_count() {
    let held = with(|facts| facts.held_until = Some(at(5000)));
    assert_eq!(
        decide(&held, &EngineRules::default(), at(5100)),
        Decision::Later(at(5500))
    );
    let still = child(|child| child.condition = Condition::Held);
    let still = WaitFacts {
        held_until: Some(at(5000)),
        ..still
    };
    assert_eq!(
        refusal(&still, &EngineRules::default(), 5000),
        Some(Refusal::Frozen)
    );
    assert_eq!(refusal(&still, &EngineRules::default(), 1400), None);
}

#[test]
fn throttled_time_makes_the_grace_longer() {
    let throttled = with(|facts| facts.throttled = Duration::from_millis(300));
    let rules = EngineRules::default();
    assert_eq!(
        decide(&throttled, &rules, at(1799)),
        Decision::Later(at(1800))
    );
    assert_eq!(
        decide(&throttled, &rules, at(1800)),
        strike(Signal::Kill, 500)
    );
}

#[test]
fn a_pending_signal_proves_that_an_older_child_was_told_by_somebody() {
    let rules = EngineRules::default();
    let pending = child(|child| {
        (child.told, child.seen_born, child.told_unseen) = (None, false, true);
    });
    assert_eq!(
        decide(&pending, &rules, at(10_999)),
        Decision::Later(at(11_000))
    );
    assert_eq!(
        decide(&pending, &rules, at(11_000)),
        strike(Signal::Term, 10_000)
    );
    // Without it the wait is younger than the agent, and the child was not told as far as anybody knows.
    let silent = child(|child| (child.told, child.seen_born) = (None, false));
    assert_eq!(
        refusal(&silent, &rules, 60_000),
        Some(Refusal::NotToldToEnd)
    );
    let pid = Some(engine().key.pid);
    let told = |facts: &WaitFacts, refusal| remark(facts, pid, refusal);
    assert!(told(&silent, Refusal::NotToldToEnd).is_some());
    assert_eq!(told(&silent, Refusal::Paused), None);
    assert_eq!(
        told(&child(|child| child.told = None), Refusal::NotToldToEnd),
        None
    );
}
