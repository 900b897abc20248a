//! Native stacks of real programs with a known chain of calls: C at -O2 without frame pointers, with and without debug
//! information and names, blocked in the calls that loops are found blocked in.
//!
//! Registers come from procfs here, which needs no privilege over own children; those that BPF reads, and running threads,
//! are among the kernel tests.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use loopwarden::evidence::native::{Limits, NativeStack, Stacks, mutex_owner};
use loopwarden::kernel::registers::RegisterReader;
use loopwarden::kernel::thread_call::{ThreadCall, thread_call};
use loopwarden::pipeline::{Pid, Tid};
use tempfile::TempDir;

/// outer → middle → inner → the call that its argument names. It says its ids before, so that nobody has to guess.
const SOURCE: &str = include_str!("native_victim.c");
/// Looks at a victim; it needs microseconds to get where it blocks.
const LOOKS: usize = 2000;

/// A folder with the program compiled in one way.
struct Program {
    _folder: TempDir,
    path: PathBuf,
}

impl Program {
    fn compile(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("native_victim.c");
        std::fs::write(&source, SOURCE).expect("its source");
        let path = folder.path().join("victim");
        let status = Command::new("cc")
            .args(["-O2", "-fomit-frame-pointer", "-pthread", "-o"])
            .arg(&path)
            .args(flags)
            .arg(&source)
            .status()
            .expect("cc can be started (Debian: gcc, libc6-dev)");
        assert!(status.success(), "cc {flags:?} ended with {status}");
        Self {
            _folder: folder,
            path,
        }
    }

    fn start(&self, way: &str) -> Victim {
        Victim::start(&self.path, way)
    }
}

/// A running one; it ends with the test.
struct Victim {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Victim {
    fn start(path: &Path, way: &str) -> Self {
        let mut child = Command::new(path)
            .arg(way)
            // A pipe that nobody writes to.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the victim can be started");
        let said = BufReader::new(child.stdout.take().expect("its stdout"));
        Self { child, said }
    }

    fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// The number after a word that it says.
    fn number(&mut self, word: &str) -> u32 {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("it says something");
        let number = line.trim().strip_prefix(word).map(str::trim);
        number.and_then(|number| number.parse().ok()).expect(word)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until the stack holds a function, or often enough.
fn stack_with(victim: &Victim, function: &str) -> NativeStack {
    let (pid, tid) = (victim.pid(), Tid(victim.child.id()));
    let mut reader = RegisterReader::without_bpf();
    let mut stacks = Stacks::new();
    let mut last = None;
    for _ in 0..LOOKS {
        let registers = reader.read(pid, tid).ok().and_then(|mut all| all.pop());
        if let Some(registers) = registers.filter(|found| found.stack.is_none()) {
            let result = stacks.read(pid, tid, &registers, Limits::default());
            if let Ok(stack) = &result
                && stack.frames.iter().any(|frame| frame.function == function)
            {
                return result.expect("just seen");
            }
            last = Some(result);
        }
        // Not to be waited for as an event: being blocked is a state of another process.
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no stack with {function}: {last:?}");
}

fn functions(stack: &NativeStack) -> Vec<&str> {
    stack
        .frames
        .iter()
        .map(|frame| frame.function.as_str())
        .collect()
}

/// The functions in this order, with any others only before the first.
fn assert_chain(stack: &NativeStack, chain: &[&str]) {
    let functions = functions(stack);
    let start = functions.iter().position(|name| *name == chain[0]);
    let start = start.unwrap_or_else(|| panic!("no {}: {functions:?}", chain[0]));
    let found = functions.get(start..start + chain.len());
    assert_eq!(found, Some(chain), "{functions:?}");
}

const CHAIN: [&str; 4] = ["inner", "middle", "outer", "main"];

#[test]
fn every_blocking_call_shows_the_chain_that_led_to_it() {
    let program = Program::compile(&["-g"]);
    for (way, call) in [
        ("nanosleep", "nanosleep"),
        ("read", "read"),
        ("mutex", "pthread_mutex_lock"),
    ] {
        let victim = program.start(way);
        let stack = stack_with(&victim, "outer");
        assert_chain(&stack, &CHAIN);
        let functions = functions(&stack);
        assert!(
            functions.iter().any(|name| name.contains(call)),
            "{way}: {functions:?}"
        );
    }
}

#[test]
fn debug_information_gives_file_and_line() {
    let program = Program::compile(&["-g"]);
    let victim = program.start("read");
    let stack = stack_with(&victim, "outer");
    let line_of = |text: &str| {
        let place = SOURCE.lines().position(|line| line.contains(text));
        u32::try_from(place.expect(text) + 1).ok()
    };
    for (function, text) in [
        ("inner", "read(0"),
        ("middle", "return inner("),
        ("outer", "return middle("),
    ] {
        let frame = stack.frames.iter().find(|frame| frame.function == function);
        let frame = frame.expect(function);
        assert_eq!(frame.line, line_of(text), "{frame:?}");
        let file = frame.file.as_deref().unwrap_or_default();
        assert!(file.ends_with("/native_victim.c"), "{frame:?}");
    }
}

#[test]
fn without_debug_information_there_are_names_without_lines() {
    let program = Program::compile(&[]);
    let victim = program.start("read");
    let stack = stack_with(&victim, "outer");
    assert_chain(&stack, &CHAIN);
    let inner = stack.frames.iter().find(|frame| frame.function == "inner");
    assert_eq!(inner.and_then(|frame| frame.line), None, "{stack:?}");
}

#[test]
fn a_stripped_program_shows_module_and_offset_and_the_whole_way_out() {
    let program = Program::compile(&["-s"]);
    let victim = program.start("read");
    // The frame outside of main has a name: libc exports it.
    let stack = stack_with(&victim, "__libc_start_main");
    let own = functions(&stack)
        .iter()
        .filter(|name| name.starts_with("victim+0x"))
        .count();
    assert!(own >= 4, "{stack:?}");
}

#[test]
fn exported_names_are_left_in_a_stripped_program() {
    let program = Program::compile(&["-s", "-rdynamic"]);
    let victim = program.start("read");
    assert_chain(&stack_with(&victim, "outer"), &["inner", "middle", "outer"]);
}

#[test]
fn a_deleted_program_is_still_read() {
    let program = Program::compile(&["-g"]);
    let victim = program.start("nanosleep");
    std::fs::remove_file(&program.path).expect("it can be deleted");
    assert_chain(&stack_with(&victim, "outer"), &CHAIN);
}

#[test]
fn the_owner_of_a_mutex_is_shown() {
    let program = Program::compile(&[]);
    let mut victim = program.start("mutex");
    let owner = victim.number("owner");
    let pid = victim.pid();
    let stack = stack_with(&victim, "inner");
    let Ok(ThreadCall::In { number, args }) = thread_call(pid, Tid(pid.0)) else {
        panic!("it is blocked: {stack:?}");
    };
    assert_eq!(number, libc::SYS_futex);
    assert_eq!(mutex_owner(pid, args[0]), Some(Tid(owner)));
    // Beside the mutex there is none, and neither where nothing is mapped.
    assert_eq!(mutex_owner(pid, args[0] + 4), None);
    assert_eq!(mutex_owner(pid, 16), None);
}

#[test]
fn a_futex_that_is_no_mutex_shows_no_owner() {
    let program = Program::compile(&[]);
    let victim = program.start("condition");
    let _ = stack_with(&victim, "inner");
    let Ok(ThreadCall::In { args, .. }) = thread_call(victim.pid(), Tid(victim.pid().0)) else {
        panic!("it is blocked");
    };
    assert_eq!(mutex_owner(victim.pid(), args[0]), None);
}
