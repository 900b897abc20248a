//! Processes that lie about themselves, and helpers that hang or lie.

use std::process::Command;
use std::time::Duration;

use crate::support::{LIMIT, PYTHON, Script, ask, helper, request, script, signal, stack};
use loopwarden::evidence::helper::{Failure, Helper, Outcome};
use rustix::process::Signal;

fn hostile(how: &str) -> Script {
    let mut command = Command::new(PYTHON);
    Script::start(command.arg(script("hostile.py")).arg(how))
}

#[test]
fn made_up_structures_are_an_error() {
    let mut helper = helper();
    let expected = [
        ("thread_ring", "no end of the list of threads"),
        ("thread_elsewhere", "no thread state"),
        ("interpreter_ring", "no end of the list of interpreters"),
        ("interpreter_elsewhere", "no memory"),
        ("frame_elsewhere", "no memory"),
        ("frame_in_the_kernel", "no memory"),
        ("frame_unmapped", "failed: Input/output error"),
        ("code_elsewhere", "no code object"),
        ("long_table", "no line table"),
        ("trap", "failed: Input/output error"),
    ];
    for (how, part) in expected {
        let script = hostile(how);
        let Outcome::Failed { why } = ask(&mut helper, script.pid()) else {
            panic!("{how} gave a stack");
        };
        assert!(why.contains(part), "{how}: {why}");
    }
    assert_eq!(helper.started(), 1, "none of them costs the helper");
}

#[test]
fn made_up_chains_and_names_are_bounded_and_harmless() {
    let mut helper = helper();
    for how in ["nothing", "frame_ring", "long_name", "control_characters"] {
        let script = hostile(how);
        let Outcome::Found(found) = ask(&mut helper, script.pid()) else {
            panic!("{how} gave no stack");
        };
        assert_eq!(found.cut.is_some(), how == "frame_ring");
        assert!(found.stack.frames.len() <= 128);
        let name =
            |text: &String| text.chars().count() <= 513 && !text.chars().any(char::is_control);
        for frame in &found.stack.frames {
            assert!(
                name(&frame.function) && frame.file.as_ref().is_some_and(name),
                "{frame:?}"
            );
        }
        if how == "control_characters" {
            let outermost = found.stack.frames.last().unwrap();
            assert_eq!(
                outermost
                    .function
                    .chars()
                    .filter(|c| *c == '\u{fffd}')
                    .count(),
                5
            );
        }
    }
    assert_eq!(helper.started(), 1);
}

#[test]
fn a_stack_that_changes_all_the_time_is_right_as_far_as_it_goes() {
    let mut helper = helper();
    let script = Script::stall("churn");
    let mut shown = 0;
    for _ in 0..300 {
        let Outcome::Found(found) = ask(&mut helper, script.pid()) else {
            continue;
        };
        shown += 1;
        // Each function only ever calls the next one: whatever was mixed from two moments would break the order.
        let order = ["<module>", "run", "task", "Stalls.churn", "odd", "even"];
        let frames = &found.stack.frames;
        assert_eq!(frames.last().unwrap().function, order[0], "{frames:?}");
        let ours: Vec<_> = frames
            .iter()
            .rev()
            .map(|frame| frame.function.as_str())
            .filter(|name| order[3..].contains(name))
            .collect();
        for (number, pair) in ours.windows(2).enumerate() {
            let expected = if number % 2 == 0 { "odd" } else { "even" };
            assert_eq!(pair[1], expected, "{ours:?}");
        }
    }
    assert!(shown > 0, "never a stack");
    assert_eq!(helper.started(), 1);
}

#[test]
fn a_helper_that_hangs_is_killed_at_its_limit_and_replaced() {
    let script = Script::stall("sleep");
    let mut helper = helper();
    assert!(matches!(ask(&mut helper, script.pid()), Outcome::Found(_)));
    let first = helper.id().unwrap();
    signal(first, Signal::STOP);
    let request = request(script.pid(), stack(script.pid()));
    let failure = helper.ask(&request, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(failure, Failure::Late(_)), "{failure}");
    assert!(matches!(
        helper.ask(&request, LIMIT).unwrap().outcome,
        Outcome::Found(_)
    ));
    assert_eq!(helper.started(), 2);
    assert_ne!(helper.id(), Some(first));
    // It is gone for good: reaped at one of the next requests, which never wait for it.
    let mut asked = 0;
    while std::path::Path::new(&format!("/proc/{first}")).exists() {
        helper.ask(&request, LIMIT).unwrap();
        asked += 1;
        assert!(asked < 100_000, "the first helper was never reaped");
    }
}

#[test]
fn a_helper_that_ends_is_replaced() {
    let script = Script::stall("sleep");
    let mut helper = helper();
    let request = request(script.pid(), stack(script.pid()));
    helper.ask(&request, LIMIT).unwrap();
    signal(helper.id().unwrap(), Signal::KILL);
    let failure = helper.ask(&request, LIMIT).unwrap_err();
    assert!(
        matches!(failure, Failure::Ended | Failure::Pipe(_)),
        "{failure}"
    );
    assert!(matches!(
        helper.ask(&request, LIMIT).unwrap().outcome,
        Outcome::Found(_)
    ));
}

#[test]
fn a_helper_that_lies_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::stall("sleep");
    let request = request(script.pid(), stack(script.pid()));
    for what in ["no_json", "another_answer", "endless"] {
        let program = folder.path().join(what);
        // A link: a program that was just written may still be open for writing in a child of another test.
        std::os::unix::fs::symlink(crate::support::script("liar.sh"), &program).unwrap();
        let failure = Helper::of(&program).ask(&request, LIMIT).unwrap_err();
        assert!(
            matches!(failure, Failure::Malformed(_)),
            "{what}: {failure}"
        );
    }
    let failure = Helper::of(&folder.path().join("absent"))
        .ask(&request, LIMIT)
        .unwrap_err();
    assert!(matches!(failure, Failure::Start { .. }), "{failure}");
}

#[test]
fn a_helper_keeps_nothing_of_the_agent() {
    let script = Script::stall("sleep");
    let mut helper = helper();
    let request = request(script.pid(), loopwarden::evidence::helper::Want::Forget);
    helper.ask(&request, LIMIT).unwrap();
    let about = |file: &str| format!("/proc/{}/{file}", helper.id().unwrap());
    let descriptors = std::fs::read_dir(about("fd")).unwrap();
    let mut numbers: Vec<_> = descriptors
        .map(|entry| entry.unwrap().file_name())
        .collect();
    numbers.sort();
    assert_eq!(numbers, ["0", "1", "2"]);
    assert_eq!(std::fs::read(about("environ")).unwrap(), b"");
    assert_eq!(
        std::fs::read_to_string(about("oom_score_adj")).unwrap(),
        "1000\n"
    );
    let limits = std::fs::read_to_string(about("limits")).unwrap();
    let address_space = limits
        .lines()
        .find(|line| line.starts_with("Max address space"));
    assert!(address_space.unwrap().contains("1073741824"), "{limits}");
}
