//! Which CPython a process runs, and where its `_PyRuntime` is: from the list of its mappings, and the symbol table in its memory.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};

use super::error::{Error, implausible};
use super::layout::Layout;
use super::memory::{Memory, Struct};
use crate::pipeline::Pid;

/// Mappings that are looked at, in bytes of `/proc/PID/maps`: some 40,000.
const MAPS: u64 = 4 << 20;
/// Program headers and entries of the dynamic section that are looked at.
const HEADERS: u64 = 64;
const DYNAMIC: u64 = 128;
/// Symbols of one hash chain that are looked at.
const CHAIN: u32 = 1024;

/// What the list of mappings tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Maps {
    /// Where the program and libraries that may hold the interpreter begin.
    pub candidates: Vec<u64>,
    /// The minor version that names of mapped files give away.
    pub minor: Option<u8>,
    /// Whether the C library is musl.
    pub musl: bool,
}

impl Maps {
    pub(super) fn read(pid: Pid) -> Result<Self, Error> {
        let path = format!("/proc/{pid}/maps");
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        // The same rendering of the same path: also below another root, and with " (deleted)".
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(failed)?;
        let exe = exe.to_string_lossy();
        let file = File::open(&path).map_err(failed)?;
        let mut maps = Self::default();
        let mut reader = BufReader::new(file.take(MAPS));
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                return Ok(maps);
            }
            maps.take_line(&String::from_utf8_lossy(&line), &exe);
        }
    }

    /// One line: `start-end perms offset device inode path`.
    fn take_line(&mut self, line: &str, exe: &str) {
        let mut words = line.trim_end().splitn(6, ' ');
        let (Some(range), _, Some(offset), _, _, Some(path)) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            return;
        };
        let path = path.trim_start();
        let name = path.rsplit('/').next().unwrap_or(path);
        self.musl |= name.starts_with("ld-musl-");
        let is_program = path == exe;
        let library = name
            .strip_prefix("libpython")
            .or(name.strip_prefix("python").filter(|_| is_program));
        let minor = library
            .and_then(|rest| rest.strip_prefix("3."))
            .or_else(|| Some(name.split_once(".cpython-3")?.1));
        if let Some(minor) = minor {
            let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
            self.minor = self.minor.or(digits.parse().ok());
        }
        let begins = offset.bytes().all(|byte| byte == b'0');
        if begins && (is_program || name.starts_with("libpython")) && self.candidates.len() < 16 {
            let start = range.split('-').next().unwrap_or_default();
            self.candidates.extend(u64::from_str_radix(start, 16));
        }
    }
}

/// Where the interpreter of a process is, and what it looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interpreter {
    pub runtime: u64,
    /// Of code objects and strings: what says it is one must point there.
    pub code_type: u64,
    pub string_type: u64,
    pub layout: Layout,
}

/// Finds the interpreter.
pub(super) fn find(memory: &Memory, maps: &Maps) -> Result<Interpreter, Error> {
    let mut failure = None;
    for base in &maps.candidates {
        match Image::open(memory, *base).and_then(|image| image.interpreter(maps.minor)) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    // A program that is no CPython may well have no symbols: that is no failure unless something says Python.
    match failure {
        Some(error) if maps.minor.is_some() => Err(error),
        _ => Err(Error::NotPython),
    }
}

/// A program or library as the loader mapped it.
struct Image<'a> {
    memory: &'a Memory,
    /// What to add to the file's addresses.
    bias: u64,
    symbols: u64,
    strings: u64,
    hash: u64,
}

impl<'a> Image<'a> {
    /// Reads ELF header, program headers and the dynamic section at `base`.
    fn open(memory: &'a Memory, base: u64) -> Result<Self, Error> {
        let header = Struct(memory.bytes(base, 64)?);
        if header.word(0) & 0xffff_ffff_ffff != 0x0000_0102_464c_457f {
            return implausible("64-bit ELF header", base);
        }
        let (mut bias, mut dynamic) = (None, None);
        let count = (header.word(56) & 0xffff).min(HEADERS);
        for number in 0..count {
            let at = base.wrapping_add(header.word(32)).wrapping_add(number * 56);
            let entry = Struct(memory.bytes(at, 56)?);
            let (offset, address) = (entry.word(8), entry.word(16));
            match entry.word(0) & 0xffff_ffff {
                1 if offset == 0 => bias = Some(base.wrapping_sub(address)),
                2 => dynamic = Some(address),
                _ => {}
            }
        }
        let (Some(bias), Some(dynamic)) = (bias, dynamic) else {
            return implausible("dynamic section", base);
        };
        let mut image = Self {
            memory,
            bias,
            symbols: 0,
            strings: 0,
            hash: 0,
        };
        for number in 0..DYNAMIC {
            let at = dynamic.wrapping_add(bias).wrapping_add(number * 16);
            let entry = Struct(memory.bytes(at, 16)?);
            // glibc replaces the addresses of this section by those in memory, musl leaves them.
            let value = entry.word(8);
            let address = if value < base {
                value.wrapping_add(bias)
            } else {
                value
            };
            match entry.word(0) {
                0 => break,
                5 => image.strings = address,
                6 => image.symbols = address,
                0x6fff_fef5 => image.hash = address,
                _ => {}
            }
        }
        if image.symbols == 0 || image.strings == 0 || image.hash == 0 {
            return implausible("symbol table with a GNU hash", base);
        }
        Ok(image)
    }

