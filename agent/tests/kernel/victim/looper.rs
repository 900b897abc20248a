//! The loop: polls its standard input, and wedges itself when told to.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll;

use super::prober::Server;
use super::{FLAG, children, server, stalls, threads, waits};
use crate::sys::{self, PollCall};

/// How long a poll of an idle loop lasts: short enough to be recognised soon, long enough to cost nothing.
const TICK_MS: i32 = 10;

/// A loop and its children by name.
struct Looper {
    call: PollCall,
    tick: i32,
    epoll: Option<Arc<OwnedFd>>,
    children: HashMap<String, i32>,
    beside: Option<Sender<()>>,
    server: Option<Server>,
    /// Polls to go before `idled` is told.
    idle: Option<(u64, u32)>,
}

/// Runs until its input ends or it is told to quit. `no-timeout` polls without end.
pub(super) fn run(poller: &str, options: &[&str]) -> Result<()> {
    let call = PollCall::of(poller).with_context(|| format!("no such poll call: {poller}"))?;
    let mut looper = Looper {
        call,
        tick: if options.contains(&"no-timeout") {
            -1
        } else {
            TICK_MS
        },
        epoll: epoll_of(call)?,
        children: HashMap::new(),
        beside: None,
        server: None,
        idle: None,
    };
    if options.contains(&"deaf") {
        sys::ignore(libc::SIGTERM)?;
        sys::ignore(libc::SIGINT)?;
    }
    if options.contains(&"unstoppable") {
        sys::ignore(libc::SIGTSTP)?;
    }
    // A test may wake it before it naps, when another stall has been told.
    sys::be_wakeable()?;
    answer(&format!("ready {}", std::process::id()));
    let mut pending = Vec::new();
    loop {
        let stdin = rustix::stdio::stdin();
        let readable = sys::wait_readable(looper.call, looper.epoll.as_deref(), stdin, looper.tick)
            .with_context(|| format!("{poller} failed"))?;
        looper.tell_idle();
        if let Some(server) = &looper.server {
            server.serve();
        }
        if !readable {
            continue;
        }
        let mut bytes = [0; 512];
        // Not through a buffer, which could hold what the poll then does not see.
        let count = rustix::io::read(stdin, &mut bytes).context("reading the input failed")?;
        if count == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&bytes[..count]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8(line).context("a command is not text")?;
            if line.trim() == "quit" {
                return Ok(());
            }
            looper
                .obey(line.trim())
                .with_context(|| format!("cannot `{}`", line.trim()))?;
        }
    }
}

/// A loop of a forked worker: it has no input, and ends with its parent.
pub(super) fn run_worker() -> Result<()> {
    run_worker_after(|_, _| Ok(()))
}

/// The same, with something done first.
fn run_worker_after(first: impl FnOnce(&OwnedFd, BorrowedFd<'_>) -> Result<()>) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe().context("no pipe")?;
    let epoll = epoll::create(epoll::CreateFlags::empty()).context("no epoll")?;
    epoll::add(
        &epoll,
        &reader,
        epoll::EventData::new_u64(1),
        epoll::EventFlags::IN,
    )?;
    let _open = writer;
    first(&epoll, reader.as_fd())?;
    loop {
        sys::wait_readable(PollCall::EpollWait, Some(&epoll), reader.as_fd(), TICK_MS)?;
    }
}

/// A worker that answers on a port where others do, each with a socket of its own.
fn run_server(port: u16) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("no epoll")?;
    let server = Server::beside_others(port)?;
    epoll::add(
        &epoll,
        &server,
        epoll::EventData::new_u64(1),
        epoll::EventFlags::IN,
    )?;
    answer(&format!("serves {} {}", std::process::id(), server.port()?));
    loop {
        sys::wait_readable(PollCall::EpollWait, Some(&epoll), server.as_fd(), TICK_MS)?;
        server.serve();
    }
}

/// A worker whose engine wedges on the wake-up from the first poll of its life; freed, it is a loop like others.
fn run_wedged_worker(milliseconds: i32, program: &str) -> Result<()> {
    let engine = children::spawn("engine", program)?;
    sys::signal(engine, libc::SIGINT)?;
    run_worker_after(|epoll, reader| {
        sys::wait_readable(PollCall::EpollWait, Some(epoll), reader, milliseconds)?;
        sys::wait4(engine, 0)?;
        Ok(())
    })
}

