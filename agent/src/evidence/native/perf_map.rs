//! Names of code that a runtime makes while it runs: the perf map that it offers as `/tmp/perf-PID.map`.
//!
//! Node does with `--perf-basic-prof`. The file is the process's own and may be large, so it is read once a stack, line by line,
//! for the few addresses of that stack, and nothing of it is kept.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use crate::pipeline::{Frame, Pid};

use super::{image, text};

/// Bytes of the file that are read; the newest code stands at its end, which is where reading starts then.
const LIMIT: u64 = 64 * 1024 * 1024;
/// Longest line that is looked at.
const LINE: u64 = 4096;

/// Names for addresses, as far as the process offers any.
pub(super) fn look_up(pid: Pid, addresses: &[u64]) -> BTreeMap<u64, Frame> {
    if addresses.is_empty() {
        return BTreeMap::new();
    }
    let file = inner_pid(pid)
        .and_then(|inner| image::open_in(pid, Path::new(&format!("/tmp/perf-{inner}.map"))));
    match file.and_then(|file| scan(file, addresses)) {
        Ok(found) => found,
        Err(error) => {
            log::debug!("perf map of process {pid}: {error}");
            BTreeMap::new()
        }
    }
}

/// The process's id in its own PID namespace, which is the one in the file's name.
fn inner_pid(pid: Pid) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.and_then(|ids| ids.split_whitespace().last()?.parse().ok())
        .ok_or_else(|| io::Error::other("no NSpid in its status"))
}

fn scan(mut file: std::fs::File, addresses: &[u64]) -> io::Result<BTreeMap<u64, Frame>> {
    use std::io::{Seek as _, SeekFrom};
    let length = file.metadata()?.len();
    if length > LIMIT {
        file.seek(SeekFrom::Start(length - LIMIT))?;
    }
    let mut lines = BufReader::with_capacity(64 * 1024, file.take(LIMIT));
    let mut found = BTreeMap::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.by_ref().take(LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(found);
        }
        let Some((start, size, name)) = parse(&line) else {
            continue;
        };
        // Code is moved and thrown away, and its room used again: the last entry counts.
        for address in addresses {
            if address.checked_sub(start).is_some_and(|into| into < size) {
                found.insert(*address, frame(&String::from_utf8_lossy(name)));
            }
        }
    }
}

/// `START SIZE name with blanks`, numbers in hexadecimal.
fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut parts = line.trim_ascii_end().splitn(3, |byte| *byte == b' ');
    let mut number = || u64::from_str_radix(std::str::from_utf8(parts.next()?).ok()?, 16).ok();
    let (start, size) = (number()?, number()?);
    Some((start, size, parts.next()?))
}

/// A name as V8 writes it: `JS:*inner /app/server.js:12:9` (before Node 18 `LazyCompile:`); others are names as they are.
/// The line is where the function begins.
fn frame(name: &str) -> Frame {
    let script = ["JS:", "LazyCompile:", "Function:", "Script:", "Eval:"]
        .iter()
        .find_map(|kind| name.strip_prefix(kind));
    let Some(script) = script else {
        return Frame {
            function: text::name(name),
            file: None,
            line: None,
        };
    };
    // How it was compiled: interpreted, baseline, optimised.
    let script = script.trim_start_matches(['~', '^', '+', '*', '\'']);
    let (function, place) = script.split_once(' ').unwrap_or((script, ""));
    let function = if function.is_empty() {
        "(anonymous)"
    } else {
        function
    };
    let mut from_end = place.rsplitn(3, ':');
    let (_column, line, file) = (from_end.next(), from_end.next(), from_end.next());
    let line = line.and_then(|line| line.parse().ok());
    let file = match line {
        Some(_) => file,
        None => Some(place),
    };
    Frame {
        function: text::name(function),
        file: file.filter(|file| !file.is_empty()).map(text::path),
        line,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn shown(name: &str) -> (String, Option<String>, Option<u32>) {
        let frame = frame(name);
        (frame.function, frame.file, frame.line)
    }

    #[test]
    fn names_of_v8_are_taken_apart() {
        let file = |name: &str| Some(name.to_owned());
        let table = [
            (
                "JS:*inner /app/a b.js:12:9",
                ("inner".to_owned(), file("/app/a b.js"), Some(12)),
            ),
            (
                "LazyCompile:~outer file:///app/x.mjs:3:14",
                ("outer".to_owned(), file("file:///app/x.mjs"), Some(3)),
            ),
            (
                "JS:^ node:internal/main:1:1",
                (
                    "(anonymous)".to_owned(),
                    file("node:internal/main"),
                    Some(1),
                ),
            ),
            ("JS:~f", ("f".to_owned(), None, None)),
            ("Builtin:Abort", ("Builtin:Abort".to_owned(), None, None)),
            ("", (String::new(), None, None)),
        ];
        for (name, expected) in table {
            assert_eq!(shown(name), expected, "{name}");
        }
    }

    #[test]
    fn the_last_entry_of_an_address_counts() {
        let mut file = tempfile::tempfile().unwrap();
        writeln!(file, "1000 20 JS:~old /a.js:1:1").unwrap();
        writeln!(file, "nonsense\n\n10 zz x\n{}", "y".repeat(10_000)).unwrap();
        writeln!(file, "1010 8 JS:*new /a.js:2:1\nffffffffffffffff 9 end").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let found = scan(file, &[0x1000, 0x1010, 0x1018, 0x1020]).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|(address, frame)| (*address, frame.function.as_str()))
            .collect();
        assert_eq!(names, [(0x1000, "old"), (0x1010, "new"), (0x1018, "old")]);
    }
}
