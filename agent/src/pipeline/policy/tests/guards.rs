//! What is left alone, waited for or refused, and when it is looked at again.

use super::*;

#[test]
fn waits_that_do_not_end_with_the_child_are_left_alone() {
    for (bits, waitid) in [
        (0x0100_0004, true),
        (0, true),
        (2, true),
        (0x0100_0000, false),
    ] {
        let facts = with(|facts| facts.options = WaitOptions { bits, waitid });
        assert_eq!(
            decide(&facts, &EngineRules::default(), at(9000)),
            Decision::Leave,
            "{bits:x} {waitid}"
        );
    }
    let exited = with(|facts| {
        facts.options = WaitOptions {
            bits: 4,
            waitid: true,
        }
    });
    assert_eq!(
        decide(&exited, &EngineRules::default(), at(9000)),
        strike(Signal::Kill, 500)
    );
    let polling = with(|facts| {
        facts.options = WaitOptions {
            bits: 1,
            waitid: false,
        }
    });
    assert_eq!(
        decide(&polling, &EngineRules::default(), at(9000)),
        strike(Signal::Kill, 500)
    );
}

#[expect(clippy::too_many_lines, reason = "one table of all guards")]
#[test]
fn guards_refuse_by_name() {
    let other = |change: fn(&mut ChildFacts)| {
        with(|facts| {
            let mut second = engine();
            second.key.pid = Pid(21);
            second.ns_pid = Some(NsPid(8));
            change(&mut second);
            facts.children.push(second);
        })
    };
    let any = |mut facts: WaitFacts| {
        facts.awaited = Awaited::Any;
        facts
    };
    let table = [
        (
            "another program",
            child(|c| c.engine = Some(false)),
            Refusal::NotEngine,
        ),
        (
            "not matched yet",
            child(|c| c.engine = None),
            Refusal::NotEngine,
        ),
        (
            "a stranger's number",
            with(|f| f.awaited = Awaited::Process(9)),
            Refusal::NotChild,
        ),
        (
            "a number that is none",
            with(|f| f.awaited = Awaited::Process(-7)),
            Refusal::NotChild,
        ),
        (
            "its own number unknown",
            child(|c| c.ns_pid = None),
            Refusal::NotChild,
        ),
        (
            "a pidfd of a stranger",
            with(|f| f.awaited = Awaited::PidFd(5)),
            Refusal::NotChild,
        ),
        ("any of two", any(other(|_| ())), Refusal::AmbiguousChild),
        (
            "any of none",
            any(with(|f| f.children.clear())),
            Refusal::NotChild,
        ),
        (
            "a group of two",
            with_group(other(|_| ()), 3),
            Refusal::AmbiguousChild,
        ),
        (
            "a group of none",
            with_group(wedged(), 4),
            Refusal::NotChild,
        ),
        ("wrapper", child(|c| wrap(c, 1)), Refusal::WaitsOnWrapper),
        ("wrapper of two", child(|c| wrap(c, 2)), Refusal::NotEngine),
        (
            "nobody told it",
            child(|c| c.told = None),
            Refusal::NotToldToEnd,
        ),
        (
            "target told to end",
            with(|f| f.target_ending = Some(at(500))),
            Refusal::TargetEnding,
        ),
        (
            "another container",
            child(|c| c.place = Place::Other),
            Refusal::OtherContainer,
        ),
        (
            "container not shown",
            child(|c| c.place = Place::Unknown),
            Refusal::OtherContainer,
        ),
        (
            "traced",
            child(|c| c.condition = Condition::Traced),
            Refusal::Traced,
        ),
        (
            "child frozen",
            child(|c| c.condition = Condition::Held),
            Refusal::Frozen,
        ),
        (
            "loop frozen",
            with(|f| f.loop_condition = Condition::Held),
            Refusal::Frozen,
        ),
        (
            "loop gone",
            with(|f| f.loop_condition = Condition::Gone),
            Refusal::IdentityChanged,
        ),
        (
            "child unreadable",
            child(|c| c.condition = Condition::Unreadable),
            Refusal::IdentityChanged,
        ),
        (
            "not shown to be the loop thread",
            with(|f| f.loop_thread = false),
            Refusal::NotLoopThread,
        ),
        (
            "budget",
            with(|f| f.guards.budget_spent = true),
            Refusal::Budget,
        ),
        (
            "pause",
            with(|f| f.guards.paused_until = Some(at(9000))),
            Refusal::Paused,
        ),
        (
            "two agents",
            with(|f| f.guards.other_enforcer = true),
            Refusal::AnotherEnforcer,
        ),
        (
            "ids unknown",
            with(|f| f.guards.no_pid_namespace = true),
            Refusal::NoPidNamespace,
        ),
    ];
    for (name, facts, expected) in table {
        assert_eq!(
            refusal(&facts, &EngineRules::default(), 5000),
            Some(expected),
            "{name}"
        );
        assert_eq!(
            refusal(&facts, &EngineRules::default(), 1400),
            None,
            "{name}: nothing is said within the grace"
        );
    }
}

