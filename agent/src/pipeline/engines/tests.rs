use super::*;
use crate::pipeline::PidKey;
use crate::pipeline::event::{Connects, Listener, Peer, Place};
use crate::pipeline::ids::IncidentId;

const LOOP: Pid = Pid(7);
const ID: IncidentId = IncidentId(9);
const V4: Place = Place {
    v6: false,
    word: 0x0100_007f,
};
const V6: Place = Place {
    v6: true,
    word: 0x0100_0000,
};

fn ms(at: u64) -> Mono {
    Mono(at * 1_000_000)
}

fn key(pid: u32) -> PidKey {
    PidKey {
        pid: Pid(pid),
        start_ns: u64::from(pid) * 1000 + 1,
    }
}

fn port(port: u16) -> Listener {
    Listener { netns: 1, port }
}

fn birth(pid: u32, at: u64) -> Birth {
    Birth {
        key: key(pid),
        exe: "engine".into(),
        spawned: Some(ms(at)),
        seen: ms(at),
    }
}

fn listens(at: u64, number: u16) -> Listens {
    Listens {
        at: ms(at),
        port: port(number),
        place: Some(V4),
        exact: true,
    }
}

fn ending(at: u64, why: Why, status: i32) -> Ending {
    Ending {
        at: ms(at),
        why,
        status: Some(status),
    }
}

/// So many refused and completed connections, the first of the refused at one moment and the last of all at another.
fn count(
    number: u16,
    place: Place,
    (refused, ok): (u64, u64),
    (first, last): (u64, u64),
) -> Connects {
    Connects {
        pid: LOOP,
        peer: Peer {
            port: port(number),
            place,
        },
        ok,
        refused,
        first_refused: (refused > 0).then(|| ms(first)),
        last: ms(last),
    }
}

fn engines() -> Engines {
    Engines::new(ms(0), true, true)
}

/// Who accepts on its port from that moment on.
fn running(pid: u32, at: u64, number: u16) -> Engines {
    let mut engines = engines();
    engines.born(birth(pid, at));
    engines.listens(key(pid), listens(at + 10, number), ID);
    engines.accepts(key(pid), ms(at + 20), true);
    engines
}

fn names(news: &[News]) -> Vec<String> {
    let name = |news: &News| match &news.what {
        EngineNews::Spawned(engine) => format!("spawned {}", engine.generation),
        EngineNews::Found(engine) => format!("found {}", engine.generation),
        EngineNews::Listening { after, refused, .. } => {
            format!(
                "listening {:?} {refused:?}",
                after.map(|after| after.as_millis())
            )
        }
        EngineNews::Accepting { after, .. } => {
            format!("accepting {:?}", after.map(|after| after.as_millis()))
        }
        EngineNews::Ended { why, status, .. } => format!("{} {status:?}", why.name()),
        EngineNews::Zombies { count, oldest } => format!("{count} zombies {oldest:?}"),
        EngineNews::Ready(ready) => ready.name().to_owned(),
        EngineNews::Connects { ok, refused } => format!("{ok} ok {refused} refused"),
        EngineNews::Recovered { after } => format!("recovered {}", after.as_millis()),
        EngineNews::StartupRace(race) => format!(
            "race of {} in {} ms at {:?}",
            race.refused,
            race.lasted.as_millis(),
            race.port
        ),
    };
    news.iter().map(name).collect()
}

