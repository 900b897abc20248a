//! Each rule of "When a signal is sent" as rows of a table.

use super::*;

const MS: u64 = 1_000_000;

pub(super) fn at(ms: u64) -> Mono {
    Mono(ms * MS)
}

pub(super) fn engine() -> ChildFacts {
    ChildFacts {
        key: PidKey {
            pid: Pid(20),
            start_ns: 5,
        },
        ns_pid: Some(NsPid(7)),
        group: Some(3),
        exe: "query-engine-x".into(),
        engine: Some(true),
        told: Some(at(990)),
        seen_born: true,
        told_unseen: false,
        place: Place::Same,
        condition: Condition::Free,
        state: "sleeping",
        engines_below: Vec::new(),
    }
}

/// A loop in `wait4(7)` since second 1 on an engine that was told to end just before.
pub(super) fn wedged() -> WaitFacts {
    WaitFacts {
        start: at(1000),
        first_seen: at(1000),
        older_than_agent: false,
        awaited: Awaited::Process(7),
        options: WaitOptions::default(),
        waits: true,
        pidfd_child: None,
        own_group: Some(3),
        loop_thread: true,
        loop_condition: Condition::Free,
        target_ending: None,
        ends_by: None,
        children: vec![engine()],
        held_until: None,
        throttled: Duration::ZERO,
        termed: None,
        free_by: None,
        guards: Guards::default(),
    }
}

pub(super) fn with(change: impl FnOnce(&mut WaitFacts)) -> WaitFacts {
    let mut facts = wedged();
    change(&mut facts);
    facts
}

pub(super) fn child(change: impl FnOnce(&mut ChildFacts)) -> WaitFacts {
    with(|facts| change(&mut facts.children[0]))
}

fn strike(signal: Signal, grace_ms: u64) -> Decision {
    Decision::Strike {
        child: engine().key,
        exe: engine().exe,
        signal,
        grace: Duration::from_millis(grace_ms),
        grace_reason: None,
    }
}

fn refusal(facts: &WaitFacts, rules: &EngineRules, now_ms: u64) -> Option<Refusal> {
    match decide(facts, rules, at(now_ms)) {
        Decision::Refuse { refusal, .. } => Some(refusal),
        _ => None,
    }
}

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

fn with_group(mut facts: WaitFacts, group: i32) -> WaitFacts {
    facts.awaited = Awaited::Group(group);
    facts
}

fn wrap(child: &mut ChildFacts, engines: u32) {
    child.engine = Some(false);
    for number in 0..engines {
        let mut below = engine();
        below.key.pid = Pid(100 + number);
        child.engines_below.push(below);
    }
}

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
