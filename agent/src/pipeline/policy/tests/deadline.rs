//! What a known kill decision does to the grace, and what it never does.

use proptest::prelude::*;

use super::*;

fn rules(grace_ms: u64) -> EngineRules {
    EngineRules {
        grace: Duration::from_millis(grace_ms),
        ..EngineRules::default()
    }
}

/// Told and waited for since second 1, and to be free by then.
fn free_by(ms: u64) -> WaitFacts {
    with(|facts| facts.free_by = Some(at(ms)))
}

fn strike(signal: Signal, grace_ms: u64, cut: bool) -> Decision {
    Decision::Strike {
        child: engine().key,
        exe: engine().exe,
        signal,
        grace: Duration::from_millis(grace_ms),
        grace_reason: cut.then_some(GraceReason::Deadline),
    }
}

#[test]
fn a_grace_is_cut_to_what_is_left() {
    for (grace, by, due, cut) in [
        // Enough is left: nothing changes.
        (500, 1500, 1500, false),
        (500, 60_000, 1500, false),
        // Less is.
        (500, 1499, 1499, true),
        (10_000, 3200, 3200, true),
        (120_000, 3200, 3200, true),
        // Never below 100 ms, however late it is …
        (10_000, 1101, 1101, true),
        (10_000, 1099, 1100, true),
        (10_000, 900, 1100, true),
        (10_000, 0, 1100, true),
        // … nor below a grace that is shorter than that.
        (100, 0, 1100, false),
        (20, 0, 1020, false),
        (0, 0, 1000, false),
    ] {
        let facts = free_by(by);
        let what = format!("{grace} {by}");
        if due > 1000 {
            let before = decide(&facts, &rules(grace), at(due - 1));
            assert_eq!(before, Decision::Later(at(due)), "{what}");
        }
        let expected = strike(Signal::Kill, due - 1000, cut);
        assert_eq!(decide(&facts, &rules(grace), at(due)), expected, "{what}");
    }
}

/// The news may come when more than what is left has passed already: what is told is what has passed.
#[test]
fn a_deadline_that_is_learnt_late_tells_the_grace_that_was_given() {
    assert_eq!(
        decide(&free_by(3200), &rules(10_000), at(4000)),
        strike(Signal::Kill, 3000, true)
    );
}

#[test]
fn graces_for_what_nobody_knows_are_never_cut() {
    let rules = EngineRules {
        untold_grace: Some(Duration::from_secs(5)),
        ..rules(500)
    };
    let older = WaitFacts {
        older_than_agent: true,
        ..child(|child| child.told = None)
    };
    let untold = child(|child| child.told = None);
    for (facts, due) in [(older, 11_000), (untold, 6000)] {
        let facts = WaitFacts {
            free_by: Some(at(1200)),
            ..facts
        };
        assert_eq!(
            decide(&facts, &rules, at(due - 1)),
            Decision::Later(at(due))
        );
        let grace = due - 1000;
        assert_eq!(
            decide(&facts, &rules, at(due)),
            strike(Signal::Term, grace, false)
        );
    }
    // After our own SIGTERM it is the grace of who was told to end.
    let termed = with(|facts| {
        facts.termed = Some(at(20_000));
        facts.free_by = Some(at(20_300));
    });
    assert_eq!(
        decide(&termed, &rules, at(20_300)),
        strike(Signal::Kill, 300, true)
    );
    // Nobody told it, and that is never enough: said when the grace would have passed, and not sooner.
    let never = WaitFacts {
        free_by: Some(at(1200)),
        ..child(|child| child.told = None)
    };
    assert_eq!(
        decide(&never, &self::rules(500), at(1400)),
        Decision::Later(at(1500))
    );
}

/// Time in which somebody was stopped or throttled is no part of a cut grace either.
#[test]
fn what_does_not_count_does_not_count_in_a_hurry() {
    let held = WaitFacts {
        held_until: Some(at(3000)),
        throttled: Duration::from_millis(70),
        ..free_by(2000)
    };
    assert_eq!(
        decide(&held, &rules(10_000), at(3001)),
        Decision::Later(at(3170))
    );
}

#[test]
fn every_guard_holds_in_a_hurry() {
    type Change = fn(&mut WaitFacts);
    let table: [(Change, Refusal); 6] = [
        (
            |facts| facts.children[0].place = Place::Other,
            Refusal::OtherContainer,
        ),
        (
            |facts| facts.target_ending = Some(at(900)),
            Refusal::TargetEnding,
        ),
        (
            |facts| facts.children[0].condition = Condition::Traced,
            Refusal::Traced,
        ),
        (
            |facts| facts.guards.other_enforcer = true,
            Refusal::AnotherEnforcer,
        ),
        (|facts| facts.guards.budget_spent = true, Refusal::Budget),
        (
            |facts| facts.guards.paused_until = Some(at(9000)),
            Refusal::Paused,
        ),
    ];
    for (change, expected) in table {
        let mut facts = free_by(1200);
        change(&mut facts);
        let decision = decide(&facts, &rules(10_000), at(1200));
        assert!(
            matches!(decision, Decision::Refuse { refusal, .. } if refusal == expected),
            "{expected:?}: {decision:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A deadline makes a signal come sooner, never later, never within the first 100 ms of the grace, and changes nothing else.
    #[test]
    fn a_deadline_only_hurries(
        grace in 0..20_000_u64, told in prop::option::of(0..9000_u64), older in any::<bool>(), untold in prop::option::of(0..20_000_u64),
        held in prop::option::of(0..9000_u64), termed in prop::option::of(1000..9000_u64), by in 0..30_000_u64, now in 1000..40_000_u64,
    ) {
        let rules = EngineRules { untold_grace: untold.map(Duration::from_millis), ..rules(grace) };
        let calm = WaitFacts {
            older_than_agent: older,
            held_until: held.map(at),
            termed: termed.map(at),
            ..child(|child| child.told = told.map(at))
        };
        let hurried = WaitFacts { free_by: Some(at(by)), ..calm.clone() };
        let (without, with) = (decide(&calm, &rules, at(now)), decide(&hurried, &rules, at(now)));
        match (&without, &with) {
            (Decision::Strike { signal: calm, .. }, Decision::Strike { signal, .. }) => prop_assert_eq!(calm, signal),
            (Decision::Later(calm), Decision::Later(hurried)) => prop_assert!(hurried <= calm),
            (Decision::Later(_), Decision::Strike { signal, grace: given, grace_reason, .. }) => {
                prop_assert_eq!(*signal, Signal::Kill);
                prop_assert_eq!(*grace_reason, Some(GraceReason::Deadline));
                prop_assert!(told.is_some() || termed.is_some(), "nobody told it");
                prop_assert!(*given >= Duration::from_millis(100).min(rules.grace), "{:?}", given);
                prop_assert!(*given < rules.grace);
                prop_assert!(now >= by, "before it was necessary");
            }
            _ => prop_assert_eq!(&without, &with),
        }
        if let Decision::Later(due) = with {
            prop_assert!(due > at(now));
        }
    }
}

#[test]
fn without_a_deadline_nothing_is_cut() {
    assert_eq!(wedged().free_by, None);
    assert_eq!(
        decide(&wedged(), &rules(120_000), at(120_999)),
        Decision::Later(at(121_000))
    );
}