    /// The interpreter, if this is one.
    fn interpreter(&self, named: Option<u8>) -> Result<Option<Interpreter>, Error> {
        let Some(runtime) = self.symbol(b"_PyRuntime")? else {
            return Ok(None);
        };
        let layout = match Layout::of_runtime(self.memory, runtime)? {
            Some(layout) => layout,
            None => self.fixed_layout(named)?,
        };
        let (Some(code_type), Some(string_type)) = (
            self.symbol(b"PyCode_Type")?,
            self.symbol(b"PyUnicode_Type")?,
        ) else {
            return implausible("symbol PyCode_Type", runtime);
        };
        Ok(Some(Interpreter {
            runtime,
            code_type,
            string_type,
            layout,
        }))
    }

    /// 3.11 and later say their version; before, only names of files do.
    fn fixed_layout(&self, named: Option<u8>) -> Result<Layout, Error> {
        let minor = match self.symbol(b"Py_Version")? {
            Some(at) => {
                let version = self.memory.word(at)?;
                u8::try_from(version >> 16 & 0xff).ok()
            }
            None => named.filter(|minor| *minor < 11),
        };
        let Some(minor) = minor else {
            let why = "neither it nor the names of its files say its version";
            return Err(Error::Unsupported(why.to_owned()));
        };
        Layout::of_minor(minor).ok_or_else(|| Error::Unsupported(format!("CPython 3.{minor}")))
    }

    /// The address of a symbol, by the hash table that the dynamic loader uses itself.
    fn symbol(&self, name: &[u8]) -> Result<Option<u64>, Error> {
        let hash = name.iter().fold(5381_u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
        });
        let int = |at: u64| self.memory.array(at).map(u32::from_ne_bytes);
        let (buckets, first) = (int(self.hash)?, int(self.hash + 4)?);
        if buckets == 0 {
            return implausible("hash table of symbols", self.hash);
        }
        let bucket_table = self.hash + 16 + u64::from(int(self.hash + 8)?) * 8;
        let chains = bucket_table + u64::from(buckets) * 4;
        let mut number = int(bucket_table + u64::from(hash % buckets) * 4)?;
        for _ in 0..CHAIN {
            if number < first {
                return Ok(None);
            }
            let chained = int(chains + u64::from(number - first) * 4)?;
            if chained | 1 == hash | 1 {
                let symbol = Struct(
                    self.memory
                        .bytes(self.symbols + u64::from(number) * 24, 24)?,
                );
                let at = self.strings + (symbol.word(0) & 0xffff_ffff);
                let found = self.memory.bytes(at, name.len() + 1)?;
                if found.strip_prefix(name) == Some(&[0]) {
                    return Ok(Some(symbol.word(8).wrapping_add(self.bias)));
                }
            }
            if chained & 1 == 1 {
                return Ok(None);
            }
            number = number.wrapping_add(1);
        }
        implausible("end of a chain of symbols", chains)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(exe: &str, lines: &[&str]) -> Maps {
        let mut maps = Maps::default();
        for line in lines {
            maps.take_line(line, exe);
        }
        maps
    }

    #[test]
    fn the_program_and_libpython_are_candidates() {
        let found = maps(
            "/usr/bin/python3.9 (deleted)",
            &[
                "00400000-0041f000 r--p 00000000 fe:00 12  /usr/bin/python3.9 (deleted)\n",
                "0041f000-0051f000 r-xp 0001f000 fe:00 12  /usr/bin/python3.9 (deleted)\n",
                "7f0000000000-7f0000001000 r--p 00000000 fe:00 13     /usr/lib/libpython3.11.so.1.0\n",
                "7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n",
                "7f0000004000-7f0000005000 r--p 00000000 fe:00 14     /lib/ld-musl-x86_64.so.1\n",
            ],
        );
        assert_eq!(
            found,
            Maps {
                candidates: vec![0x40_0000, 0x7f00_0000_0000],
                minor: Some(9),
                musl: true,
            }
        );
    }

    #[test]
    fn an_extension_module_gives_the_version_away() {
        let line = "7f0000000000-7f0000001000 r--p 00000000 fe:00 13 /x/_json.cpython-310-x86_64-linux-gnu.so\n";
        assert_eq!(maps("/app/python", &[line]).minor, Some(10));
        assert_eq!(
            maps("/app/python", &["garbage", "", "- - - - -"]).minor,
            None
        );
        // Of another program named after Python nothing is concluded.
        let line = "00400000-0041f000 r--p 00000000 fe:00 12 /opt/python3.99-exporter\n";
        assert_eq!(maps("/opt/else", &[line]), Maps::default());
    }
}