#[test]
fn an_engine_is_told_from_its_start_to_its_end() {
    let mut engines = engines();
    engines.born(birth(8, 100));
    assert_eq!(names(&engines.look(ms(100))), ["starting"]);
    let took = engines.counted(&[count(80, V4, (3, 0), (110, 310))], ms(400));
    assert_eq!(took, None, "nobody's port yet");
    let news = engines.look(ms(400));
    let refused = Some(3);
    let since = ms(100);
    let starting = EngineNews::Ready(EngineReady::Starting { since, refused });
    assert_eq!(news.last().map(|news| &news.what), Some(&starting));
    assert_eq!(engines.look(ms(401)), []);
    let news = engines.listens(key(8), listens(400, 80), ID);
    let expected = ["spawned 1", "listening Some(300) Some(3)", "0 ok 3 refused"];
    assert_eq!(names(&news), expected);
    assert_eq!(news[0].at, ms(100));
    let news = engines.accepts(key(8), ms(450), true);
    assert_eq!(names(&news), ["accepting Some(350)"]);
    assert_eq!(names(&engines.look(ms(451))), ["accepts"]);
    let took = engines.counted(&[count(80, V4, (3, 5), (110, 900))], ms(900));
    assert_eq!(
        names(&took.into_iter().collect::<Vec<_>>()),
        ["5 ok 0 refused"]
    );
    let news = engines.ended(key(8), ending(1000, Why::Crashed, 9), ID);
    assert_eq!(names(&news), ["crashed Some(9)"]);
    assert_eq!(names(&engines.look(ms(1001))), ["starting"]);
}

#[test]
fn a_race_is_what_lasts_longer_than_a_look_whether_it_listens() {
    // Refused since 110 ms; listens then.
    for (listens_at, race) in [
        (1_100, None),
        (1_110, Some("race of 3 in 1000 ms at Some(80)")),
    ] {
        let mut engines = engines();
        engines.born(birth(8, 100));
        engines.counted(&[count(80, V4, (3, 0), (110, 310))], ms(listens_at));
        let news = names(&engines.listens(key(8), listens(listens_at, 80), ID));
        let found = news.iter().find(|news| news.starts_with("race"));
        assert_eq!(found.map(String::as_str), race, "{news:?}");
    }
}

#[test]
fn only_what_was_refused_where_it_listens_counts() {
    let table = [
        ("another address", V4, V6, 0),
        ("its own", V6, V6, 3),
        ("any IPv4", Place { word: 0, ..V4 }, V6, 0),
        ("any at all", Place { word: 0, ..V6 }, V4, 3),
    ];
    for (what, own, asked, expected) in table {
        let mut engines = engines();
        engines.born(birth(8, 100));
        engines.counted(&[count(80, asked, (3, 0), (110, 310))], ms(400));
        let place = Some(own);
        let news = engines.listens(
            key(8),
            Listens {
                place,
                ..listens(400, 80)
            },
            ID,
        );
        let refused = news.iter().find_map(|news| match news.what {
            EngineNews::Listening { refused, .. } => refused,
            _ => None,
        });
        assert_eq!(refused, Some(expected), "{what}");
    }
    // Long before it was started somebody else was meant.
    let mut engines = engines();
    engines.born(birth(8, 100));
    engines.counted(&[count(80, V4, (3, 0), (10, 90))], ms(400));
    let news = engines.listens(key(8), listens(400, 80), ID);
    assert_eq!(names(&news)[1], "listening Some(300) Some(0)");
}

#[test]
fn what_is_refused_between_two_generations_is_the_startup_of_the_second() {
    for (what, second) in [("the same port", 80), ("another port", 81)] {
        let mut engines = running(8, 100, 80);
        engines.counted(&[count(80, V4, (2, 5), (110, 900))], ms(900));
        engines.ended(key(8), ending(1000, Why::Planned, 0), ID);
        engines.born(birth(9, 1100));
        let mut counts = vec![count(80, V4, (2 + 4, 5), (1050, 1200))];
        if second == 81 {
            counts.push(count(81, V4, (3, 0), (1150, 3200)));
        }
        engines.counted(&counts, ms(3300));
        let news = names(&engines.listens(key(9), listens(3300, second), ID));
        let refused = if second == 81 { 7 } else { 4 };
        let race = format!("race of {refused} in 2250 ms at Some({second})");
        assert!(news.contains(&race), "{what}: {news:?}");
        assert!(news.contains(&"spawned 2".to_owned()), "{what}: {news:?}");
    }
}

