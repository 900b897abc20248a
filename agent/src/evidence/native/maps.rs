//! `/proc/PID/maps`: what lies where in a process. Bounded, and made of text that the process may have had a hand in.

use std::fs::File;
use std::io::{self, Read as _};

use super::NativeError;
use crate::pipeline::Pid;

/// Bytes of the file that are read; a process with more mappings than fit is shown as far as they do.
const LIMIT: u64 = 8 * 1024 * 1024;

/// A part of the address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    /// First address.
    pub(super) start: u64,
    /// Behind the last one.
    pub(super) end: u64,
    /// Whether code may run there.
    pub(super) executable: bool,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// The file's number on its file system; 0 if there is no file.
    pub(super) inode: u64,
    /// Path as the process's namespace has it, or `[vdso]` and the like; empty if it has none.
    pub(super) path: String,
}

impl Mapping {
    /// Whether an address lies in it.
    pub(super) fn has(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Its place in the file.
    pub(super) fn file_offset(&self, address: u64) -> u64 {
        address.wrapping_sub(self.start).wrapping_add(self.offset)
    }

    /// Last part of the path.
    pub(super) fn basename(&self) -> &str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// All of them, by address.
#[derive(Debug, Default)]
pub(super) struct Maps(Vec<Mapping>);

impl Maps {
    /// Reads them.
    pub(super) fn read(pid: Pid) -> Result<Self, NativeError> {
        let path = format!("/proc/{pid}/maps");
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(&path)?.take(LIMIT).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error| NativeError::Maps {
            path: path.clone(),
            error,
        })?;
        if bytes.is_empty() {
            // A process that has ended and was not waited for.
            let error = io::Error::other("the process has no memory any more");
            return Err(NativeError::Maps { path, error });
        }
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn parse(text: &str) -> Self {
        let mut all: Vec<_> = text.lines().filter_map(parse_line).collect();
        all.sort_by_key(|mapping| mapping.start);
        Self(all)
    }

    /// The mapping that an address lies in.
    pub(super) fn at(&self, address: u64) -> Option<&Mapping> {
        let after = self.0.partition_point(|mapping| mapping.start <= address);
        self.0
            .get(after.checked_sub(1)?)
            .filter(|mapping| mapping.has(address))
    }

    /// Where code may run.
    pub(super) fn executable(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter().filter(|mapping| mapping.executable)
    }

    /// The mapping of the first byte of the same file that lies nearest below, where its ELF header is.
    pub(super) fn head_of(&self, mapping: &Mapping) -> Option<&Mapping> {
        let before = self.0.partition_point(|other| other.start <= mapping.start);
        self.0.get(..before)?.iter().rev().find(|other| {
            other.offset == 0 && other.inode == mapping.inode && other.path == mapping.path
        })
    }
}

/// `start-end perms offset device inode   path`
fn parse_line(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let text = rest.trim_start_matches(' ');
        let (word, after) = text.split_once(' ').unwrap_or((text, ""));
        rest = after;
        word
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = word().split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let executable = word().as_bytes().get(2) == Some(&b'x');
    let offset = hex(word())?;
    let _device = word();
    let inode = word().parse().ok()?;
    Some(Mapping {
        start,
        end,
        executable,
        offset,
        inode,
        path: rest.trim_start_matches(' ').to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
55d000-55e000 r--p 00000000 08:01 77                         /usr/bin/a b (deleted)
55e000-560000 r-xp 00001000 08:01 77                         /usr/bin/a b (deleted)
7f0000-7f1000 rwxp 00000000 00:00 0
7ffd00-7ffd02 r-xp 00000000 00:00 0                          [vdso]
";

    #[test]
    fn lines_are_parsed_and_addresses_found() {
        let maps = Maps::parse(SAMPLE);
        let code = maps.at(0x55_e010).unwrap();
        assert_eq!(code.basename(), "a b");
        assert_eq!(code.file_offset(0x55_e010), 0x1010);
        assert_eq!(maps.head_of(code).unwrap().start, 0x55_d000);
        assert_eq!(maps.at(0x7f_0fff).unwrap().path, "");
        assert_eq!(maps.at(0x7f_1000), None);
        assert_eq!(maps.at(0), None);
        assert_eq!(maps.executable().count(), 3);
    }

    #[test]
    fn broken_lines_are_left_out() {
        let text = "\n-\nzz-1 r-xp 0 0 0\n1-2\n1-2 r-xp\n1000-2000 r-xp 0 0:0 0 \n";
        assert_eq!(Maps::parse(text).0.len(), 1);
    }
}
