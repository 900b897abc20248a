//! The thread itself: sleep until the kernel or a message has something, or the earliest loop can be due.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::ended::{Ended, ended};
use super::sentinel::Sentinel;
use super::settings::Settings;
use super::stats::Stats;
use crate::evidence::{self, Collector};
use crate::kernel::{Sensor, clock, realtime};
use crate::pipeline::{Notice, Pid};
use crate::target::scout::{Answer, Matching, Scout};

/// What others ask of the thread.
#[derive(Debug)]
pub(super) enum Message {
    /// Watch these processes and all that descends from them.
    Watch(Vec<(Pid, usize)>),
    /// The configuration or the pods changed.
    Reload(Box<Settings>, Arc<dyn Matching>),
    /// An answer of the scout.
    Answer(Answer),
    /// An answer of the evidence thread.
    Explained(Box<evidence::Answer>),
    /// End, and tell the final counts of every loop.
    Stop,
}

/// Why the thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the rescue thread: {0}")]
pub struct StartError(#[from] io::Error);

/// What the thread did, for who waits for its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Signals sent, or in observe mode those that would have been.
    pub actions: u64,
}

/// The thread's address. Dropping it without [`Handle::stop`] leaves the thread running.
#[derive(Debug)]
pub struct Handle {
    remote: Remote,
    finished: Receiver<Summary>,
    ended: Ended,
}

/// Asks the thread for things from anywhere.
#[derive(Debug, Clone)]
pub struct Remote {
    sender: Sender<Message>,
    wake: Arc<OwnedFd>,
}

/// Starts the scout and the rescue thread. `tell` gets every notice and must not block.
pub fn start(
    mut sensor: Box<dyn Sensor>,
    settings: Settings,
    rules: Arc<dyn Matching>,
    stats: Arc<Stats>,
    tell: impl FnMut(Notice) + Send + 'static,
) -> Result<Handle, StartError> {
    let wake = Arc::new(
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?,
    );
    let (sender, inbox) = channel();
    let scout = {
        let (sender, wake) = (sender.clone(), wake.clone());
        Scout::start(rules.clone(), move |answer| {
            post(&sender, &wake, Message::Answer(answer));
        })?
    };
    let collector = {
        let (sender, wake) = (sender.clone(), wake.clone());
        let mut reader = sensor.take_registers();
        let registers =
            Box::new(move |pid, tid| reader.read(pid, tid).map_err(|error| error.to_string()));
        let share = settings.evidence.node_cpu_percent;
        Collector::start(clock::now, registers, share, move |answer| {
            post(&sender, &wake, Message::Explained(Box::new(answer)));
        })?
    };
    let woken = wake.clone();
    let (done, finished) = channel();
    let (until_end, ended) = ended()?;
    std::thread::Builder::new()
        .name("rescue".into())
        .spawn(move || {
            stats.without_priority(realtime::prefer_this_thread().err());
            let mut sentinel = Sentinel::new(
                sensor,
                settings,
                rules,
                scout,
                collector,
                Box::new(tell),
                stats,
            );
            // Of what a panic drops the first: to detach the hooks takes the kernel its time.
            let until_end = until_end;
            run(&mut sentinel, &inbox, &woken);
            let (summary, sensor) = sentinel.finish();
            // Detaching hooks takes the kernel a second or more; nobody needs to wait for it. No receiver is fine too.
            let _ = done.send(summary);
            drop(until_end);
            drop(sensor);
        })?;
    Ok(Handle {
        remote: Remote { sender, wake },
        finished,
        ended,
    })
}

fn post(sender: &Sender<Message>, wake: &OwnedFd, message: Message) {
    // A thread that has ended needs no message; a counter that is full has woken it already.
    let _ = sender.send(message);
    let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
}

impl Remote {
    /// Watches processes (each with the number of its target) and their descendants.
    pub fn watch(&self, processes: Vec<(Pid, usize)>) {
        post(&self.sender, &self.wake, Message::Watch(processes));
    }

    /// Puts other rules into force: another configuration, or another picture of the pods.
    pub fn reload(&self, settings: Settings, rules: Arc<dyn Matching>) {
        post(
            &self.sender,
            &self.wake,
            Message::Reload(Box::new(settings), rules),
        );
    }
}

impl Handle {
    /// To ask the thread from elsewhere.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Becomes readable when the thread has ended. That it was not asked to means that it panicked: nothing is watched any more.
    #[must_use]
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Ends the thread: closes open stalls as detached and tells the final counts of every loop.
    #[must_use]
    pub fn stop(self) -> Summary {
        post(&self.remote.sender, &self.remote.wake, Message::Stop);
        self.finished.recv().unwrap_or_else(|_| {
            log::error!("the rescue thread panicked");
            Summary::default()
        })
    }
}

fn run(sentinel: &mut Sentinel, inbox: &Receiver<Message>, wake: &OwnedFd) {
    loop {
        sleep(sentinel, wake.as_fd());
        let mut counter = [0; 8];
        // Empty is fine: something else woke us.
        let _ = rustix::io::read(wake, &mut counter);
        sentinel.take_events();
        while let Ok(message) = inbox.try_recv() {
            // What procfs shows is younger than what the kernel reported before.
            sentinel.take_events();
            match message {
                Message::Watch(processes) => sentinel.watch_named(&processes),
                Message::Reload(settings, rules) => sentinel.reload(*settings, rules),
                Message::Answer(answer) => sentinel.answered(answer),
                Message::Explained(answer) => sentinel.explained(*answer),
                // What happened before it was asked for, such as the end of the last target, has been taken in.
                Message::Stop => return,
            }
        }
        sentinel.tick(clock::now());
    }
}

/// Waits for events, messages, or the moment the sentinel named.
fn sleep(sentinel: &mut Sentinel, wake: BorrowedFd<'_>) {
    let span = sentinel.next_due().since(clock::now());
    let timeout = timespec(span);
    let result = match sentinel.events_fd() {
        Some(events) => poll(
            &mut [
                PollFd::from_borrowed_fd(wake, PollFlags::IN),
                PollFd::from_borrowed_fd(events, PollFlags::IN),
            ],
            Some(&timeout),
        ),
        None => poll(
            &mut [PollFd::from_borrowed_fd(wake, PollFlags::IN)],
            Some(&timeout),
        ),
    };
    match result {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => {
            log::error!(
                "waiting for kernel events failed: {error}; going on by looking every 10 ms"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}