#[test]
fn two_engines_at_once_are_normal() {
    let mut engines = running(8, 100, 80);
    engines.look(ms(200));
    engines.born(birth(9, 300));
    engines.counted(
        &[
            count(80, V4, (0, 5), (0, 300)),
            count(81, V4, (1, 0), (310, 310)),
        ],
        ms(400),
    );
    let news = names(&engines.listens(key(9), listens(400, 81), ID));
    assert_eq!(news[..2], ["spawned 2", "listening Some(100) Some(1)"]);
    engines.accepts(key(9), ms(410), true);
    assert_eq!(
        names(&engines.look(ms(420))),
        [""; 0],
        "it has accepted all the time"
    );
    let news = engines.ended(key(8), ending(500, Why::Planned, 0), ID);
    assert_eq!(names(&news), ["planned Some(0)"]);
    assert_eq!(names(&engines.look(ms(501))), [""; 0]);
}

#[test]
fn who_is_asked_for_its_version_is_no_generation() {
    let mut engines = engines();
    engines.look(ms(0));
    engines.born(birth(8, 100));
    assert_eq!(names(&engines.look(ms(150))), [""; 0]);
    assert_eq!(engines.ended(key(8), ending(160, Why::Crashed, 0), ID), []);
    // One that fails is one, and so is one that lives.
    engines.born(birth(9, 200));
    let news = names(&engines.ended(key(9), ending(210, Why::Crashed, 256), ID));
    assert_eq!(news, ["spawned 1", "crashed Some(256)"]);
    engines.born(birth(10, 300));
    assert_eq!(engines.due(ms(400)), Some(ms(5300)));
    assert_eq!(names(&engines.look(ms(5300))), ["spawned 2"]);
}

#[test]
fn what_is_refused_in_vain_is_told_when_the_engine_gives_up() {
    let mut engines = engines();
    engines.born(birth(8, 100));
    engines.counted(&[count(80, V4, (99, 0), (110, 9_990))], ms(10_000));
    let news = names(&engines.ended(key(8), ending(10_110, Why::Planned, 2), ID));
    assert!(
        news.contains(&"race of 99 in 10000 ms at None".to_owned()),
        "{news:?}"
    );
    // Its successor on another port is not charged with it.
    engines.born(birth(9, 11_000));
    let news = names(&engines.listens(key(9), listens(11_100, 81), ID));
    assert_eq!(news[1], "listening Some(100) Some(0)");
}

#[test]
fn the_first_engine_that_accepts_after_a_rescue_is_the_recovery() {
    let mut engines = running(8, 100, 80);
    engines.ended(key(8), ending(1000, Why::Killed, 9), ID);
    engines.rescued(ms(1005));
    engines.born(birth(9, 1100));
    engines.listens(key(9), listens(1200, 81), ID);
    let news = names(&engines.accepts(key(9), ms(1255), true));
    assert_eq!(news, ["accepting Some(155)", "recovered 250"]);
    engines.born(birth(10, 1300));
    let news = names(&engines.accepts(key(10), ms(1400), true));
    assert_eq!(news, ["spawned 3", "accepting Some(100)"]);
}

#[test]
fn of_an_engine_that_was_there_before_no_duration_is_told() {
    let mut engines = Engines::new(ms(0), true, false);
    engines.look(ms(0));
    let spawned = None;
    engines.born(Birth {
        spawned,
        ..birth(8, 100)
    });
    let exact = false;
    let news = engines.listens(
        key(8),
        Listens {
            exact,
            place: None,
            ..listens(100, 80)
        },
        ID,
    );
    assert_eq!(names(&news), ["found 1", "listening None Some(0)"]);
    let news = engines.accepts(key(8), ms(100), false);
    assert_eq!(names(&news), ["accepting None"]);
}

