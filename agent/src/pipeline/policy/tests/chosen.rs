//! Which child a wait means, and which engine behind it.

use super::*;

#[test]
fn the_one_child_that_is_left_is_meant_by_any_and_by_its_group() {
    let rules = EngineRules::default();
    let any = with(|facts| facts.awaited = Awaited::Any);
    assert_eq!(decide(&any, &rules, at(1500)), strike(Signal::Kill, 500));
    let zombie_beside = with(|facts| {
        facts.awaited = Awaited::Any;
        let mut gone = engine();
        gone.key.pid = Pid(21);
        gone.condition = Condition::Gone;
        facts.children.push(gone);
    });
    assert_eq!(
        decide(&zombie_beside, &rules, at(1500)),
        strike(Signal::Kill, 500)
    );
    assert_eq!(
        decide(&with_group(wedged(), 3), &rules, at(1500)),
        strike(Signal::Kill, 500)
    );
    assert_eq!(
        decide(&with_group(wedged(), 0), &rules, at(1500)),
        strike(Signal::Kill, 500)
    );
    let pidfd = with(|facts| {
        facts.awaited = Awaited::PidFd(11);
        facts.pidfd_child = Some(Pid(20));
    });
    assert_eq!(decide(&pidfd, &rules, at(1500)), strike(Signal::Kill, 500));
}

#[test]
fn through_wrapper_signals_the_engine_and_needs_all_the_rest() {
    let rules = EngineRules {
        through_wrapper: true,
        ..EngineRules::default()
    };
    let wrapped = child(|child| wrap(child, 1));
    let Decision::Strike { child: struck, .. } = decide(&wrapped, &rules, at(1500)) else {
        panic!("expected a strike");
    };
    assert_eq!(struck.pid, Pid(100));
    let untold = child(|child| {
        wrap(child, 1);
        child.told = None;
        child.engines_below[0].told = None;
    });
    assert_eq!(refusal(&untold, &rules, 5000), Some(Refusal::NotToldToEnd));
}

#[test]
fn the_cause_of_an_action_is_the_child_that_was_decided_about() {
    let cause = awaited_cause(&wedged(), at(1500)).unwrap();
    assert_eq!(
        (cause.pid, cause.ns_pid, cause.state.as_str()),
        (Pid(20), NsPid(7), "sleeping")
    );
    assert_eq!(cause.told_to_end_ms_ago, Some(510.0));
    let nobody = with(|facts| facts.awaited = Awaited::Process(9));
    assert_eq!(awaited_cause(&nobody, at(1500)), None);
}
