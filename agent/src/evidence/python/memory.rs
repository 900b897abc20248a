//! Bounded reads of another process's memory.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::error::{Error, implausible};
use crate::pipeline::Pid;

/// Reads that one request may do: a stack of 128 frames takes some 1,500, and twelve readings of it are cut short here.
const READS: u32 = 20_000;
/// Most bytes of one read: whoever wants more has believed a made-up length.
pub(super) const LARGEST: usize = 4096;
/// Where user space ends on the 64-bit machines there are: anything above is no pointer.
const HIGHEST: u64 = 1 << 56;

/// The memory of one program in one process: it stays that program's when the id is reused or another program is run.
#[derive(Debug)]
pub(super) struct Memory {
    file: File,
    reads_left: Cell<u32>,
}

impl Memory {
    pub(super) fn open(pid: Pid) -> Result<Self, Error> {
        let path = format!("/proc/{pid}/mem");
        match File::open(&path) {
            Ok(file) => Ok(Self {
                file,
                reads_left: Cell::new(READS),
            }),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// Whether the program still runs: the file of one that does not has an end everywhere, also where nothing was mapped.
    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.file.read_at(&mut [0], 1), Ok(0))
    }

    /// A new request begins.
    pub(super) fn refill(&self) {
        self.reads_left.set(READS);
    }

    /// Reads as much of `buffer` as there is memory.
    pub(super) fn read<'a>(&self, at: u64, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        if at == 0 || at >= HIGHEST || buffer.len() > LARGEST {
            return implausible("memory", at);
        }
        let left = self.reads_left.get();
        if left == 0 {
            return Err(Error::Allowance(READS));
        }
        self.reads_left.set(left - 1);
        match self.file.read_at(buffer, at) {
            // The file outlives the memory: when that is gone it has an end everywhere.
            Ok(0) => Err(Error::Gone),
            Ok(got) => Ok(&buffer[..got]),
            Err(source) => Err(Error::Memory { at, source }),
        }
    }

    /// Reads all of an array.
    pub(super) fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], Error> {
        let mut buffer = [0; N];
        if self.read(at, &mut buffer)?.len() == N {
            return Ok(buffer);
        }
        let source = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(Error::Memory { at, source })
    }

    /// Reads all of `size` bytes.
    pub(super) fn bytes(&self, at: u64, size: usize) -> Result<Vec<u8>, Error> {
        let mut buffer = vec![0; size.min(LARGEST + 1)];
        if self.read(at, &mut buffer)?.len() == size {
            return Ok(buffer);
        }
        let source = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(Error::Memory { at, source })
    }

    /// Reads a word, such as a pointer.
    pub(super) fn word(&self, at: u64) -> Result<u64, Error> {
        Ok(u64::from_ne_bytes(self.array(at)?))
    }
}

/// A structure of the process that was read, by offsets.
#[derive(Debug)]
pub(super) struct Struct(pub(super) Vec<u8>);

impl Struct {
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let end = offset.checked_add(N)?;
        self.0.get(offset..end)?.try_into().ok()
    }

    /// The word at an offset; 0 beyond the end, which is no pointer.
    pub(super) fn word(&self, offset: usize) -> u64 {
        self.array(offset).map_or(0, u64::from_ne_bytes)
    }

    pub(super) fn int(&self, offset: usize) -> i32 {
        self.array(offset).map_or(0, i32::from_ne_bytes)
    }

    pub(super) fn byte(&self, offset: usize) -> u8 {
        self.array::<1>(offset).map_or(0, |[byte]| byte)
    }
}
