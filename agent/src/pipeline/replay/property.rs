//! The replay against a model of the agent (`model`), which lives through the same wait under either configuration.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::model::World;
use super::*;
use crate::pipeline::record::EngineInForce;

fn world() -> impl Strategy<Value = World> {
    let told = prop::option::of((-3..15_i64).prop_map(|step| step * 100 + 13));
    let held = (1..12_i64, 3..12_i64).prop_map(|(from, lasts)| {
        let from = from * 100 + 29;
        (from, from + lasts * 100)
    });
    let rare = |percent: f64| prop::bool::weighted(percent);
    let ending = (-3..10_i64).prop_map(|step| step * 100 + 41);
    (
        told,
        prop::option::weighted(0.3, held),
        prop::option::weighted(0.1, ending),
        (3..50_i64).prop_map(|step| step * 100 + 71),
        rare(0.2),
        rare(0.85),
        rare(0.1),
        prop::option::weighted(0.3, hurry()),
    )
        .prop_map(
            |(told, held, ending, end, older, is_engine, traced, hurry)| World {
                told,
                held,
                ending,
                end,
                older,
                is_engine,
                traced,
                hurry,
            },
        )
}

/// The news of a deadline, from the beginning on or later.
fn hurry() -> impl Strategy<Value = (i64, i64)> {
    (0..10_i64, -5..30_i64).prop_map(|(known, by)| {
        let known = if known > 4 { known * 100 + 57 } else { 0 };
        (known, by * 100 + 83)
    })
}

fn rules() -> impl Strategy<Value = InForce> {
    let untold = prop::option::of(1..30_u64);
    (0..15_u64, 1..30_u64, untold).prop_map(|(grace, more, untold)| {
        let plus = |steps: u64| (grace + steps) * 100;
        rules_of(grace * 100, plus(more), untold.map(plus))
    })
}

/// Other rules, with engines as recorded.
struct Other(InForce);

impl Alternative for Other {
    fn policy(&self, _: &Incident, _: Option<&EpisodeStory>) -> Option<InForce> {
        Some(self.0)
    }

    fn engine(&self, _: &Incident, child: &Child) -> Option<bool> {
        child.engine
    }
}

type Word = (Signal, Done, Option<Refusal>, Pid);

fn words(actions: &[Action]) -> Vec<Word> {
    let actions = actions.iter();
    actions
        .map(|action| {
            (
                action.signal,
                action.outcome,
                action.refused_by,
                action.child,
            )
        })
        .collect()
}

/// As many as `PROPTEST_CASES` says, or enough for every day. What fails belongs into a test of its own, not into a file.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(2000),
        max_global_rejects: default.cases.max(2000),
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_recorded_rules_give_what_was_recorded(world in world(), rules in rules(), late in 0..9_u64) {
        check_again(&world, rules, late)?;
    }

    #[test]
    fn other_rules_give_what_living_under_them_gives(
        world in world(),
        recorded in rules(),
        tried in rules(),
        late in 0..9_u64,
    ) {
        compare(world, recorded, tried, late)?;
    }
}

fn check_again(world: &World, rules: InForce, late: u64) -> Result<(), TestCaseError> {
    let incident = world.lived(rules, Duration::from_millis(late));
    // Looks that there was no room for are said so, and then the check is not made.
    prop_assume!(incident.episodes[0].looks_left_out == 0);
    let report = replay(std::slice::from_ref(&incident), &AsRecorded);
    let new = report.incidents[0].new.as_ref().unwrap();
    prop_assert_eq!(
        (report.check.same, report.check.of),
        (1, 1),
        "{:?}\n{:#?}",
        new.actions,
        incident.episodes
    );
    Ok(())
}

