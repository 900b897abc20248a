//! That a thread has ended, for whoever waits on descriptors: also when it panicked, which nobody would notice otherwise.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// Becomes readable when the thread has ended, and stays so.
#[derive(Debug)]
pub(super) struct Ended(Arc<OwnedFd>);

/// Belongs to the thread, which drops it however it ends.
#[derive(Debug)]
pub(super) struct UntilEnd(Arc<OwnedFd>);

/// Both ends, before the thread is started.
pub(super) fn ended() -> io::Result<(UntilEnd, Ended)> {
    let counter = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    Ok((UntilEnd(counter.clone()), Ended(counter)))
}

impl AsFd for Ended {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for UntilEnd {
    fn drop(&mut self) {
        // Written once, so that there is room.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn has_ended(ended: &Ended, limit: i64) -> bool {
        let timeout = Timespec {
            tv_sec: limit,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(ended, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).unwrap() == 1
    }

    #[test]
    fn a_thread_that_panics_is_noticed() {
        for panics in [true, false] {
            let (until_end, ended) = ended().unwrap();
            let (go, told) = channel::<()>();
            let thread = std::thread::spawn(move || {
                let _until_end = until_end;
                told.recv().unwrap();
                assert!(!panics, "on purpose");
            });
            assert!(!has_ended(&ended, 0));
            go.send(()).unwrap();
            assert!(has_ended(&ended, 30));
            assert_eq!(thread.join().is_err(), panics);
            assert!(has_ended(&ended, 0), "it stays so");
        }
    }
}