#[test]
fn what_is_still_being_read_is_waited_for_a_while_and_then_refused() {
    let unread = [
        (
            child(|child| child.place = Place::Unknown),
            Refusal::OtherContainer,
        ),
        (child(|child| child.engine = None), Refusal::NotEngine),
    ];
    for (facts, expected) in unread {
        let rules = EngineRules::default();
        assert_eq!(decide(&facts, &rules, at(1500)), Decision::Later(at(1505)));
        assert_eq!(refusal(&facts, &rules, 2499), None);
        assert_eq!(refusal(&facts, &rules, 2500), Some(expected));
        // Otherwise it reads as if something had been found out.
        let told = remark(&facts, Some(engine().key.pid), expected).unwrap();
        assert!(told.contains("has not been read yet"), "{told}");
    }
    let other = child(|child| child.place = Place::Other);
    let told = remark(&other, Some(engine().key.pid), Refusal::OtherContainer);
    assert_eq!(told, None);
}

#[test]
fn a_target_that_was_told_long_ago_is_not_ending_any_more() {
    let facts = with(|facts| facts.target_ending = Some(at(500)));
    assert_eq!(
        refusal(&facts, &EngineRules::default(), 30_499),
        Some(Refusal::TargetEnding)
    );
    assert_eq!(
        decide(&facts, &EngineRules::default(), at(30_500)),
        strike(Signal::Kill, 500)
    );
}

#[test]
fn a_target_has_as_long_to_end_as_its_pod_gives_it() {
    let told = |ends_by| {
        with(|facts| {
            facts.target_ending = Some(at(500));
            facts.ends_by = Some(at(ends_by));
        })
    };
    let rules = EngineRules::default();
    for now in [30_500, 300_499] {
        let found = refusal(&told(300_500), &rules, now);
        assert_eq!(found, Some(Refusal::TargetEnding), "{now}");
    }
    let over = decide(&told(300_500), &rules, at(300_500));
    assert_eq!(over, strike(Signal::Kill, 500));
    // A pod of a short grace asks for no more than others get.
    let short = refusal(&told(2500), &rules, 30_499);
    assert_eq!(short, Some(Refusal::TargetEnding));
}

#[test]
fn refusals_that_can_heal_are_looked_at_again() {
    let paused = with(|facts| facts.guards.paused_until = Some(at(9000)));
    let Decision::Refuse { again, .. } = decide(&paused, &EngineRules::default(), at(5000)) else {
        panic!("expected a refusal");
    };
    assert_eq!(again, Some(at(9000)));
}

#[test]
fn a_thread_that_is_no_loop_is_spoken_of_only_where_a_loop_would_be_freed() {
    let unshown = |change: fn(&mut WaitFacts)| {
        with(|facts| {
            facts.loop_thread = false;
            change(facts);
        })
    };
    let table: [(&str, WaitFacts, Option<Refusal>); 6] = [
        ("told", unshown(|_| {}), Some(Refusal::NotLoopThread)),
        ("untold", unshown(|f| f.children[0].told = None), None),
        (
            "no engine",
            unshown(|f| f.children[0].engine = Some(false)),
            None,
        ),
        (
            "any of two",
            unshown(|f| {
                f.awaited = Awaited::Any;
                f.children.push(engine());
            }),
            None,
        ),
        (
            "no such child",
            unshown(|f| f.awaited = Awaited::Process(9)),
            None,
        ),
        (
            "frozen by somebody, which is another matter",
            unshown(|f| f.children[0].condition = Condition::Held),
            Some(Refusal::NotLoopThread),
        ),
    ];
    for (name, facts, expected) in table {
        let rules = EngineRules::default();
        assert_eq!(refusal(&facts, &rules, 5000), expected, "{name}");
        assert_eq!(refusal(&facts, &rules, 1499), None, "{name}, too early");
    }
    // Who told whom before the agent came is unknown: the longer grace.
    let older = unshown(|f| {
        f.older_than_agent = true;
        f.children[0].told = None;
    });
    let rules = EngineRules::default();
    assert_eq!(refusal(&older, &rules, 10_999), None);
    assert_eq!(
        refusal(&older, &rules, 11_000),
        Some(Refusal::NotLoopThread)
    );
}

#[test]
fn a_thread_that_has_left_the_wait_is_not_acted_for() {
    let left = with(|facts| facts.waits = false);
    let rules = EngineRules::default();
    assert_eq!(decide(&left, &rules, at(1100)), Decision::Later(at(1500)));
    // Due, and looked at again and again: an interrupted call may be entered again.
    assert_eq!(decide(&left, &rules, at(1600)), Decision::Later(at(1620)));
    assert!(matches!(
        decide(&wedged(), &rules, at(1600)),
        Decision::Strike { .. }
    ));
}