fn compare(
    mut world: World,
    recorded: InForce,
    tried: InForce,
    late: u64,
) -> Result<(), TestCaseError> {
    // A record has no look at news that came after the last one that its own rules asked for.
    prop_assume!(world.hurry.is_none_or(|(known, _)| known == 0));
    // While somebody is held, the next look is a grace later, from whenever the last one was.
    let engine = tried.engine.unwrap();
    let longest = engine
        .unknown_grace
        .max(engine.untold_grace.unwrap_or_default());
    let apart = i64::try_from(longest.as_millis()).unwrap() + 120;
    if let Some((_, until)) = world.held {
        world.end += until + 2 * apart;
    }
    // What follows so closely on something else is seen before it or after it by chance.
    let mut moments = vec![world.end];
    moments.extend(world.told);
    moments.extend(world.ending);
    moments.extend(world.held.map(|(from, _)| from));
    moments.extend(world.held.map(|(_, until)| until));
    moments.sort_unstable();
    prop_assume!(moments.windows(2).all(|pair| pair[1] - pair[0] > 120));
    let most = if world.held.is_some() { apart } else { 120 };
    let late = Duration::from_millis(late);
    let incident = world.lived(recorded, late);
    let truth = world.lived(tried, late);
    prop_assume!(incident.episodes[0].looks_left_out == 0);
    let report = replay(&[incident], &Other(tried));
    let new = report.incidents[0].new.as_ref().unwrap();
    let expected = recorded_actions(&truth);
    prop_assert_eq!(
        words(&new.actions),
        words(&expected),
        "{:?}\n{:?}",
        new.actions,
        expected
    );
    for (replayed, lived) in new.actions.iter().zip(&expected) {
        let apart = replayed.at.0.abs_diff(lived.at.0) / 1_000_000;
        // What is looked at every 50 ms is seen that much sooner or later.
        prop_assert!(
            i64::try_from(apart).unwrap() <= most,
            "{:?} {:?}",
            replayed,
            lived
        );
    }
    prop_assert_eq!(&new.blocked, &report.incidents[0].old.blocked);
    Ok(())
}

fn rules_of(grace: u64, unknown_grace: u64, untold_grace: Option<u64>) -> InForce {
    InForce {
        stall_after: Duration::from_millis(100),
        engine: Some(EngineInForce {
            grace: Duration::from_millis(grace),
            unknown_grace: Duration::from_millis(unknown_grace),
            untold_grace: untold_grace.map(Duration::from_millis),
            through_wrapper: false,
            max_kills: 20,
            max_kills_per: Duration::from_mins(10),
        }),
        node_kills: 200,
        node_kills_per: Duration::from_mins(1),
        ..InForce::default()
    }
}

fn free(end: i64) -> World {
    World {
        told: None,
        held: None,
        ending: None,
        end,
        older: false,
        is_engine: true,
        traced: false,
        hurry: None,
    }
}

/// The record has no look after the end of the target began, because its own rules asked for none.
#[test]
fn a_target_that_ends_is_seen_after_the_last_recorded_look() {
    let untold = World {
        told: Some(13),
        ending: Some(641),
        traced: true,
        ..free(771)
    };
    let (recorded, tried) = (rules_of(0, 100, Some(800)), rules_of(0, 100, None));
    compare(untold, recorded, tried, 0).unwrap();
    let unknown = World {
        ending: Some(341),
        older: true,
        traced: true,
        ..free(471)
    };
    let (recorded, tried) = (rules_of(0, 500, None), rules_of(0, 100, None));
    compare(unknown, recorded, tried, 0).unwrap();
}

/// A recorded look a little after the moment asked for does not show that the agent would have been less late than usual:
/// here the few milliseconds decide on what is seen, and with that on the next look a whole grace later.
#[test]
fn the_agent_is_as_late_as_usual_whatever_else_it_looked_at() {
    let told_later = World {
        told: Some(813),
        held: Some((129, 429)),
        ..free(371)
    };
    let (recorded, tried) = (rules_of(300, 400, None), rules_of(200, 300, None));
    compare(told_later, recorded, tried, 4).unwrap();
    let told_while_held = World {
        told: Some(313),
        held: Some((129, 629)),
        ..free(371)
    };
    let (recorded, tried) = (rules_of(600, 700, None), rules_of(300, 400, None));
    compare(told_while_held, recorded, tried, 7).unwrap();
}

/// Of two courses that look every 50 ms one is not the other's: when somebody is stopped next, the looks after that are a whole
/// grace apart, and all of them as far off as the first.
#[test]
fn other_rules_look_at_their_own_moments() {
    let stopped = World {
        told: Some(1213),
        held: Some((329, 1429)),
        ..free(371)
    };
    let (recorded, tried) = (rules_of(0, 100, None), rules_of(200, 300, None));
    compare(stopped, recorded, tried, 7).unwrap();
}

/// The wait ends between the last event and the look that would have come after it.
#[test]
fn the_look_after_the_last_event_is_as_late_as_any() {
    let table = [
        (13, (129, 729), 771, false, rules_of(0, 100, Some(200)), 7),
        (613, (629, 1729), 1771, false, rules_of(0, 100, None), 7),
        (
            13,
            (929, 1429),
            1471,
            false,
            rules_of(0, 100, Some(1300)),
            6,
        ),
        (13, (1129, 1629), 1671, true, rules_of(0, 1200, None), 8),
    ];
    for (told, held, end, older, rules, late) in table {
        let world = World {
            told: Some(told),
            held: Some(held),
            older,
            ..free(end)
        };
        check_again(&world, rules, late).unwrap();
    }
}
