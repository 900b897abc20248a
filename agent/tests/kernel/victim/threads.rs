//! Processes with several threads, and one that is no loop.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};

use anyhow::{Context as _, Result};
use rustix::event::epoll;

use super::looper::answer;
use crate::sys::{self, PollCall};

/// Threads behind one epoll descriptor: a pool, as in Go or tokio.
const THREADS: usize = 3;

/// Polls one epoll descriptor from several threads until the standard input ends.
pub(super) fn pool() -> Result<()> {
    let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).context("no epoll")?);
    let stdin = rustix::stdio::stdin();
    epoll::add(
        &*epoll,
        stdin,
        epoll::EventData::new_u64(1),
        epoll::EventFlags::IN,
    )?;
    let poll = |epoll: &OwnedFd, milliseconds: i32| {
        let stdin = rustix::stdio::stdin();
        sys::wait_readable(PollCall::EpollWait, Some(epoll), stdin, milliseconds)
    };
    // The first threads of a real pool poll alone for a moment; this one begins with all of them at once.
    let together = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (1..THREADS)
        .map(|_| {
            let (epoll, together) = (epoll.clone(), together.clone());
            std::thread::spawn(move || -> Result<()> {
                poll(&epoll, 0)?;
                together.wait();
                // Every thread sees the end of the input; the level stays.
                while !poll(&epoll, 10)? {}
                Ok(())
            })
        })
        .collect();
    together.wait();
    answer(&format!("ready {}", std::process::id()));
    while !poll(&epoll, 10)? {}
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

/// Polls when its input has something, once, and then waits for the input's end in read.
pub(super) fn polls_once() -> Result<()> {
    answer(&format!("ready {}", std::process::id()));
    let stdin = rustix::stdio::stdin();
    sys::wait_readable(PollCall::Poll, None, stdin.as_fd(), -1)?;
    answer("polled");
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    Ok(())
}

/// A thread that is blocked in a wait for a child for the child's whole life.
pub(super) fn help_wait(pid: i32) {
    std::thread::spawn(move || sys::wait4(pid, 0));
}

/// A thread that signals a child when the test opens the gate, whatever the loop's thread does then.
pub(super) fn signal_at(pid: i32, number: i32, gate: String) {
    // Without a gate or a child nothing is signalled, and the test says what it misses.
    std::thread::spawn(move || std::fs::read(gate).map(|_| sys::signal(pid, number)));
}

/// Uses all the CPU it gets.
pub(super) fn burn() -> Result<()> {
    answer("ready");
    loop {
        std::hint::spin_loop();
    }
}

/// Polls the loop's own descriptor from another thread: neither of them is a loop then.
pub(super) fn poll_beside(epoll: Arc<OwnedFd>) {
    std::thread::spawn(move || {
        let stdin = rustix::stdio::stdin();
        while sys::wait_readable(PollCall::EpollWait, Some(&epoll), stdin, 10).is_ok() {}
    });
}

/// The same when a gate is opened.
pub(super) fn poll_beside_after(epoll: Arc<OwnedFd>, gate: String) {
    std::thread::spawn(move || {
        // A gate that cannot be read is an open one: the test then misses what it waits for, and says so.
        drop(std::fs::read(gate));
        poll_beside(epoll);
    });
}

/// The same when it is told to.
pub(super) fn poll_beside_when(epoll: Arc<OwnedFd>) -> Sender<()> {
    let (sender, told) = channel();
    std::thread::spawn(move || {
        // The loop has ended, if nobody tells it.
        if told.recv().is_ok() {
            poll_beside(epoll);
        }
    });
    sender
}