#[test]
fn readiness_is_unknown_where_nothing_can_tell() {
    let after = |mut engines: Engines, at: u64| engines.look(ms(at)).pop().map(|news| news.what);
    let is = |found: Option<EngineNews>, name: &str| {
        let Some(EngineNews::Ready(ready)) = &found else {
            panic!("{found:?} instead of {name}");
        };
        assert_eq!(ready.name(), name);
    };
    // No engine at all.
    is(after(engines(), 59_999), "starting");
    is(after(engines(), 60_000), "unknown");
    is(after(Engines::new(ms(0), true, false), 0), "unknown");
    // One that listens where that is not seen.
    let young = || {
        let mut engines = engines();
        engines.born(birth(8, 100));
        engines
    };
    is(after(young(), 60_099), "starting");
    is(after(young(), 60_100), "unknown");
    // Refusals show that one is waited for.
    let refused = || {
        let mut engines = young();
        engines.counted(&[count(80, V4, (3, 0), (110, 310))], ms(400));
        engines
    };
    is(after(refused(), 60_100), "starting");
    is(after(refused(), 600_100), "unknown");
    // It listens, and nobody connects.
    let mut engines = young();
    engines.listens(key(8), listens(400, 80), ID);
    is(after(engines, 60_400), "unknown");
    // One that has accepted and is gone.
    for (why, later) in [
        (Why::Crashed, "starting"),
        (Why::Killed, "starting"),
        (Why::Planned, "unknown"),
    ] {
        let mut engines = running(8, 100, 80);
        engines.ended(key(8), ending(1000, why, 9), ID);
        is(after(engines, 61_000), later);
    }
}

#[test]
fn readiness_says_when_it_is_to_be_looked_at_again() {
    let mut engines = engines();
    assert_eq!(engines.due(ms(0)), Some(ms(60_000)));
    engines.born(birth(8, 100));
    assert_eq!(engines.due(ms(100)), Some(ms(5_100)));
    engines.look(ms(5_100));
    assert_eq!(engines.due(ms(5_100)), Some(ms(60_100)));
    assert_eq!(running(8, 100, 80).due(ms(200)), None);
}

#[test]
fn zombies_are_engines_that_nobody_reaps() {
    let mut engines = running(8, 100, 80);
    let zombie = |pid| Zombie {
        key: key(pid),
        parent: LOOP,
    };
    engines.ended(key(8), ending(1000, Why::Crashed, 9), ID);
    assert_eq!(
        engines.unreaped(&[zombie(8)], ms(5_000)),
        None,
        "it may be reaped yet"
    );
    let news: Vec<News> = engines
        .unreaped(&[zombie(8), zombie(99)], ms(6_001))
        .into_iter()
        .collect();
    assert_eq!(
        names(&news),
        [format!("1 zombies {:?}", Some((Pid(8), LOOP)))]
    );
    assert_eq!(engines.unreaped(&[zombie(8)], ms(7_000)), None, "no news");
    let news: Vec<News> = engines.unreaped(&[], ms(8_000)).into_iter().collect();
    assert_eq!(names(&news), ["0 zombies None"]);
}

#[test]
fn counts_that_begin_anew_are_not_told_twice() {
    let mut engines = running(8, 100, 80);
    let news = engines.counted(&[count(80, V4, (0, 5), (0, 300))], ms(300));
    assert_eq!(
        news.unwrap().what,
        EngineNews::Connects { ok: 5, refused: 0 }
    );
    assert_eq!(
        engines.counted(&[count(80, V4, (0, 5), (0, 300))], ms(301)),
        None
    );
    let news = engines.counted(&[count(80, V4, (1, 2), (400, 400))], ms(400));
    assert_eq!(
        news.unwrap().what,
        EngineNews::Connects { ok: 2, refused: 1 }
    );
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut engines = engines();
    for pid in 1..1000 {
        engines.born(birth(pid, u64::from(pid)));
        engines.listens(key(pid), listens(u64::from(pid), 80), ID);
        engines.ended(key(pid), ending(u64::from(pid), Why::Crashed, 9), ID);
    }
    let counts: Vec<Connects> = (0..2000)
        .map(|number| count(number, V4, (1, 0), (1, 1)))
        .collect();
    engines.counted(&counts, ms(2000));
    let text = format!("{engines:?}");
    assert!(text.len() < 300_000, "{} bytes", text.len());
}
