//! The demonstration's unprotected half for real: processes, sockets, signals and the kubelet's model, with short settings.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

/// Far more than the few seconds it takes, for a busy machine.
const LIMIT: Duration = Duration::from_mins(2);

fn demo(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_loopwarden"))
        .args([
            "demo",
            "--json",
            "--unguarded",
            "--termination-grace",
            "300ms",
        ])
        .args(arguments)
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the demo starts")
}

#[expect(clippy::disallowed_methods, reason = "a test's own limit")]
fn now() -> Instant {
    Instant::now()
}

/// Waits for `done`, looking again every few milliseconds.
fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let limit = now() + LIMIT;
    loop {
        if let Some(result) = done() {
            return result;
        }
        assert!(now() < limit, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn end(child: &mut Child) -> ExitStatus {
    wait_for("the demo's end", || {
        child.try_wait().expect("the demo is our child")
    })
}

fn get(port: u64) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).ok()?)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream
        .write_all(b"GET /health/liveliness HTTP/1.1\r\nhost: test\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Whether a process runs (a zombie does not).
fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next())
        .is_some_and(|state| !"ZX".contains(state))
}

/// Processes of which an argument or the executable lies in `folder`.
fn left_over(folder: &Path) -> Vec<u64> {
    let name = folder.to_str().expect("a readable name").to_owned();
    let entries = std::fs::read_dir("/proc").expect("procfs");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = |pid: &u64| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&name))
    };
    pids.filter(ours).filter(|&pid| runs(pid)).collect()
}

fn assert_nothing_left(folder: &Path) {
    // The engine is killed by the kernel when its server is gone, which may take a moment.
    wait_for("the end of all processes of the demo", || {
        left_over(folder).is_empty().then_some(())
    });
    let files: Vec<_> = std::fs::read_dir(folder).expect("the folder").collect();
    assert!(files.is_empty(), "left behind: {files:?}");
}

#[test]
fn the_unprotected_server_is_blocked_killed_and_restarted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = demo(folder.path(), &["--probe", "1s/800ms/2"]);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first: Value =
        serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(first["type"], "demo");
    let server = &first["unprotected"];
    let answer =
        get(server["port"].as_u64().expect("a port")).expect("the server answers others too");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(runs(server["pid"].as_u64().expect("a pid")));

    let last: Value =
        serde_json::from_str(&lines.last().expect("a line").expect("text")).expect("JSON");
    let figures = &last["unprotected"];
    let figure = |name: &str| {
        figures[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name} in {last}"))
    };
    assert_eq!(figures["kubelet_killed"], true, "{last}");
    // From one failed probe to the end of the next, and the grace: the kubelet allows no less.
    assert!(figure("blocked_ms") >= 1300.0, "{last}");
    assert!(figure("max_liveliness_ms") >= 1000.0, "{last}");
    let answered = figure("ok_percent");
    assert!(
        0.0 < answered && answered < 100.0,
        "it answered before and after, and not in between: {last}"
    );
    assert!(last.get("protected").is_none(), "{last}");

    let mut text = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut text)
        .expect("text");
    assert!(end(&mut child).success(), "{text}");
    for words in [
        "SIGTERM; a frozen loop cannot react",
        "SIGKILL",
        "container restarted",
        "killed by the kubelet",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(
        !text.contains('\x1b'),
        "no escape sequences without a terminal: {text}"
    );
    assert_nothing_left(folder.path());
}

#[test]
fn nothing_is_left_when_it_is_interrupted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = demo(folder.path(), &["--probe", "2s/1s/3"]);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines.next().expect("a line").expect("text");
    signal(&child, Signal::INT);
    assert_eq!(end(&mut child).code(), Some(1));
    assert_nothing_left(folder.path());
}

#[test]
fn all_processes_die_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = demo(folder.path(), &["--probe", "2s/1s/3"]);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines.next().expect("a line").expect("text");
    assert!(!left_over(folder.path()).is_empty());
    child.kill().expect("SIGKILL to our child");
    assert!(!end(&mut child).success());
    wait_for("the end of all processes of the demo", || {
        left_over(folder.path()).is_empty().then_some(())
    });
}

#[test]
fn bad_settings_are_usage_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = demo(folder.path(), &["--probe", "2s/1s"]);
    let mut text = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut text)
        .expect("text");
    assert_eq!(end(&mut child).code(), Some(2), "{text}");
    assert!(text.contains("PERIOD/TIMEOUT/FAILURES"), "{text}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "to a child that has not been waited for, through its pidfd"
)]
fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    let pidfd = pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("our child");
    pidfd_send_signal(&pidfd, signal).expect("our child takes signals");
}
