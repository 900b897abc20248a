//! Stacks of real Python processes (Debian's interpreter), asked for through the real helper. Other versions: `versions.rs`.

use std::process::Command;

use crate::support::{
    LIMIT, PYTHON, Script, ask, helper, innermost_in, marked, request, script, stack, until,
};
use loopwarden::evidence::helper::{Found, Outcome, Want};
use loopwarden::pipeline::{Frame, Pid};

/// Every stall, and the functions inside the script's innermost one: what blocks.
pub const STALLS: [(&str, &str, &[&str]); 13] = [
    ("sleep", "Stalls.sleep", &[]),
    (
        "future",
        "PrismaWrapper.__getattr__",
        &["Condition.wait", "Future.result"],
    ),
    ("recv", "Stalls.recv", &[]),
    ("timed_recv", "Stalls.timed_recv", &[]),
    (
        "popen",
        "Stalls.popen",
        &["Popen._try_wait", "Popen._wait", "Popen.wait"],
    ),
    (
        "json",
        "Stalls.json",
        &["JSONDecoder.raw_decode", "JSONDecoder.decode", "loads"],
    ),
    ("spin", "Stalls.spin", &[]),
    ("calls", "Stalls.calls", &[]),
    ("generator", "Stalls.generator.<locals>.lines", &[]),
    ("rlock", "Stalls.rlock", &[]),
    ("acquired", "Stalls.acquired", &[]),
    (
        "gil",
        "Stalls.gil",
        &["Condition.wait", "Event.wait", "Thread.start"],
    ),
    ("deep", "Stalls.deep.<locals>.down", &[]),
];

/// Whether a stack is that of a stall.
pub fn is(found: &Found, (name, function, inside): &(&str, &str, &[&str])) -> bool {
    // Before 3.11 a function does not know where it was defined.
    let is_qualified = found.runtime.as_deref().is_some_and(knows_qualified_names);
    let is_named = |frame: &Frame, name: &str| {
        let short = name.rsplit("<locals>.").next();
        frame.function == name || !is_qualified && Some(frame.function.as_str()) == short
    };
    let frames = &found.stack.frames;
    let is_at = |number: usize, name: &str| {
        let frame = frames.get(number);
        frame.is_some_and(|frame| is_named(frame, name))
    };
    inside
        .iter()
        .enumerate()
        .all(|(number, name)| is_at(number, name))
        && is_at(inside.len(), function)
        && innermost_in(found, "stalls.py").is_some_and(|frame| frame.line == Some(marked(name)))
}

fn knows_qualified_names(runtime: &str) -> bool {
    !["CPython 3.8", "CPython 3.9", "CPython 3.10"].contains(&runtime)
}

#[test]
fn the_line_that_blocks_is_innermost() {
    let mut helper = helper();
    for stall in &STALLS {
        let name = stall.0;
        let script = Script::stall(name);
        let found = until(&mut helper, script.pid(), name, |found| is(found, stall));
        assert_eq!(found.runtime.as_deref(), Some("CPython 3.11"));
        assert_eq!(found.cut.is_some(), name == "deep", "{found:?}");
        let functions: Vec<_> = found
            .stack
            .frames
            .iter()
            .map(|frame| &frame.function)
            .collect();
        if name == "deep" {
            assert_eq!(functions.len(), 128);
        } else {
            // The whole chain: the coroutine, the loop that runs it, and the module.
            assert!(
                functions.iter().any(|name| *name == "task"),
                "{functions:?}"
            );
            assert_eq!(functions.last().unwrap().as_str(), "<module>");
        }
    }
    assert_eq!(helper.started(), 1);
}

#[test]
fn the_thread_that_owns_the_lock_is_shown() {
    let mut helper = helper();
    for name in ["rlock", "acquired"] {
        let script = Script::stall(name);
        let found = until(&mut helper, script.pid(), name, |found| {
            found.lock_holder.is_some()
        });
        let holder = found.lock_holder.unwrap();
        assert_ne!(holder.tid.0, script.pid());
        let frame = &holder.stack.as_ref().unwrap().frames[0];
        assert_eq!(
            (frame.function.as_str(), frame.line),
            ("held", Some(marked("holder")))
        );
    }
    // Who waits for something that nobody owns gets no holder.
    let script = Script::stall("future");
    let found = until(&mut helper, script.pid(), "future", |found| {
        found.stack.frames[0].function == "Condition.wait"
    });
    assert_eq!(found.lock_holder, None);
}