fn epoll_of(call: PollCall) -> Result<Option<Arc<OwnedFd>>> {
    if !call.name().starts_with("epoll") {
        return Ok(None);
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("no epoll")?;
    let stdin = rustix::stdio::stdin();
    epoll::add(
        &epoll,
        stdin,
        epoll::EventData::new_u64(1),
        epoll::EventFlags::IN,
    )
    .context("cannot poll the standard input")?;
    Ok(Some(Arc::new(epoll)))
}

/// Writes an answer, at once.
pub(super) fn answer(text: &str) {
    let mut out = std::io::stdout().lock();
    // A test that is gone does not read; this process ends with it.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

impl Looper {
    fn tell_idle(&mut self) {
        if let Some((until, polls)) = &mut self.idle {
            *polls = polls.saturating_sub(1);
            if *polls == 0 && sys::mono_ns() >= *until {
                self.idle = None;
                answer("idled");
            }
        }
    }

    fn obey(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["spawn", name, kind, program] => {
                let pid = children::spawn(kind, program)?;
                self.children.insert((*name).to_owned(), pid);
                answer(&format!("spawned {pid}"));
            }
            // An orphan that has become its child.
            ["adopt", name, pid] => {
                self.children.insert((*name).to_owned(), pid.parse()?);
                answer("adopted");
            }
            ["signal", name, number] => {
                sys::signal(self.child(name)?, number.parse()?)?;
                answer("signalled");
            }
            ["signal-at", name, number, gate] => {
                threads::signal_at(self.child(name)?, number.parse()?, (*gate).to_owned());
                answer("will signal");
            }
            ["wait", name, way] => self.wait(name, way)?,
            ["mute", word] => {
                self.server.as_mut().context("no port")?.mute = *word == "on";
                answer("muted");
            }
            ["listen"] => self.server = Some(Server::open()?),
            ["watch-pid", pid] => waits::watch(pid.parse()?)?,
            // At least one whole iteration, so that what came before is a finished one.
            ["idle", milliseconds] => {
                let span: u64 = milliseconds.parse()?;
                self.idle = Some((sys::mono_ns() + span * 1_000_000, 2));
            }
            ["stall", way, end] => stalls::stall(way, end)?,
            ["nap", milliseconds] => {
                std::thread::sleep(Duration::from_millis(milliseconds.parse()?));
                answer("napped");
            }
            ["nap"] => {
                sys::nap()?;
                answer("napped");
            }
            ["nested", milliseconds] => {
                let (reader, _writer) = rustix::pipe::pipe()?;
                sys::wait_readable(PollCall::Poll, None, reader.as_fd(), milliseconds.parse()?)?;
                answer("nested");
            }
            ["help-wait", name] => {
                threads::help_wait(self.child(name)?);
                answer("helping");
            }
            // A thread that is away from the poll for now.
            ["poll-beside-later"] => {
                let epoll = self.epoll.as_ref().context("no epoll")?;
                self.beside = Some(threads::poll_beside_when(epoll.clone()));
                answer("there");
            }
            ["poll-beside-now"] => {
                self.beside.take().context("no thread")?.send(())?;
                answer("told");
            }
            ["poll-beside-after", gate] => {
                let epoll = self.epoll.as_ref().context("no epoll")?;
                threads::poll_beside_after(epoll.clone(), (*gate).to_owned());
                answer("there");
            }
            ["poll-beside"] => {
                let epoll = self.epoll.as_ref().context("no epoll")?;
                threads::poll_beside(epoll.clone());
                answer("polling");
            }
            ["fork-worker"] => {
                let pid = sys::fork()?;
                if pid == 0 {
                    children::die_with_parent()?;
                    run_worker()?;
                }
                answer(&format!("spawned {pid}"));
            }
            // It answers itself.
            ["fork-server", port] => {
                if sys::fork()? == 0 {
                    children::die_with_parent()?;
                    run_server(port.parse()?)?;
                }
            }
            ["fork-wedged", milliseconds, program] => {
                let pid = sys::fork()?;
                if pid == 0 {
                    children::die_with_parent()?;
                    run_wedged_worker(milliseconds.parse()?, program)?;
                }
                answer(&format!("spawned {pid}"));
            }
            ["nap-and-exec"] => {
                sys::nap()?;
                let program = std::env::current_exe()?;
                let error = std::process::Command::new(program)
                    .args([FLAG, "loop", self.call.name()])
                    .exec();
                bail!("exec failed: {error}");
            }
            other => server::obey(other)?,
        }
        Ok(())
    }

    fn wait(&self, name: &str, way: &str) -> Result<()> {
        let pid = match name {
            "any" => -1,
            "group" => 0,
            name => self.child(name)?,
        };
        let pidfd = waits::prepare(way, pid)?;
        answer(&format!("waiting {}", sys::mono_ns()));
        let how = waits::wait(way, pid, pidfd.as_ref())?;
        answer(&format!("waited {how:?}"));
        Ok(())
    }

    fn child(&self, name: &str) -> Result<i32> {
        self.children
            .get(name)
            .copied()
            .with_context(|| format!("no child `{name}`"))
    }
}
