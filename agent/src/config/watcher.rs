//! Notices that the configuration file changed, without a wake-up while nothing happens to it.
//!
//! A thread of its own sleeps on inotify. It decides nothing: it loads the file, compares with what is in force, and hands
//! the outcome to a callback. A bad file changes nothing and is told once. Links are followed (see `links`).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::links::{self, Spot};
use super::{Config, ConfigError, Source};

/// An editor saves in several steps: read when this long nothing more has happened, …
const QUIET: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// … but after so many steps in any case.
const MAX_STEPS: u32 = 20;

/// What became of a reload.
#[derive(Debug)]
pub enum Reload {
    /// Another configuration holds from here on.
    Changed {
        /// The new one.
        config: Box<Config>,
        /// What is different, a line each.
        changes: Vec<String>,
    },
    /// The file says what is in force already: after a request, or when a bad file has been mended.
    Unchanged,
    /// The file is bad; the old configuration stays in force.
    Rejected(ConfigError),
}

/// Decides what a loaded file means: pure, so that every order of events can be tested.
#[derive(Debug)]
struct Judge {
    current: Config,
    rejected: Option<ConfigError>,
}

impl Judge {
    /// What to tell, if anything. `requested`: somebody asked, and gets an answer in any case.
    fn judge(&mut self, loaded: Result<Config, ConfigError>, requested: bool) -> Option<Reload> {
        match loaded {
            Ok(config) => {
                let was_bad = self.rejected.take().is_some();
                if config == self.current {
                    return (was_bad || requested).then_some(Reload::Unchanged);
                }
                let changes = self.current.diff(&config);
                self.current = config.clone();
                Some(Reload::Changed {
                    config: Box::new(config),
                    changes,
                })
            }
            Err(error) => {
                let is_news = self.rejected.as_ref() != Some(&error);
                self.rejected = Some(error.clone());
                (is_news || requested).then_some(Reload::Rejected(error))
            }
        }
    }
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct ConfigWatcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    wake: OwnedFd,
    stop: AtomicBool,
    requested: AtomicBool,
}

impl Shared {
    fn wake(&self) {
        // Fails only when the counter is full: then the thread is about to wake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl ConfigWatcher {
    /// Watches `source`; `current` is the configuration in force. `on_reload` runs on the watcher's thread and should
    /// return soon. A change between the loading of `current` and this call is noticed too.
    pub fn start(
        source: Source,
        current: Config,
        on_reload: impl FnMut(Reload) + Send + 'static,
    ) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            wake,
            stop: AtomicBool::new(false),
            requested: AtomicBool::new(false),
        });
        let mut watching = Watching {
            shared: Arc::clone(&shared),
            inotify,
            watched: HashMap::new(),
            source,
            judge: Judge {
                current,
                rejected: None,
            },
            on_reload,
        };
        watching.arm()?;
        let thread = std::thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || watching.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Reloads now (SIGHUP) and answers through the callback, whatever the outcome.
    pub fn reload_now(&self) {
        self.shared.requested.store(true, Ordering::Release);
        self.shared.wake();
    }
}

impl Drop for ConfigWatcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        // Dropped from its own callback, the thread cannot wait for itself; it ends after the callback.
        if let Some(thread) = self
            .thread
            .take()
            .filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

struct Watching<F> {
    shared: Arc<Shared>,
    inotify: OwnedFd,
    /// Which names count in which watched directory, by watch descriptor.
    watched: HashMap<i32, Vec<OsString>>,
    source: Source,
    judge: Judge,
    on_reload: F,
}

