//! Where things are inside CPython's structures.
//!
//! Up to 3.12 the offsets are fixed for each minor version (64-bit; made with a C program from its headers, and the same for all patch
//! versions since its first final one). From 3.13 on `_PyRuntime` begins with a table that says where most things are.

use super::error::{Error, implausible};
use super::memory::{Memory, Struct};

/// What the table of 3.13 and later begins with.
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");

/// How a code object tells the line of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineTable {
    /// `co_lnotab`, 3.8 and 3.9.
    Increments,
    /// `co_linetable` of 3.10.
    Ranges,
    /// `co_linetable` since 3.11.
    Locations,
}

/// Where it says who holds the interpreter lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GilLayout {
    /// In `_PyRuntime`: the current thread state (null while nobody holds it), and the lock itself.
    Runtime { current: u64, gil: u64 },
    /// In the interpreter: a pointer to the lock, and within that the last holder and whether it is locked.
    Interpreter {
        pointer: u64,
        holder: u64,
        locked: u64,
    },
}

/// Size of `struct _gil_runtime_state`: 208 in 3.8 to 3.14, with 64-bit glibc or musl.
pub(super) const GIL_SIZE: u64 = 208;

/// Offsets of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub minor: u8,
    /// In `_PyRuntime`: the first interpreter.
    pub interpreters: u64,
    pub gil: GilLayout,
    /// In an interpreter: the next one, and its first thread.
    pub interpreter_next: u64,
    pub threads: u64,
    /// In a thread state.
    pub thread_next: usize,
    pub thread_interpreter: usize,
    pub thread_ident: usize,
    /// The kernel's thread id; since 3.11.
    pub thread_native: Option<usize>,
    /// The current frame, or what leads to it.
    pub thread_frame: usize,
    /// 3.11 and 3.12: where in what `thread_frame` leads to the frame is.
    pub frame_indirect: Option<u64>,
    /// In a frame.
    pub frame_back: usize,
    pub frame_code: usize,
    /// Index of the last instruction, or since 3.11 its address.
    pub frame_instruction: usize,
    /// Since 3.11: who owns the frame.
    pub frame_owner: Option<usize>,
    pub frame_locals: usize,
    /// In a code object.
    pub code_file: usize,
    pub code_name: usize,
    pub code_qualified: Option<usize>,
    pub code_first_line: usize,
    pub code_line_table: usize,
    pub code_arguments: usize,
    pub code_variables: usize,
    pub code_stack_size: usize,
    /// Number of local variables; cells follow them.
    pub code_locals: usize,
    /// Since 3.11: where the instructions begin.
    pub code_instructions: usize,
    pub line_table: LineTable,
    /// Sizes of the heads of strings: ASCII, and others.
    pub ascii: usize,
    pub compact: usize,
}

/// In every object with the interpreter lock: its type, and the size if it has one.
pub(super) const OBJECT_TYPE: usize = 8;
pub(super) const OBJECT_SIZE: usize = 16;
pub(super) const BYTES_DATA: u64 = 32;
pub(super) const TUPLE_ITEMS: u64 = 24;
pub(super) const TYPE_NAME: u64 = 24;
pub(super) const STRING_LENGTH: usize = 16;
pub(super) const STRING_STATE: usize = 32;

const V3_8: Layout = Layout {
    minor: 8,
    interpreters: 32,
    gil: GilLayout::Runtime {
        current: runtime(1368, 1384),
        gil: runtime(1152, 1152),
    },
    interpreter_next: 0,
    threads: 8,
    thread_next: 8,
    thread_interpreter: 16,
    thread_ident: 176,
    thread_native: None,
    thread_frame: 24,
    frame_indirect: None,
    frame_back: 24,
    frame_code: 32,
    frame_instruction: 104,
    frame_owner: None,
    frame_locals: 360,
    code_file: 104,
    code_name: 112,
    code_qualified: None,
    code_first_line: 40,
    code_line_table: 120,
    code_arguments: 16,
    code_variables: 72,
    code_stack_size: 32,
    code_locals: 28,
    code_instructions: 0,
    line_table: LineTable::Increments,
    ascii: 48,
    compact: 72,
};

const V3_9: Layout = Layout {
    minor: 9,
    gil: GilLayout::Runtime {
        current: runtime(568, 584),
        gil: 352,
    },
    ..V3_8
};

const V3_10: Layout = Layout {
    minor: 10,
    frame_instruction: 96,
    frame_locals: 352,
    line_table: LineTable::Ranges,
    ..V3_9
};

const V3_11: Layout = Layout {
    minor: 11,
    interpreters: 40,
    gil: GilLayout::Runtime {
        current: runtime(576, 592),
        gil: 360,
    },
    threads: 16,
    thread_ident: 152,
    thread_native: Some(160),
    thread_frame: 56,
    frame_indirect: Some(8),
    frame_back: 48,
    frame_code: 32,
    frame_instruction: 56,
    frame_owner: Some(69),
    frame_locals: 72,
    code_file: 112,
    code_name: 120,
    code_qualified: Some(128),
    code_first_line: 72,
    code_line_table: 136,
    code_arguments: 56,
    code_variables: 96,
    code_stack_size: 68,
    code_locals: 76,
    code_instructions: 184,
    line_table: LineTable::Locations,
    ..V3_10
};

