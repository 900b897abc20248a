//! Who holds a file lock: `/proc/locks` lists each lock, and below it those that wait for it, by process.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};

use crate::pipeline::Pid;

/// At about 60 bytes a lock; more are not read.
const MAX_BYTES: u64 = 4 << 20;

/// The process that holds the lock that this one waits for; `None` if it is not listed, or the lock belongs to an open file
/// and no process.
pub(super) fn holder(waiter: Pid, call: &str) -> std::io::Result<Option<Pid>> {
    let file = File::open("/proc/locks")?;
    let mut search = Search::new(waiter, call);
    for line in BufReader::new(file.take(MAX_BYTES)).lines() {
        search.take(&line?);
    }
    Ok(search.found())
}

struct Search<'a> {
    waiter: Pid,
    kinds: &'a [&'a str],
    /// Number and holder of the lock whose waiters come now.
    held: Option<(String, i64)>,
    found: Vec<i64>,
}

impl Search<'_> {
    fn new(waiter: Pid, call: &str) -> Self {
        Self {
            waiter,
            kinds: if call == "flock" {
                &["FLOCK"]
            } else {
                &["POSIX", "OFDLCK"]
            },
            held: None,
            found: Vec::new(),
        }
    }

    /// `1: POSIX  ADVISORY  WRITE 77 fe:00:131 0 EOF`; who waits for that: `1: -> POSIX  ADVISORY  WRITE 78 …`.
    fn take(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some(number), Some(mut kind)) = (words.next(), words.next()) else {
            return;
        };
        let waits = kind == "->";
        if waits {
            kind = words.next().unwrap_or_default();
        }
        let pid = words.nth(2).and_then(|word| word.parse::<i64>().ok());
        let Some(pid) = pid.filter(|_| self.kinds.contains(&kind)) else {
            if !waits {
                self.held = None;
            }
            return;
        };
        if !waits {
            self.held = Some((number.to_owned(), pid));
        } else if pid == i64::from(self.waiter.0)
            && let Some((_, holder)) = self.held.as_ref().filter(|(lock, _)| lock == number)
        {
            self.found.push(*holder);
        }
    }

    /// One holder, or nobody can be named: another thread of the process may wait for another lock.
    fn found(mut self) -> Option<Pid> {
        self.found.dedup();
        match self.found.as_slice() {
            [pid] => u32::try_from(*pid).ok().filter(|pid| *pid > 0).map(Pid),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_stands_above_its_waiters() {
        let table = "\
1: POSIX  ADVISORY  WRITE 50 fe:00:9 0 EOF
2: FLOCK  ADVISORY  WRITE 77 fe:00:131 0 EOF
2: -> FLOCK  ADVISORY  WRITE 78 fe:00:131 0 EOF
2:  -> FLOCK  ADVISORY  WRITE 79 fe:00:131 0 EOF
3: POSIX  ADVISORY  WRITE 60 fe:00:132 0 EOF
3: -> POSIX  ADVISORY  WRITE 78 fe:00:132 0 EOF
4: OFDLCK ADVISORY  WRITE -1 fe:00:133 0 EOF
4: -> OFDLCK ADVISORY  WRITE 80 fe:00:133 0 EOF
nonsense
";
        let find = |pid: u32, call: &str| {
            let mut search = Search::new(Pid(pid), call);
            table.lines().for_each(|line| search.take(line));
            search.found()
        };
        assert_eq!(find(78, "flock"), Some(Pid(77)));
        assert_eq!(find(79, "flock"), Some(Pid(77)));
        assert_eq!(find(78, "fcntl"), Some(Pid(60)));
        assert_eq!(find(80, "fcntl"), None);
        assert_eq!(find(50, "fcntl"), None);
    }
}
