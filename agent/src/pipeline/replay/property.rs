//! The replay against a model of the agent that lives through the same wait under either configuration.
//!
//! The model does what `rescue/` does: looks when the policy asks for it and a little late, gathers facts from what the
//! kernel has told so far, and writes the story. It only observes, so that the rest of the wait is known.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::pipeline::NsPid;
use crate::pipeline::event::{Awaited, WaitOptions};
use crate::pipeline::family::Process;
use crate::pipeline::ids::PidKey;
use crate::pipeline::policy::{ChildFacts, Condition, Decision, Guards, Place, WaitFacts, decide};
use crate::pipeline::record::EngineInForce;
use crate::pipeline::story::{Act, Look};

const START: Mono = Mono(100_000_000_000);
const LOOP: Pid = Pid(10);
const CHILD: PidKey = PidKey {
    pid: Pid(20),
    start_ns: 5,
};

/// What happens in one wait, in milliseconds after its start. Offsets differ from kind to kind, so that nothing coincides.
#[derive(Debug, Clone)]
struct World {
    told: Option<i64>,
    held: Option<(i64, i64)>,
    ending: Option<i64>,
    end: i64,
    older: bool,
    is_engine: bool,
    traced: bool,
}

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
    )
        .prop_map(
            |(told, held, ending, end, older, is_engine, traced)| World {
                told,
                held,
                ending,
                end,
                older,
                is_engine,
                traced,
            },
        )
}

fn rules() -> impl Strategy<Value = InForce> {
    let untold = prop::option::of(1..30_u64);
    (0..15_u64, 1..30_u64, untold).prop_map(|(grace, more, untold)| {
        let grace = Duration::from_millis(grace * 100);
        let plus = |steps: u64| grace + Duration::from_millis(steps * 100);
        InForce {
            stall_after: Duration::from_millis(100),
            engine: Some(EngineInForce {
                grace,
                unknown_grace: plus(more),
                untold_grace: untold.map(plus),
                through_wrapper: false,
                max_kills: 20,
                max_kills_per: Duration::from_mins(10),
            }),
            node_kills: 200,
            node_kills_per: Duration::from_mins(1),
            ..InForce::default()
        }
    })
}

fn moment(ms: i64) -> Mono {
    let ns = i64::try_from(START.0).unwrap() + ms * 1_000_000;
    Mono(u64::try_from(ns).unwrap())
}

impl World {
    /// What the kernel has told of the child by then.
    fn child(&self, now: Mono) -> Process {
        let past = |ms: i64| Some(moment(ms)).filter(|at| *at <= now);
        let mut child = Process::found(CHILD, LOOP, 0, false);
        child.told = self.told.and_then(past);
        if let Some((from, until)) = self.held {
            child.stopped = past(from);
            if let Some(until) = past(until) {
                child.held_from = child.stopped.take();
                child.held_until = Some(until);
            }
        }
        child
    }

    fn parent(&self, now: Mono) -> Process {
        let key = PidKey {
            pid: LOOP,
            start_ns: 1,
        };
        let mut parent = Process::found(key, Pid(1), 0, true);
        parent.ending = self.ending.map(moment).filter(|at| *at <= now);
        parent
    }

    fn facts(&self, now: Mono, held_until: Option<Mono>, termed: Option<Mono>) -> WaitFacts {
        let child = self.child(now);
        let condition = match child.stopped {
            _ if self.traced => Condition::Traced,
            Some(_) => Condition::Held,
            None => Condition::Free,
        };
        WaitFacts {
            start: START,
            first_seen: START,
            older_than_agent: self.older,
            awaited: Awaited::Process(7),
            options: WaitOptions::default(),
            pidfd_child: None,
            own_group: None,
            loop_thread: true,
            loop_condition: Condition::Free,
            target_ending: self.parent(now).ending,
            children: vec![ChildFacts {
                key: CHILD,
                ns_pid: Some(NsPid(7)),
                group: None,
                exe: "engine".into(),
                engine: Some(self.is_engine),
                told: child.told,
                seen_born: true,
                told_unseen: false,
                state: "",
                place: Place::Same,
                condition,
                engines_below: Vec::new(),
            }],
            held_until,
            throttled: Duration::ZERO,
            termed,
            guards: Guards::default(),
        }
    }