impl<F: FnMut(Reload)> Watching<F> {
    fn run(mut self) {
        let mut requested = false;
        let mut touched = true;
        while !self.shared.stop.load(Ordering::Acquire) {
            if touched {
                self.settle();
                // Before the file is read: what happens after this wakes the thread again.
                if let Err(error) = self.arm() {
                    let reason = format!("cannot be watched ({error}); send SIGHUP after a change");
                    let error = ConfigError::Unreadable {
                        path: self.source.path().to_owned(),
                        reason,
                    };
                    self.tell(Err(error), requested);
                }
            }
            requested |= self.shared.requested.swap(false, Ordering::AcqRel);
            if touched || requested {
                let loaded = self.source.load();
                self.tell(loaded, requested);
            }
            // Letting a change settle takes what wakes the thread, also the wake-up of whoever ends it.
            if self.shared.stop.load(Ordering::Acquire) {
                return;
            }
            if let Err(error) = self.wait(None) {
                log::error!(
                    "no more waiting for changes of {}: {error}",
                    self.source.path().display()
                );
                return;
            }
            touched = self.drain();
            requested = false;
        }
    }

    fn tell(&mut self, loaded: Result<Config, ConfigError>, requested: bool) {
        if let Some(reload) = self.judge.judge(loaded, requested) {
            (self.on_reload)(reload);
        }
    }

    /// Sleeps until something happens, or `timeout` is over; says whether something happened.
    fn wait(&self, timeout: Option<&Timespec>) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(&self.inotify, PollFlags::IN),
            PollFd::new(&self.shared.wake, PollFlags::IN),
        ];
        match poll(&mut fds, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets a series of changes come to its end.
    fn settle(&mut self) {
        for _ in 0..MAX_STEPS {
            if self.shared.stop.load(Ordering::Acquire)
                || !matches!(self.wait(Some(&QUIET)), Ok(true))
            {
                return;
            }
            self.drain();
        }
    }

    /// Takes all that is waiting; says whether any of it concerns the file.
    fn drain(&mut self) -> bool {
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut counter);
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut touched = false;
        // Ends with EAGAIN when all is read.
        while let Ok(event) = reader.next() {
            let gone = ReadFlags::DELETE_SELF
                | ReadFlags::MOVE_SELF
                | ReadFlags::IGNORED
                | ReadFlags::QUEUE_OVERFLOW;
            let name = event
                .file_name()
                .map(|name| OsStr::from_bytes(name.to_bytes()));
            let counts =
                |names: &Vec<OsString>| names.iter().any(|known| Some(known.as_os_str()) == name);
            // A watch that is no longer wanted still says IGNORED once: not known any more, so it does not count.
            let known = self.watched.get(&event.wd());
            let overflow = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            touched |= overflow
                || known.is_some_and(|names| event.events().intersects(gone) || counts(names));
        }
        touched
    }

    /// Watches the directories that matter now, and no others.
    fn arm(&mut self) -> io::Result<()> {
        let mut spots = links::spots(self.source.path());
        for _ in 0..MAX_STEPS {
            let result = self.watch_all(&spots);
            // A link or folder may have changed before its watch was there: then look again.
            let now = links::spots(self.source.path());
            if now == spots {
                return result;
            }
            spots = now;
        }
        self.watch_all(&spots)
    }

    fn watch_all(&mut self, spots: &[Spot]) -> io::Result<()> {
        let mut watched: HashMap<i32, Vec<OsString>> = HashMap::new();
        for spot in spots {
            let descriptor = inotify::add_watch(&self.inotify, &spot.dir, watch_flags())?;
            watched
                .entry(descriptor)
                .or_default()
                .push(spot.name.clone());
        }
        for descriptor in self.watched.keys().filter(|old| !watched.contains_key(old)) {
            // Fails for a directory that is gone: the kernel has removed that watch itself.
            let _ = inotify::remove_watch(&self.inotify, *descriptor);
        }
        self.watched = watched;
        Ok(())
    }
}

/// Not `MODIFY`: a file that is being written is not read before its writer has closed it.
fn watch_flags() -> WatchFlags {
    WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
}

#[cfg(test)]
#[path = "tests/watcher.rs"]
mod tests;