const V3_12: Layout = Layout {
    minor: 12,
    gil: GilLayout::Interpreter {
        pointer: 384,
        holder: 8,
        locked: 16,
    },
    threads: 72,
    thread_ident: 136,
    thread_native: Some(144),
    frame_indirect: Some(0),
    frame_back: 8,
    frame_code: 0,
    frame_owner: Some(70),
    code_first_line: 68,
    code_arguments: 52,
    code_stack_size: 64,
    code_locals: 72,
    code_instructions: 192,
    ascii: 40,
    compact: 56,
    ..V3_11
};

/// Mutexes and condition variables before these fields are larger on arm64.
const fn runtime(x86_64: u64, aarch64: u64) -> u64 {
    if cfg!(target_arch = "aarch64") {
        aarch64
    } else {
        x86_64
    }
}

impl Layout {
    /// The fixed layouts.
    pub(super) fn of_minor(minor: u8) -> Option<Self> {
        [V3_8, V3_9, V3_10, V3_11, V3_12]
            .into_iter()
            .find(|layout| layout.minor == minor)
    }

    /// How much of a frame holds all that is needed.
    pub(super) fn frame_size(&self) -> usize {
        // Up to 3.10 a frame has a block stack of 240 bytes before its variables.
        self.frame_locals.min(112)
    }

    /// What `_PyRuntime` says of itself; `None` before 3.13.
    pub(super) fn of_runtime(memory: &Memory, runtime: u64) -> Result<Option<Self>, Error> {
        // The table is some 700 bytes; all that is used lies in the first 512.
        let table = Struct(memory.bytes(runtime, 512)?);
        if table.word(0) != COOKIE {
            return Ok(None);
        }
        let version = table.word(8);
        let (major, minor) = (version >> 24 & 0xff, version >> 16 & 0xff);
        if table.word(16) != 0 {
            let name = format!("CPython {major}.{minor}, free-threaded");
            return Err(Error::Unsupported(name));
        }
        match (major, minor) {
            (3, 13) => Self::from_table(&table, &T3_13, runtime).map(Some),
            (3, 14) => Self::from_table(&table, &T3_14, runtime).map(Some),
            _ => Err(Error::Unsupported(format!("CPython {major}.{minor}"))),
        }
    }

    fn from_table(table: &Struct, places: &Places, at: u64) -> Result<Self, Error> {
        // A made-up table must not make reads large: no offset in a structure of CPython is near this.
        let any = |place: usize, limit: u64| {
            let offset = table.word(place * 8);
            if offset < limit {
                Ok(offset)
            } else {
                implausible("table of offsets", at)
            }
        };
        let small = |place: usize| any(place, 512).and_then(|offset| index(offset, at));
        let large = |place: usize| any(place, 1 << 24);
        let gil = large(places.gil)?;
        Ok(Self {
            minor: places.minor,
            interpreters: large(places.interpreters)?,
            gil: GilLayout::Interpreter {
                pointer: large(places.gil_pointer)?,
                holder: large(places.gil_holder)?.saturating_sub(gil),
                locked: large(places.gil_locked)?.saturating_sub(gil),
            },
            interpreter_next: large(places.interpreter_next)?,
            threads: large(places.threads)?,
            thread_next: small(places.thread + 2)?,
            thread_interpreter: small(places.thread + 3)?,
            thread_frame: small(places.thread + 4)?,
            thread_ident: small(places.thread + 5)?,
            thread_native: Some(small(places.thread + 6)?),
            frame_indirect: None,
            frame_back: small(places.frame + 1)?,
            frame_code: small(places.frame + 2)?,
            frame_instruction: small(places.frame + 3)?,
            frame_locals: small(places.frame + 4)?,
            frame_owner: Some(small(places.frame + 5)?),
            code_file: small(places.code + 1)?,
            code_name: small(places.code + 2)?,
            code_qualified: Some(small(places.code + 3)?),
            code_line_table: small(places.code + 4)?,
            code_first_line: small(places.code + 5)?,
            code_arguments: small(places.code + 6)?,
            code_variables: small(places.code + 7)?,
            code_instructions: small(places.code + 9)?,
            ..V3_12
        })
    }
}

fn index(offset: u64, at: u64) -> Result<usize, Error> {
    usize::try_from(offset).or_else(|_| implausible("table of offsets", at))
}

/// Where in the table of offsets, in words, what is wanted stands: the order of a minor version is fixed.
struct Places {
    minor: u8,
    interpreters: usize,
    interpreter_next: usize,
    threads: usize,
    gil_pointer: usize,
    gil: usize,
    gil_locked: usize,
    gil_holder: usize,
    /// First word of the part about thread states, frames and code objects.
    thread: usize,
    frame: usize,
    code: usize,
}

const T3_13: Places = Places {
    minor: 13,
    interpreters: 5,
    interpreter_next: 8,
    threads: 9,
    gil_pointer: 14,
    gil: 15,
    gil_locked: 17,
    gil_holder: 18,
    thread: 19,
    frame: 28,
    code: 34,
};

const T3_14: Places = Places {
    minor: 14,
    interpreters: 5,
    interpreter_next: 8,
    threads: 9,
    gil_pointer: 15,
    gil: 16,
    gil_locked: 18,
    gil_holder: 19,
    thread: 22,
    frame: 31,
    code: 39,
};
