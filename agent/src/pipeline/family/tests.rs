use super::*;
use crate::pipeline::Tid;

fn event(pid: u32, at: u64, what: What) -> KernelEvent {
    KernelEvent {
        at: Mono(at),
        pid: Pid(pid),
        tid: Tid(pid),
        what,
    }
}

fn family() -> Family {
    let mut family = Family::default();
    family.insert(Process::found(
        PidKey {
            pid: Pid(10),
            start_ns: 1,
        },
        Pid(1),
        0,
        true,
    ));
    let born = What::Forked {
        parent: Pid(10),
        ns_pid: Some(7),
        start_ns: 50,
        watched: true,
    };
    family.apply(&event(20, 50, born));
    family
}

#[test]
fn a_child_is_known_from_birth_with_its_number_in_the_parents_namespace() {
    let family = family();
    let child = family.get(Pid(20)).unwrap();
    assert_eq!(
        (child.parent, child.ns_pid, child.seen_born),
        (Pid(10), Some(7), true)
    );
    assert_eq!(family.children(Pid(10)).len(), 1);
}

#[test]
fn only_the_parent_tells_and_only_the_first_time_counts() {
    let mut family = family();
    family.apply(&event(
        20,
        60,
        What::Signalled {
            sender: Pid(99),
            signal: 15,
        },
    ));
    let child = family.get(Pid(20)).unwrap();
    assert_eq!((child.told, child.ending), (None, Some(Mono(60))));
    let first = child.first_told.unwrap();
    assert_eq!(
        (first.by, first.name(), first.at),
        (Pid(99), "SIGTERM", Mono(60))
    );
    family.apply(&event(
        20,
        70,
        What::Signalled {
            sender: Pid(10),
            signal: 2,
        },
    ));
    family.apply(&event(
        20,
        80,
        What::Signalled {
            sender: Pid(10),
            signal: 15,
        },
    ));
    family.apply(&event(
        20,
        90,
        What::Signalled {
            sender: Pid(10),
            signal: 1,
        },
    ));
    let child = family.get(Pid(20)).unwrap();
    assert_eq!((child.told, child.ending), (Some(Mono(70)), Some(Mono(80))));
}

#[test]
fn time_under_sigstop_is_known() {
    let mut family = family();
    family.apply(&event(
        20,
        60,
        What::Signalled {
            sender: Pid(99),
            signal: 19,
        },
    ));
    let child = family.get(Pid(20)).unwrap();
    assert_eq!(
        (child.stopped, child.stopped_by),
        (Some(Mono(60)), Some(Pid(99)))
    );
    family.apply(&event(
        20,
        90,
        What::Signalled {
            sender: Pid(99),
            signal: 18,
        },
    ));
    let child = family.get(Pid(20)).unwrap();
    assert_eq!((child.stopped, child.held_until), (None, Some(Mono(90))));
}

#[test]
fn a_stop_counts_only_while_it_is_shown() {
    let sent = |family: &mut Family, at, signal| {
        let sender = Pid(99);
        family.apply(&event(20, at, What::Signalled { sender, signal }));
    };
    let of = |family: &Family| {
        let child = family.get(Pid(20)).unwrap();
        (child.stopped, child.stop_shown, child.held_until)
    };
    let mut family = family();
    let second = 1_000_000_000;
    // Ignored: it is given a moment, and forgotten.
    sent(&mut family, 60, 20);
    family.seen_stopped(Pid(20), false, Mono(70));
    assert_eq!(of(&family), (Some(Mono(60)), false, None));
    family.seen_stopped(Pid(20), false, Mono(60 + second));
    assert_eq!(of(&family), (None, false, None));
    // Ignored, and nobody looked before one came that is not.
    let (first, then) = (2 * second, 9 * second);
    sent(&mut family, first, 20);
    sent(&mut family, then, 19);
    family.seen_stopped(Pid(20), true, Mono(then + 5));
    assert_eq!(of(&family), (Some(Mono(then)), true, None));
    // The same again changes nothing, and what let it run went unseen.
    sent(&mut family, then + 9, 20);
    family.seen_stopped(Pid(20), false, Mono(then + 10));
    assert_eq!(of(&family), (None, false, Some(Mono(then + 10))));
}

#[test]
fn an_engine_below_a_wrapper_is_found_and_exec_asks_for_a_new_match() {
    let mut family = family();
    let seat = Seat {
        uid: None,
        container: "of a pod".into(),
    };
    family.get_mut(Pid(20)).unwrap().seat = Some(seat.clone());
    let born = What::Forked {
        parent: Pid(20),
        ns_pid: Some(8),
        start_ns: 60,
        watched: true,
    };
    family.apply(&event(30, 60, born));
    let ran = What::Execed {
        parent: Pid(20),
        start_ns: 60,
        exe: "query-engine-x".into(),
    };
    assert!(family.apply(&event(30, 61, ran)));
    let run = family.get(Pid(30)).unwrap();
    assert_eq!((run.engine, &run.seat), (None, &Some(seat)));
    family.get_mut(Pid(30)).unwrap().engine = Some(true);
    assert_eq!(family.engines_below(Pid(20)).len(), 1);
    family.apply(&event(
        30,
        70,
        What::Exited {
            start_ns: 60,
            status: 9,
        },
    ));
    assert!(family.engines_below(Pid(20)).is_empty());
}