    /// What the agent would write down, with looks that are late by that much.
    fn lived(&self, settings: InForce, late: Duration) -> Incident {
        let process = PidKey {
            pid: LOOP,
            start_ns: 1,
        };
        let mut story = EpisodeStory {
            older_than_agent: self.older,
            ..EpisodeStory::new(process, (START, START), Awaited::Process(7), settings)
        };
        let rules = settings.engine.unwrap().rules();
        let (mut next, mut was_held, mut held_until, mut termed) = (Some(START), false, None, None);
        let mut said = std::collections::BTreeSet::new();
        while let Some(asked) = next {
            let now = asked.plus(late);
            if now >= moment(self.end) {
                break;
            }
            let child = self.child(now);
            let held = child.stopped.is_some();
            held_until = held_until.max(child.held_until);
            if held || was_held {
                held_until = Some(now);
            }
            was_held = held;
            let facts = self.facts(now, held_until, termed);
            story.look(Look::of(&facts, held, (asked, now)));
            story.hear(&child);
            story.hear(&self.parent(now));
            let mut act = |signal, outcome, child, refused_by| {
                story.acted(Act {
                    at: now,
                    child,
                    signal,
                    outcome,
                    refused_by,
                });
            };
            next = match decide(&facts, &rules, now) {
                Decision::Leave => None,
                Decision::Later(at) => Some(at),
                Decision::Refuse {
                    child,
                    signal,
                    refusal,
                    again,
                    ..
                } => {
                    if said.insert(refusal) {
                        let child = child.unwrap_or(Pid(0));
                        act(signal, Done::Refused, child, Some(refusal));
                    }
                    again
                }
                Decision::Strike { child, signal, .. } => {
                    act(signal, Done::WouldSend, child.pid, None);
                    termed = Some(now);
                    let soon = rules.grace.min(Duration::from_millis(50));
                    (signal == Signal::Term).then(|| now.plus(soon))
                }
            };
        }
        let over = moment(self.end);
        story.hear(&self.child(over));
        story.hear(&self.parent(over));
        story.ended(CHILD.pid, over, Some(0));
        story.over = Some(over);
        let story_end = over.plus(Duration::from_millis(1));
        Incident {
            id: "1".into(),
            began: Stamp(1_700_000_000_000_000),
            pid: LOOP,
            target: "t".into(),
            exe: "python3".into(),
            cause: CauseKind::ChildWait,
            since: START,
            end: story_end,
            ended_by: EndedBy::Poll,
            is_lower_bound: false,
            settings,
            episodes: vec![story],
            unreplayable: None,
        }
    }
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

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        max_global_rejects: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_recorded_rules_give_what_was_recorded(world in world(), rules in rules(), late in 0..9_u64) {
        let incident = world.lived(rules, Duration::from_millis(late));
        // Looks that there was no room for are said so, and then the check is not made.
        prop_assume!(incident.episodes[0].looks_left_out == 0);
        let report = replay(std::slice::from_ref(&incident), &AsRecorded);
        let new = report.incidents[0].new.as_ref().unwrap();
        prop_assert_eq!((report.check.same, report.check.of), (1, 1), "{:?}\n{:#?}", new.actions, incident.episodes);
    }

    #[test]
    fn other_rules_give_what_living_under_them_gives(
        mut world in world(),
        recorded in rules(),
        tried in rules(),
        late in 0..9_u64,
    ) {
        // While somebody is held, the next look is a grace later, from whenever the last one was.
        let engine = tried.engine.unwrap();
        let longest = engine.unknown_grace.max(engine.untold_grace.unwrap_or_default());
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
        prop_assert_eq!(words(&new.actions), words(&expected), "{:?}\n{:?}", new.actions, expected);
        for (replayed, lived) in new.actions.iter().zip(&expected) {
            let apart = replayed.at.0.abs_diff(lived.at.0) / 1_000_000;
            // What is looked at every 50 ms is seen that much sooner or later.
            prop_assert!(i64::try_from(apart).unwrap() <= most, "{:?} {:?}", replayed, lived);
        }
        prop_assert_eq!(&new.blocked, &report.incidents[0].old.blocked);
    }
}
