//! Tables of what other rules make of recorded incidents.

use std::time::Duration;

use super::*;
use crate::pipeline::NsPid;
use crate::pipeline::event::{Awaited, WaitOptions};
use crate::pipeline::ids::PidKey;
use crate::pipeline::policy::{Condition, Place};
use crate::pipeline::record::EngineInForce;
use crate::pipeline::story::{Act, End, Hold, Look, Told};

const MS: u64 = 1_000_000;
/// The agent looks this much later than it meant to.
const LATE: u64 = 200_000;

fn at(ms: u64) -> Mono {
    Mono(ms * MS)
}

/// When the agent looks that meant to look at that time.
fn looked(ms: u64) -> Mono {
    Mono(ms * MS + LATE)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn rules(mode: Mode, grace: u64) -> InForce {
    InForce {
        mode,
        stall_after: ms(100),
        engine: Some(EngineInForce {
            grace: ms(grace),
            unknown_grace: ms(10_000),
            untold_grace: None,
            through_wrapper: false,
            max_kills: 20,
            max_kills_per: ms(600_000),
        }),
        pause: ms(1000),
        node_kills: 200,
        node_kills_per: ms(60_000),
    }
}

/// Rules for all incidents; an engine is what is called so.
struct Rules(InForce, &'static str);

impl Alternative for Rules {
    fn policy(&self, _: &Incident, _: Option<&EpisodeStory>) -> Option<InForce> {
        Some(self.0)
    }

    fn engine(&self, _: &Incident, child: &Child) -> Option<bool> {
        Some(child.exe == self.1)
    }
}

fn child() -> Child {
    Child {
        pid: Pid(20),
        start_ns: 5,
        ns_pid: Some(NsPid(7)),
        group: None,
        exe: "engine".into(),
        engine: Some(true),
        place: Place::Same,
        condition: Condition::Free,
        told_unseen: false,
        below: Vec::new(),
    }
}

fn look(asked: u64) -> Look {
    let at = Mono(asked * MS + LATE);
    Look {
        asked: Mono(asked * MS),
        at,
        until: at,
        until_asked: Mono(asked * MS),
        unread: false,
        options: WaitOptions::default(),
        left: false,
        own_group: None,
        loop_thread: true,
        loop_condition: Condition::Free,
        children: vec![child()],
        children_left_out: 0,
        held: false,
        held_until: None,
        throttled: Duration::ZERO,
        free_by: None,
        ends_by: None,
        other_enforcer: false,
        no_pid_namespace: false,
    }
}

/// From second `start` on in `wait4(7)`, told to end before, with looks at the beginning and when the grace was over.
fn story(start: u64, settings: InForce) -> EpisodeStory {
    let process = PidKey {
        pid: Pid(10),
        start_ns: 1,
    };
    let grace = settings.engine.map_or(0, |engine| engine.grace.as_millis());
    let grace = u64::try_from(grace).unwrap();
    let begin = at(start);
    EpisodeStory {
        looks: vec![look(start), look(start + grace)],
        told: vec![Told {
            pid: Pid(20),
            at: at(start - 10),
            signal: Some(2),
        }],
        ..EpisodeStory::new(process, (begin, begin), Awaited::Process(7), settings)
    }
}

fn incident(number: u64, end: Mono, story: EpisodeStory) -> Incident {
    Incident {
        id: format!("{number:026}"),
        began: Stamp(1_700_000_000_000_000 + story.start.0 / 1000),
        pid: Pid(10),
        target: "t".into(),
        exe: "python3".into(),
        cause: CauseKind::ChildWait,
        since: story.start,
        end,
        ended_by: EndedBy::Poll,
        is_lower_bound: false,
        settings: story.settings,
        episodes: vec![story],
        unreplayable: None,
    }
}

fn act(at: Mono, outcome: Done) -> Act {
    Act {
        at,
        child: Pid(20),
        signal: Signal::Kill,
        outcome,
        refused_by: None,
    }
}

/// Killed after a grace of 500 ms: the child ended 1 ms later, the loop polled 2 ms after that.
fn killed(number: u64, start: u64) -> Incident {
    let mut story = story(start, rules(Mode::Enforce, 500));
    let sent = Mono(at(start + 500).0 + LATE);
    story
        .acts
        .push(act(sent.plus(Duration::from_micros(50)), Done::Sent));
    story.ends.push(End {
        pid: Pid(20),
        at: sent.plus(ms(1)),
        status: Some(9),
    });
    story.over = Some(sent.plus(ms(1)));
    incident(number, sent.plus(ms(3)), story)
}

/// Only observed: the child ended by itself after 3 s.
fn observed(number: u64, start: u64) -> Incident {
    let mut story = story(start, rules(Mode::Observe, 500));
    let said = Mono(at(start + 500).0 + LATE);
    story.acts.push(act(said, Done::WouldSend));
    story.ends.push(End {
        pid: Pid(20),
        at: at(start + 3000),
        status: Some(0),
    });
    story.over = Some(at(start + 3000));
    incident(number, at(start + 3002), story)
}

fn new_of(report: &Report, index: usize) -> &Side {
    report.incidents[index].new.as_ref().unwrap()
}

fn outcomes(side: &Side) -> Vec<(Done, Option<Refusal>)> {
    let actions = side.actions.iter();
    actions
        .map(|action| (action.outcome, action.refused_by))
        .collect()
}

#[test]
fn the_recorded_rules_give_what_was_recorded() {
    let incidents = [killed(1, 1000), observed(2, 60_000), killed(3, 90_000)];
    let report = replay(&incidents, &AsRecorded);
    assert_eq!((report.check.same, report.check.of), (3, 3));
    assert!(report.check.largest_shift <= Duration::from_micros(50));
    for replayed in &report.incidents {
        let new = replayed.new.as_ref().unwrap();
        assert_eq!(outcomes(new), outcomes(&replayed.old));
        assert_eq!(new.blocked, replayed.old.blocked);
    }
}

#[test]
fn the_check_fails_where_the_record_says_otherwise() {
    let mut odd = killed(1, 1000);
    odd.episodes[0].acts[0].outcome = Done::WouldSend;
    let report = replay(&[odd], &AsRecorded);
    assert_eq!((report.check.same, report.check.of), (0, 1));
    assert_eq!(report.check.differing.len(), 1);
}

/// A refusal that the replay does not come to, because its looks fall elsewhere.
fn refused_for_no_child(at: Mono) -> Incident {
    let mut incident = observed(1, 1000);
    let mut refused = act(at, Done::Refused);
    refused.refused_by = Some(Refusal::NotChild);
    incident.episodes[0].acts.push(refused);
    incident
}

#[test]
fn the_check_leaves_out_looks_between_the_end_of_the_child_and_that_of_the_wait() {
    let report = replay(&[refused_for_no_child(at(4001))], &AsRecorded);
    assert_eq!((report.check.same, report.check.of), (1, 1));
    let report = replay(&[refused_for_no_child(at(3500))], &AsRecorded);
    assert_eq!((report.check.same, report.check.of), (0, 1));
}

#[test]
fn a_shorter_grace_frees_the_loop_sooner_by_the_difference() {
    let report = replay(
        &[killed(1, 1000)],
        &Rules(rules(Mode::Enforce, 100), "engine"),
    );
    let new = new_of(&report, 0);
    assert_eq!(outcomes(new), [(Done::Sent, None)]);
    assert_eq!(new.actions[0].at, looked(1100));
    // 1 ms to its end and 2 to the poll, as recorded.
    assert_eq!(
        new.blocked,
        Blocked::exactly(ms(103) + Duration::from_nanos(LATE))
    );
}

#[test]
fn a_longer_grace_leads_beyond_the_record() {
    let report = replay(
        &[killed(1, 1000)],
        &Rules(rules(Mode::Enforce, 2000), "engine"),
    );
    let new = new_of(&report, 0);
    assert_eq!(new.actions[0].at, looked(3000));
    // Until our kill it had not ended; after that it may have, or our later kill would have ended it.
    let old = Duration::from_nanos(500 * MS + LATE);
    assert_eq!(new.blocked.at_least, old + ms(2));
    assert_eq!(
        new.blocked.at_most,
        Some(ms(2003) + Duration::from_nanos(LATE))
    );
}

#[test]
fn without_a_kill_nobody_knows_how_long_it_would_have_lasted() {
    let table = [
        (rules(Mode::Observe, 500), "engine", (Done::WouldSend, None)),
        (
            rules(Mode::Enforce, 500),
            "other",
            (Done::Refused, Some(Refusal::NotEngine)),
        ),
    ];
    for (rules, engine, expected) in table {
        let report = replay(&[killed(1, 1000)], &Rules(rules, engine));
        let new = new_of(&report, 0);
        assert_eq!(outcomes(new), [expected]);
        assert_eq!(new.blocked.at_most, None);
        assert!(new.blocked.at_least >= ms(500) && new.blocked.at_least < ms(503));
    }
    let none = InForce {
        engine: None,
        ..rules(Mode::Enforce, 500)
    };
    let report = replay(&[killed(1, 1000)], &Rules(none, "engine"));
    assert_eq!(new_of(&report, 0).actions, []);
    assert_eq!(new_of(&report, 0).blocked.at_most, None);
}

#[test]
fn enforcing_what_was_observed_saves_the_rest_of_the_wait() {
    let tried = Rules(rules(Mode::Enforce, 500), "engine");
    let alone = replay(&[observed(1, 1000)], &tried);
    let new = new_of(&alone, 0);
    assert_eq!(outcomes(new), [(Done::Sent, None)]);
    // Nothing was killed, so the time to its end is assumed; what the loop did after it is recorded.
    assert_eq!(new.blocked.basis, Basis::Assumed);
    let sent = Duration::from_nanos(500 * MS + LATE);
    assert_eq!(new.blocked.at_least, sent + ms(5) + ms(2));

    let beside = replay(&[observed(1, 1000), killed(2, 60_000)], &tried);
    let new = new_of(&beside, 0);
    assert_eq!(new.blocked.basis, Basis::Measured);
    assert_eq!(new.blocked.at_least, sent + ms(1) + ms(2));
    assert_eq!(beside.lags.exit.measured, 1);
}

#[test]
fn a_grace_that_outlasts_the_child_changes_nothing() {
    let report = replay(
        &[observed(1, 1000)],
        &Rules(rules(Mode::Enforce, 5000), "engine"),
    );
    let new = new_of(&report, 0);
    assert_eq!(new.actions, []);
    assert_eq!(new.blocked, report.incidents[0].old.blocked);
}

#[test]
fn who_was_told_later_gets_the_grace_from_then() {
    let mut late = observed(1, 1000);
    late.episodes[0].told[0].at = at(1250);
    let report = replay(&[late], &Rules(rules(Mode::Enforce, 200), "engine"));
    let new = new_of(&report, 0);
    // Untold when 200 ms were over: said; told later: ended 200 ms after that.
    assert_eq!(
        outcomes(new),
        [
            (Done::Refused, Some(Refusal::NotToldToEnd)),
            (Done::Sent, None)
        ]
    );
    let sent = new.actions[1].at;
    assert!(sent >= at(1450) && sent < at(1510), "{sent:?}");
}

#[test]
fn an_unknown_grace_asks_first_and_says_what_that_may_do() {
    let mut old = observed(1, 1000);
    let story = &mut old.episodes[0];
    story.older_than_agent = true;
    story.told.clear();
    story.acts.clear();
    let mut tried = rules(Mode::Enforce, 500);
    tried.engine.as_mut().unwrap().unknown_grace = ms(1000);
    let report = replay(&[old], &Rules(tried, "engine"));
    let new = new_of(&report, 0);
    let signals: Vec<Signal> = new.actions.iter().map(|action| action.signal).collect();
    assert_eq!(signals, [Signal::Term, Signal::Kill]);
    // SIGTERM may have been enough: 1000 ms, or not: 1500 ms; and 7 ms to the poll.
    let late = Duration::from_nanos(LATE);
    assert_eq!(new.blocked.at_least, ms(1007) + late);
    assert_eq!(new.blocked.at_most, Some(ms(1507) + 2 * late));
}

#[test]
fn untold_grace_asks_where_nobody_told() {
    let mut untold = observed(1, 1000);
    untold.episodes[0].told.clear();
    untold.episodes[0].acts.clear();
    let mut tried = rules(Mode::Enforce, 500);
    tried.engine.as_mut().unwrap().untold_grace = Some(ms(2000));
    let report = replay(&[untold], &Rules(tried, "engine"));
    assert_eq!(new_of(&report, 0).actions[0].at, looked(3000));
    assert_eq!(new_of(&report, 0).actions[0].signal, Signal::Term);
}

#[test]
fn time_in_which_the_child_was_stopped_does_not_count() {
    let mut stopped = observed(1, 1000);
    stopped.episodes[0].holds.push(Hold {
        pid: Pid(20),
        from: at(1100),
        until: Some(at(1900)),
    });
    let report = replay(&[stopped], &Rules(rules(Mode::Enforce, 200), "engine"));
    let new = new_of(&report, 0);
    assert_eq!(
        outcomes(new),
        [(Done::Refused, Some(Refusal::Frozen)), (Done::Sent, None)]
    );
    let sent = new.actions[1].at;
    assert!(sent >= at(2100) && sent < at(2200), "{sent:?}");
}

#[test]
fn a_traced_child_stays_alone_and_a_target_that_ends_as_well() {
    let mut traced = observed(1, 1000);
    for look in &mut traced.episodes[0].looks {
        look.children[0].condition = Condition::Traced;
    }
    let mut ending = observed(2, 60_000);
    ending.episodes[0].ending.push(at(60_050));
    let report = replay(
        &[traced, ending],
        &Rules(rules(Mode::Enforce, 100), "engine"),
    );
    let refusals = [Refusal::Traced, Refusal::TargetEnding];
    for (index, refusal) in refusals.into_iter().enumerate() {
        let new = new_of(&report, index);
        assert_eq!(outcomes(new), [(Done::Refused, Some(refusal))]);
        assert_eq!(new.blocked, report.incidents[index].old.blocked);
    }
}

#[test]
fn budgets_and_pauses_span_incidents() {
    let both = [observed(1, 1000), observed(2, 5000)];
    let mut few = rules(Mode::Enforce, 500);
    few.engine.as_mut().unwrap().max_kills = 1;
    let report = replay(&both, &Rules(few, "engine"));
    assert_eq!(outcomes(new_of(&report, 0)), [(Done::Sent, None)]);
    assert_eq!(
        outcomes(new_of(&report, 1)),
        [(Done::Refused, Some(Refusal::Budget))]
    );
    let few = InForce {
        node_kills: 1,
        ..rules(Mode::Enforce, 500)
    };
    let report = replay(&both, &Rules(few, "engine"));
    assert_eq!(
        outcomes(new_of(&report, 1)),
        [(Done::Refused, Some(Refusal::Budget))]
    );
    let long = InForce {
        pause: ms(5000),
        ..rules(Mode::Enforce, 500)
    };
    let report = replay(&both, &Rules(long, "engine"));
    // Killed at 1.5 s, so nothing before 6.5 s: late, but before it ended by itself.
    let second = new_of(&report, 1);
    assert_eq!(
        outcomes(second),
        [(Done::Refused, Some(Refusal::Paused)), (Done::Sent, None)]
    );
    assert!(second.actions[1].at >= at(6500));
}

#[test]
fn kills_that_no_incident_tells_of_count_too() {
    let mut spent = observed(1, 1000);
    spent.episodes[0].kills_before = vec![at(100), at(200)];
    let mut few = rules(Mode::Enforce, 500);
    few.engine.as_mut().unwrap().max_kills = 2;
    let report = replay(&[spent], &Rules(few, "engine"));
    assert_eq!(
        outcomes(new_of(&report, 0)),
        [(Done::Refused, Some(Refusal::Budget))]
    );
}

#[test]
fn the_last_check_says_no_again() {
    let mut denied = observed(1, 1000);
    let story = &mut denied.episodes[0];
    story.settings.mode = Mode::Enforce;
    story.acts = vec![Act {
        outcome: Done::Refused,
        refused_by: Some(Refusal::NoPermission),
        ..act(story.looks[1].at, Done::Refused)
    }];
    story.looks[1].until = at(3990);
    let report = replay(&[denied], &AsRecorded);
    assert_eq!((report.check.same, report.check.of), (1, 1));
    assert_eq!(
        outcomes(new_of(&report, 0)),
        [(Done::Refused, Some(Refusal::NoPermission))]
    );
}

#[test]
fn a_wrapper_is_passed_only_where_the_rules_say_so() {
    let mut wrapped = observed(1, 1000);
    for look in &mut wrapped.episodes[0].looks {
        let engine = Child {
            pid: Pid(30),
            ns_pid: None,
            ..child()
        };
        look.children[0].exe = "sh".into();
        look.children[0].engine = Some(false);
        look.children[0].below = vec![engine];
    }
    wrapped.episodes[0].acts.clear();
    let mut tried = rules(Mode::Enforce, 500);
    let report = replay(&[wrapped.clone()], &Rules(tried, "engine"));
    assert_eq!(
        outcomes(new_of(&report, 0)),
        [(Done::Refused, Some(Refusal::WaitsOnWrapper))]
    );
    tried.engine.as_mut().unwrap().through_wrapper = true;
    let report = replay(&[wrapped], &Rules(tried, "engine"));
    assert_eq!(outcomes(new_of(&report, 0)), [(Done::Sent, None)]);
    assert_eq!(new_of(&report, 0).actions[0].child, Pid(30));
}

#[test]
fn other_stalls_stay_as_they_are_but_for_what_counts_as_one() {
    let mut busy = observed(1, 1000);
    busy.cause = CauseKind::CpuBusy;
    busy.episodes.clear();
    busy.end = at(1150);
    let tried = InForce {
        stall_after: ms(200),
        ..rules(Mode::Enforce, 500)
    };
    let report = replay(&[busy.clone()], &Rules(tried, "engine"));
    assert!(!new_of(&report, 0).reported);
    assert_eq!(new_of(&report, 0).blocked, Blocked::exactly(ms(150)));
    let report = replay(&[busy], &Rules(rules(Mode::Enforce, 500), "engine"));
    assert!(new_of(&report, 0).reported);
}

#[test]
fn what_cannot_be_replayed_says_why_and_does_not_count() {
    let mut old = killed(1, 1000);
    old.unreplayable = Some("older".into());
    let report = replay(&[old, killed(2, 60_000)], &AsRecorded);
    assert_eq!(report.incidents[0].new, None);
    assert_eq!(report.incidents[0].notes, ["older"]);
    let (before, after) = Totals::of(&report.incidents);
    assert_eq!((before.stalls, after.stalls), (1, 1));
    assert_eq!(report.check.of, 1);
}

#[test]
fn a_process_that_ended_would_have_come_back() {
    let mut ended = observed(1, 1000);
    ended.ended_by = EndedBy::Exit;
    ended.episodes[0].ends.clear();
    ended.episodes[0].over = None;
    let report = replay(&[ended], &Rules(rules(Mode::Enforce, 500), "engine"));
    assert_eq!(report.incidents[0].old.blocked.at_most, None);
    let sent = Duration::from_nanos(500 * MS + LATE);
    assert_eq!(new_of(&report, 0).blocked.at_most, Some(sent + ms(10)));
}
