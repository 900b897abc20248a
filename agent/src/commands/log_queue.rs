//! The log of an agent that must not wait for whoever reads its stderr: lines go into a bounded queue, and a thread of their own
//! writes them. What does not fit is dropped and counted.
//!
//! Before `start`, and in commands that end soon, lines are written at once.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait.
const QUEUE: usize = 1024;
/// At the end the last lines get this long to be written.
const LAST_LINES: Duration = Duration::from_millis(500);

static STARTED: OnceLock<Queue> = OnceLock::new();

enum Job {
    Line(Vec<u8>),
    /// All lines before it are written: say so.
    Written(SyncSender<()>),
}

#[derive(Debug)]
struct Queue {
    jobs: SyncSender<Job>,
    dropped: AtomicU64,
}

impl Queue {
    fn put(&self, line: &[u8]) {
        if let Err(TrySendError::Full(_)) = self.jobs.try_send(Job::Line(line.to_vec())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes what comes, until nobody can send any more.
fn drain(jobs: &Receiver<Job>, dropped: &AtomicU64, mut out: impl Write) {
    for job in jobs {
        // Nobody may be reading: then there is nobody to tell.
        match job {
            Job::Line(line) => drop(out.write_all(&line)),
            Job::Written(done) => drop(done.try_send(())),
        }
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(
                out,
                "[WARN ] {dropped} lines of the log were dropped: stderr is not read fast enough"
            );
        }
    }
}

/// Where the logger writes to.
#[derive(Debug, Clone, Copy)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match STARTED.get() {
            Some(queue) => queue.put(line),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From here on no thread waits for stderr to log. The signals that end the agent must be blocked already: the new thread
/// inherits that.
pub(super) fn start() {
    let (jobs, inbox) = sync_channel(QUEUE);
    let queue = Queue {
        jobs,
        dropped: AtomicU64::new(0),
    };
    if STARTED.set(queue).is_err() {
        return;
    }
    let write = move || {
        if let Some(queue) = STARTED.get() {
            drain(&inbox, &queue.dropped, io::stderr());
        }
    };
    // Without the thread the queue fills, lines are dropped, and nothing waits: still better than a rescue that does.
    if let Err(error) = std::thread::Builder::new().name("log".into()).spawn(write) {
        eprintln!("loopwarden: cannot start the thread that writes the log: {error}");
    }
}

/// Lets the last lines be written, for a moment.
pub fn finish() {
    let Some(queue) = STARTED.get() else {
        return;
    };
    let (done, written) = sync_channel(1);
    if queue.jobs.try_send(Job::Written(done)).is_ok() {
        let _ = written.recv_timeout(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_does_not_read_stops_nobody_and_learns_what_it_missed() {
        let (jobs, inbox) = sync_channel(2);
        let queue = Queue {
            jobs,
            dropped: AtomicU64::new(0),
        };
        for number in 0..5 {
            queue.put(format!("line {number}\n").as_bytes());
        }
        let Queue { jobs, dropped } = queue;
        drop(jobs);
        let mut out = Vec::new();
        drain(&inbox, &dropped, &mut out);
        let text = String::from_utf8(out).expect("lines are text");
        let lines: Vec<&str> = text.lines().collect();
        let missed = "[WARN ] 3 lines of the log were dropped: stderr is not read fast enough";
        assert_eq!(lines, ["line 0", missed, "line 1"]);
    }
}
