//! Strings and types of the interpreter.

use super::error::{Error, implausible};
use super::image::Interpreter;
use super::layout::{OBJECT_TYPE, STRING_LENGTH, STRING_STATE, TUPLE_ITEMS, TYPE_NAME};
use super::memory::{Memory, Struct};

/// Longest text taken, in characters: what is longer is cut.
const LONGEST: usize = 512;
/// Head and a name of usual length, in one read.
const USUAL: usize = 320;

/// Reads objects of one interpreter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Objects<'a> {
    pub memory: &'a Memory,
    pub python: &'a Interpreter,
}

impl Objects<'_> {
    /// A string, made harmless for whoever prints it.
    pub(super) fn string(&self, at: u64) -> Result<String, Error> {
        let mut buffer = [0; USUAL];
        let got = self.memory.read(at, &mut buffer)?.to_vec();
        let head = Struct(got);
        let state = head.byte(STRING_STATE);
        let (kind, is_compact, is_ascii) =
            (state >> 2 & 7, state >> 5 & 1 == 1, state >> 6 & 1 == 1);
        // Strings that are not compact are made by old C extensions only, never for names in code.
        if head.word(OBJECT_TYPE) != self.python.string_type || !is_compact {
            return implausible("string", at);
        }
        let length = head.word(STRING_LENGTH);
        let taken = usize::try_from(length).map_or(LONGEST, |length| length.min(LONGEST));
        let layout = &self.python.layout;
        let start = if is_ascii {
            layout.ascii
        } else {
            layout.compact
        };
        let size = match (kind, is_ascii) {
            (1, _) => taken,
            (2, false) => taken * 2,
            (4, false) => taken * 4,
            _ => return implausible("string", at),
        };
        let data = match head.0.get(start..start + size) {
            Some(data) => data.to_vec(),
            None => self.memory.bytes(at.wrapping_add(start as u64), size)?,
        };
        let mut text: String = match kind {
            1 => data.iter().map(|byte| harmless(u32::from(*byte))).collect(),
            2 => {
                let units = data.chunks_exact(2);
                units
                    .map(|unit| harmless(u32::from(u16::from_ne_bytes([unit[0], unit[1]]))))
                    .collect()
            }
            _ => {
                let units = data.chunks_exact(4);
                units
                    .map(|u| harmless(u32::from_ne_bytes([u[0], u[1], u[2], u[3]])))
                    .collect()
            }
        };
        if length > LONGEST as u64 {
            text.push('…');
        }
        Ok(text)
    }

    /// The name of an object's type, as C has it: `module.Type` or `Type`.
    pub(super) fn type_name(&self, object: u64) -> Result<String, Error> {
        let kind = self.memory.word(object.wrapping_add(OBJECT_TYPE as u64))?;
        let name = self.memory.word(kind.wrapping_add(TYPE_NAME))?;
        let mut buffer = [0; 128];
        let bytes = self.memory.read(name, &mut buffer)?;
        let Some(end) = bytes.iter().position(|byte| *byte == 0) else {
            return implausible("name of a type", name);
        };
        let text = String::from_utf8_lossy(&bytes[..end]);
        Ok(text.chars().map(|c| harmless(u32::from(c))).collect())
    }

    /// An item of a tuple whose length the caller knows.
    pub(super) fn tuple_item(&self, tuple: u64, number: u64) -> Result<u64, Error> {
        self.memory
            .word(tuple.wrapping_add(TUPLE_ITEMS).wrapping_add(number * 8))
    }
}

/// A character that forges no line and moves no cursor.
fn harmless(code: u32) -> char {
    char::from_u32(code)
        .filter(|c| !c.is_control())
        .unwrap_or('\u{fffd}')
}