#[test]
fn the_thread_that_holds_the_interpreter_lock_is_shown() {
    let mut helper = helper();
    let script = Script::stall("gil");
    let found = until(&mut helper, script.pid(), "a wanted lock", |found| {
        found.gil.as_ref().is_some_and(|gil| gil.is_wanted)
    });
    let gil = found.gil.unwrap();
    assert_ne!(gil.holder.unwrap().0, script.pid());
    assert_eq!(gil.holder_frame.unwrap().function, "match");
    assert_eq!(found.lock_holder, None);

    let script = Script::stall("sleep");
    let found = until(&mut helper, script.pid(), "a free lock", |found| {
        found.gil.as_ref().is_some_and(|gil| gil.holder.is_none())
    });
    assert!(!found.gil.unwrap().is_wanted);
}

#[test]
fn a_process_in_a_pid_namespace_is_read_by_its_outer_ids() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", PYTHON]);
    let outer = Script::start(command.arg(script("stalls.py")).args(["rlock", "asyncio"]));
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.pid()));
    let inner: u32 = children.unwrap().trim().parse().unwrap();
    let found = until(&mut helper(), inner, "rlock", |found| {
        found.lock_holder.is_some()
    });
    let holder = found.lock_holder.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{inner}/task/{}/status", holder.tid));
    assert!(status.unwrap().contains("\nNSpid:"));
    assert_eq!(holder.stack.as_ref().unwrap().frames[0].function, "held");
    assert_eq!(found.stack.frames[0].function, "Stalls.rlock");
}

#[test]
fn a_deleted_interpreter_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("renamed");
    std::fs::copy(PYTHON, &copy).unwrap();
    let mut command = Command::new(&copy);
    command.env("PYTHONHOME", "/usr").arg(script("stalls.py"));
    let script = Script::start(command.args(["sleep", "asyncio"]));
    std::fs::remove_file(&copy).unwrap();
    until(&mut helper(), script.pid(), "sleep", |found| {
        found.stack.frames[0].function == "Stalls.sleep"
    });
}

#[test]
fn what_is_no_python_says_so() {
    let mut command = Command::new("/bin/sh");
    let script = Script::start(command.args(["-c", "echo ready; exec sleep 1000"]));
    let mut helper = helper();
    let prepared = helper.ask(&request(script.pid(), Want::Prepare), LIMIT);
    assert_eq!(
        prepared.unwrap().outcome,
        Outcome::Prepared { runtime: None }
    );
    assert!(matches!(
        ask(&mut helper, script.pid()),
        Outcome::Failed { .. }
    ));
}

#[test]
fn another_process_with_the_same_id_is_not_read() {
    let script = Script::stall("sleep");
    let mut helper = helper();
    let mut request = request(script.pid(), stack(script.pid()));
    request.start_ns -= 1_000_000_000;
    let Outcome::Failed { why } = helper.ask(&request, LIMIT).unwrap().outcome else {
        panic!("another process was read");
    };
    assert!(why.contains("another process"), "{why}");
}

#[test]
fn a_process_that_runs_another_program_is_found_anew() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo ready; read word < \"$0\"; exec \"$@\""]);
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let stalls = script("stalls.py");
    let script = Script::start(
        command
            .arg(&pipe)
            .arg(PYTHON)
            .arg(stalls)
            .args(["sleep", "asyncio"]),
    );
    let mut helper = helper();
    let prepared = helper.ask(&request(script.pid(), Want::Prepare), LIMIT);
    assert_eq!(
        prepared.unwrap().outcome,
        Outcome::Prepared { runtime: None }
    );
    std::fs::write(&pipe, "go\n").unwrap();
    until(&mut helper, script.pid(), "sleep", |found| {
        found.stack.frames[0].function == "Stalls.sleep"
    });
}

#[test]
fn a_process_that_ends_meanwhile_is_an_answer() {
    let script = Script::stall("sleep");
    let mut helper = helper();
    let prepare = request(script.pid(), Want::Prepare);
    let expected = Some("CPython 3.11".to_owned());
    assert_eq!(
        helper.ask(&prepare, LIMIT).unwrap().outcome,
        Outcome::Prepared { runtime: expected }
    );
    let stack = request(script.pid(), stack(script.pid()));
    script.kill();
    let mut asked = 0;
    while let Outcome::Found(_) = helper.ask(&stack, LIMIT).unwrap().outcome {
        asked += 1;
        assert!(asked < 100_000, "a dead process still has a stack");
    }
    assert_eq!(helper.started(), 1);
    let forget = request(script.pid(), Want::Forget);
    assert_eq!(
        helper.ask(&forget, LIMIT).unwrap().outcome,
        Outcome::Forgotten
    );
    assert_eq!(stack.pid, Pid(script.pid()));
}
