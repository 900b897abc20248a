//! What a story keeps, and that it stays small.

use super::*;
use crate::pipeline::notice::Mode;
use crate::pipeline::notice::Signal;
use crate::pipeline::story::Done;

fn story() -> EpisodeStory {
    let process = PidKey {
        pid: Pid(10),
        start_ns: 1,
    };
    let settings = InForce {
        mode: Mode::Enforce,
        ..InForce::default()
    };
    EpisodeStory::new(process, (Mono(5), Mono(5)), Awaited::Process(7), settings)
}

fn look(at: u64, held: bool) -> Look {
    Look {
        held,
        held_until: held.then_some(Mono(at)),
        ..Look::glance(&[], WaitOptions::default(), Mono(at))
    }
}

#[test]
fn looks_that_find_the_same_are_one() {
    let mut story = story();
    for at in 10..20 {
        story.look(look(at, true));
    }
    story.look(look(30, false));
    assert_eq!(story.looks.len(), 2);
    let first = &story.looks[0];
    assert_eq!(
        (first.at, first.until, first.held_until),
        (Mono(10), Mono(19), Some(Mono(19)))
    );
}

#[test]
fn a_story_is_bounded_and_keeps_its_end() {
    let mut story = story();
    for at in 0..1000 {
        story.look(look(at, at % 2 == 0));
        story.hold(Hold {
            pid: Pid(20),
            from: Mono(at),
            until: None,
        });
        story.acted(Act {
            at: Mono(at),
            child: Pid(20),
            signal: Signal::Kill,
            outcome: Done::Failed,
            refused_by: None,
        });
    }
    assert_eq!(story.looks.len(), MOST_LOOKS);
    assert_eq!(story.looks.last().unwrap().at, Mono(999));
    assert!(story.looks_left_out > 900);
    assert_eq!((story.holds.len(), story.acts.len()), (MOST, MOST));
}

#[test]
fn a_story_is_read_as_it_was_written() {
    let mut story = story();
    story.look(look(10, true));
    story.pidfd_child = Some(Pid(20));
    story.over = Some(Mono(50));
    let text = serde_json::to_string(&story).unwrap();
    assert_eq!(serde_json::from_str::<EpisodeStory>(&text).unwrap(), story);
}
