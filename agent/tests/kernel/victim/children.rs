//! How a loop starts its children.

use std::io::{BufRead as _, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{FLAG, looper::answer};
use crate::sys;

/// Starts a child of a kind from a program (this one under another name), and returns when it runs and is deaf.
pub(super) fn spawn(kind: &str, program: &str) -> Result<i32> {
    match kind {
        "contained" => contained(program),
        "loop" => start(program, &["loop", "epoll_wait"], 0),
        "engine" | "leader-ends" => start(program, &[kind], 0),
        // Deaf, and not to be stopped from a terminal either.
        "unstoppable" => start_with(program, &["engine"], 0, Ears::Deaf),
        // Not deaf: it hears SIGINT, and closes a connection then.
        "lingers" => start_with(program, &[kind], 0, Ears::Open),
        // Ends when it is told to.
        "polite" => start_with(program, &["engine"], 0, Ears::Open),
        // Would end, but for signals that it never takes.
        "blocks" => start_with(program, &["engine"], 0, Ears::Blocked),
        "wrapper" | "orphan" => {
            // The name of the engine behind it comes after a colon.
            let (outer, engine) = program.split_once(':').context("no engine named")?;
            start(outer, &[kind, engine], 0)
        }
        _ => match kind.strip_prefix("ends-after-") {
            Some(ms) => start(program, &["ends-after", ms], 0),
            None => late(kind, program),
        },
    }
}

/// `late-PORT-MS`: an engine that listens there after so long, `late-PORT-woken`: when it is woken; `shell-PORT-MS`: one behind a shell.
fn late(kind: &str, program: &str) -> Result<i32> {
    let words: Vec<&str> = kind.split('-').collect();
    match words[..] {
        ["late", port, after] => start_with(program, &["listens", port, after], 0, Ears::Open),
        ["shell", port, after] => {
            let (outer, engine) = program.split_once(':').context("no engine named")?;
            let part = ["wrapper", engine, "listens", port, after];
            start_with(outer, &part, 0, Ears::Open)
        }
        _ => bail!("no such kind of child: {kind}"),
    }
}

fn start(program: &str, part: &[&str], namespaces: i32) -> Result<i32> {
    start_with(program, part, namespaces, Ears::Closed)
}

/// What a child makes of being told to end.
#[derive(Clone, Copy)]
enum Ears {
    /// It ends.
    Open,
    /// It ignores it.
    Closed,
    /// It ignores it, and being told to stop.
    Deaf,
    /// It leaves it pending.
    Blocked,
}

fn start_with(program: &str, part: &[&str], namespaces: i32, ears: Ears) -> Result<i32> {
    let mut command = Command::new(program);
    command
        .arg(FLAG)
        .args(part)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    // SAFETY: the closure only makes system calls.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // Before exec, so that no signal can come too early.
            match ears {
                // Who runs the tests in the background may have had it ignored.
                Ears::Open => {
                    sys::hear(libc::SIGINT)?;
                    sys::hear(libc::SIGTERM)?;
                }
                Ears::Closed | Ears::Deaf => {
                    sys::ignore(libc::SIGINT)?;
                    sys::ignore(libc::SIGTERM)?;
                    if matches!(ears, Ears::Deaf) {
                        sys::ignore(libc::SIGTSTP)?;
                    }
                }
                Ears::Blocked => {
                    sys::block(&[libc::SIGINT, libc::SIGTERM])?;
                }
            }
            if namespaces != 0 {
                sys::unshare(namespaces)?;
            }
            Ok(())
        });
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut out = child.stdout.take().context("no output")?;
    let mut first = [0];
    out.read_exact(&mut first)
        .with_context(|| format!("{program} {part:?} did not get ready"))?;
    // Kept open: a child must not end because nobody listens, nor a loop because its input ends.
    std::mem::forget((out, child.stdin.take()));
    i32::try_from(child.id()).context("a process id beyond the kernel's own limit")
}

/// Starts an engine that has PID and mount namespaces of its own.
fn contained(program: &str) -> Result<i32> {
    let own = std::fs::File::open("/proc/self/ns/pid").context("cannot open the PID namespace")?;
    sys::unshare(libc::CLONE_NEWPID).context("cannot make a PID namespace")?;
    let child = start(program, &["engine"], libc::CLONE_NEWNS);
    // Later children are born here again.
    sys::setns(own.as_fd(), libc::CLONE_NEWPID).context("cannot come back to the PID namespace")?;
    child
}

/// Ends this process when the one that started it does.
pub(super) fn die_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(PR_SET_PDEATHSIG) failed")
}

/// Names the socket over which a victim of a keeper is told what to do.
const SOCKET: &str = "LOOPWARDEN_TEST_SOCKET";

/// Starts victims for tests, a command a line: socket, program, arguments. They connect to their test themselves.
pub(super) fn keeper() -> Result<()> {
    answer("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading the input failed")?;
        // Ended ones are reaped when the next is started. None at all is fine.
        while matches!(sys::wait4(-1, libc::WNOHANG), Ok(ended) if ended != sys::Waited::Nothing) {}
        let mut words = line.split_whitespace();
        let (socket, program) = words.next().zip(words.next()).context("no program")?;
        let mut command = Command::new(program);
        command
            .args(words)
            .env(SOCKET, socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: the closure only makes a system call.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        answer(&format!("started {}", child.id()));
    }
    Ok(())
}

/// Takes the socket that a keeper named for standard input and output.
pub(super) fn connect() -> Result<()> {
    let Some(path) = std::env::var_os(SOCKET) else {
        return Ok(());
    };
    let stream = UnixStream::connect(&path)
        .with_context(|| format!("cannot connect to {}", path.display()))?;
    rustix::stdio::dup2_stdin(&stream)?;
    rustix::stdio::dup2_stdout(&stream)?;
    // SAFETY: this process has one thread yet.
    unsafe { std::env::remove_var(SOCKET) };
    Ok(())
}
