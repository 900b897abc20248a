//! Function, file and line of a code object.

use super::error::{Error, implausible};
use super::layout::{BYTES_DATA, LineTable, OBJECT_SIZE, OBJECT_TYPE};
use super::lines;
use super::memory::{LARGEST, Struct};
use super::object::Objects;
use crate::pipeline::Frame;

/// Longest line table taken: a function of some 100,000 instructions.
const LONGEST_TABLE: usize = 256 << 10;
/// Code objects are larger; what is needed lies within this.
const HEAD: usize = 208;

/// A frame's place in its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub code: u64,
    /// Index of the last instruction, or since 3.11 its address.
    pub instruction: u64,
    /// The frame itself, for its local variables.
    pub frame: u64,
}

impl Objects<'_> {
    /// What a person reads of a frame.
    pub(super) fn frame(&self, place: Place) -> Result<Frame, Error> {
        let layout = &self.python.layout;
        let code = Struct(self.memory.bytes(place.code, HEAD)?);
        if code.word(OBJECT_TYPE) != self.python.code_type {
            return implausible("code object", place.code);
        }
        let file = self.string(code.word(layout.code_file))?;
        let function = if let Some(offset) = layout.code_qualified {
            self.string(code.word(offset))?
        } else {
            let name = self.string(code.word(layout.code_name))?;
            match self.class(place, &code) {
                Some(class) => format!("{class}.{name}"),
                None => name,
            }
        };
        Ok(Frame {
            function,
            file: Some(file),
            line: self.line(place, &code)?,
        })
    }

    fn line(&self, place: Place, code: &Struct) -> Result<Option<u32>, Error> {
        let layout = &self.python.layout;
        let offset = match layout.line_table {
            LineTable::Increments => i64::from(as_int(place.instruction)),
            LineTable::Ranges => i64::from(as_int(place.instruction)) * 2,
            LineTable::Locations => {
                let begin = place.code.wrapping_add(layout.code_instructions as u64);
                place.instruction.wrapping_sub(begin).cast_signed()
            }
        };
        let table = self.table(code.word(layout.code_line_table))?;
        let first = code.int(layout.code_first_line);
        Ok(lines::line(layout.line_table, &table, first, offset))
    }

    /// The content of a bytes object.
    fn table(&self, at: u64) -> Result<Vec<u8>, Error> {
        let head = Struct(self.memory.bytes(at, 24)?);
        let Some(size) = usize::try_from(head.word(OBJECT_SIZE))
            .ok()
            .filter(|size| *size <= LONGEST_TABLE)
        else {
            return implausible("line table", at);
        };
        let mut table = Vec::with_capacity(size);
        while table.len() < size {
            let part = (size - table.len()).min(LARGEST);
            let from = at.wrapping_add(BYTES_DATA + table.len() as u64);
            table.extend(self.memory.bytes(from, part)?);
        }
        Ok(table)
    }

    /// Before 3.11 code does not know its qualified name: the class of a first argument called `self` tells most of it. It may be a subclass
    /// of the one that defines the function, and is not there once the function's own code has put the argument into a cell.
    fn class(&self, place: Place, code: &Struct) -> Option<String> {
        let layout = &self.python.layout;
        if code.int(layout.code_arguments) < 1 {
            return None;
        }
        let first = self.tuple_item(code.word(layout.code_variables), 0).ok()?;
        if self.string(first).ok()? != "self" {
            return None;
        }
        let slot = place.frame.wrapping_add(layout.frame_locals as u64);
        let object = self.memory.word(slot).ok().filter(|object| *object != 0)?;
        let name = self.type_name(object).ok()?;
        name.rsplit('.').next().map(str::to_owned)
    }
}

/// Before 3.11 the index is an `int`.
fn as_int(word: u64) -> i32 {
    u32::try_from(word & 0xffff_ffff).unwrap_or(0).cast_signed()
}
