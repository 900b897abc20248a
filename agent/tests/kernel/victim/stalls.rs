//! The ways in which a loop stalls that are no waits for a child. Those that somebody else ends last until the test opens a
//! gate; the others for a given time.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::net::{Shutdown, shutdown};

use super::{FLAG, looper::answer};
use crate::sys::{self, PollCall};

/// Stalls, after saying what is true of it. `end` is a number of milliseconds or the path of a gate.
pub(super) fn stall(way: &str, end: &str) -> Result<()> {
    match way {
        "sleep" => {
            answer("stalling");
            std::thread::sleep(milliseconds(end)?);
        }
        "select" => {
            answer("stalling");
            sys::sleep_in_select(milliseconds(end)?)?;
        }
        "cpu" => {
            // Before all others: who has to wait for a CPU does not compute.
            rustix::process::setpriority_process(None, -10)?;
            spin(end.to_owned());
        }
        "lazy_cpu" => spin(end.to_owned()),
        "lock" => lock(end.to_owned()),
        "lock_and_cpu" => {
            let span = milliseconds(end)?;
            lock((span * 3).as_millis().to_string());
            spin(span.as_millis().to_string());
        }
        "tcp" => tcp(end.to_owned())?,
        "unix" => unix(end.to_owned())?,
        "dns" => dns(end.to_owned())?,
        "pipe" => {
            let mut child = helper(&["holds", end])?;
            let mut out = child.stdout.take().context("no output")?;
            answer(&format!("stalling {}", child.id()));
            out.read_to_end(&mut Vec::new())?;
            child.wait()?;
        }
        "flock" | "posix_lock" => file_lock(way, end)?,
        _ => bail!("no such stall: {way}"),
    }
    answer("stalled");
    Ok(())
}

fn milliseconds(text: &str) -> Result<Duration> {
    let count = text.parse().with_context(|| format!("no time: {text}"))?;
    Ok(Duration::from_millis(count))
}

/// Waits for the time to pass, or for the gate: a named pipe that ends when the test has opened it and closes it again.
fn wait(end: &str) {
    match milliseconds(end) {
        Ok(span) => std::thread::sleep(span),
        // A gate that cannot be read is an open one: the test then misses what it waits for, and says so.
        Err(_) => drop(std::fs::read(end)),
    }
}

fn spin(end: String) {
    let over = Arc::new(AtomicBool::new(false));
    let flag = over.clone();
    let thread = std::thread::spawn(move || {
        wait(&end);
        flag.store(true, Ordering::Relaxed);
    });
    answer("stalling");
    while !over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    // It has nothing left to do.
    let _ = thread.join();
}

/// Waits for a lock that another thread has.
fn lock(end: String) {
    let shared = Arc::new((Mutex::new(()), Barrier::new(2)));
    let other = shared.clone();
    let thread = std::thread::spawn(move || {
        let (mutex, together) = &*other;
        let _held = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        together.wait();
        wait(&end);
    });
    let (mutex, together) = &*shared;
    together.wait();
    answer("stalling");
    drop(mutex.lock().unwrap_or_else(PoisonError::into_inner));
    // It has let go of the lock, so that this takes no time.
    let _ = thread.join();
}

fn tcp(end: String) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut client = TcpStream::connect(address)?;
    let (mut server, _) = listener.accept()?;
    std::thread::spawn(move || {
        wait(&end);
        server.write_all(b"x")
    });
    answer(&format!("stalling {address}"));
    client.read_exact(&mut [0])?;
    Ok(())
}

fn unix(end: String) -> Result<()> {
    let (mut one, mut another) = UnixStream::pair()?;
    std::thread::spawn(move || {
        wait(&end);
        another.write_all(b"x")
    });
    answer("stalling");
    one.read_exact(&mut [0])?;
    Ok(())
}

/// A question that nobody answers, as a resolver waits for it.
fn dns(end: String) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect("127.0.0.1:53")?;
    let other = socket.try_clone()?;
    std::thread::spawn(move || {
        wait(&end);
        shutdown(&other, Shutdown::Both)
    });
    answer("stalling 127.0.0.1:53");
    let socket = std::os::fd::AsFd::as_fd(&socket);
    while !sys::wait_readable(PollCall::Poll, None, socket, -1)? {}
    Ok(())
}

fn file_lock(way: &str, end: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("lock");
    let name = path.to_str().context("no text")?;
    let file = File::create(&path)?;
    let mut child = helper(&["locks", way, name, end])?;
    answer(&format!("stalling {} {name}", child.id()));
    take_lock(way, &file)?;
    child.wait()?;
    Ok(())
}

fn take_lock(way: &str, file: &File) -> Result<()> {
    let lock = if way == "flock" { flock } else { fcntl_lock };
    lock(file, FlockOperation::LockExclusive).context("cannot lock")
}

/// Starts this program in a part, and waits until it says that it is ready.
fn helper(part: &[&str]) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(FLAG)
        .args(part)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {part:?}"))?;
    let out = child.stdout.as_mut().context("no output")?;
    let mut first = String::new();
    BufReader::with_capacity(1, out).read_line(&mut first)?;
    Ok(child)
}

/// Keeps its end of a pipe open until the end of the stall.
pub(super) fn holds(end: &str) -> Result<()> {
    super::children::die_with_parent()?;
    answer("ready");
    wait(end);
    Ok(())
}

/// Keeps a file locked until then.
pub(super) fn locks(way: &str, path: &str, end: &str) -> Result<()> {
    super::children::die_with_parent()?;
    let file = File::options().write(true).open(path)?;
    take_lock(way, &file)?;
    answer("ready");
    wait(end);
    Ok(())
}
