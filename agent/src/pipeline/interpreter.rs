//! What is known of the interpreter in a process, as far as it tells one wait from another.
//!
//! `CPython` waits for its interpreter lock on a condition variable that lies in the interpreter's own static data
//! (`_PyRuntime`, 3.8 to 3.14). Locks of programs are allocated: on the heap, or on a stack. So the address that a
//! thread sleeps on in futex says which of the two it is.

use serde::{Deserialize, Serialize};

/// The interpreter of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Interpreter {
    /// Not looked up, or not readable.
    #[default]
    Unknown,
    /// None that has such a lock.
    None,
    /// `CPython`.
    Python {
        /// Its static data: start and end of each mapping. Empty if it could not be read.
        data: Vec<(u64, u64)>,
    },
}

/// Whose word a thread sleeps on in futex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Word {
    /// It cannot be told.
    #[default]
    Unknown,
    /// It cannot be told, and the process is an interpreter with such a lock.
    Interpreted,
    /// The interpreter lock.
    InterpreterLock,
    /// A lock of the program, in a process with an interpreter.
    OfProgram,
    /// A lock of a process that has no such interpreter.
    Plain,
}

impl Interpreter {
    /// Whose word that address is.
    #[must_use]
    pub fn word(&self, address: u64) -> Word {
        match self {
            Interpreter::Unknown => Word::Unknown,
            Interpreter::None => Word::Plain,
            Interpreter::Python { data } if data.is_empty() => Word::Interpreted,
            Interpreter::Python { data } => {
                let within = |(start, end): &(u64, u64)| (*start..*end).contains(&address);
                if data.iter().any(within) {
                    Word::InterpreterLock
                } else {
                    Word::OfProgram
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_belongs_to_the_interpreter_or_to_the_program() {
        let python = Interpreter::Python {
            data: vec![(0x1000, 0x2000), (0x5000, 0x6000)],
        };
        let table = [
            (&python, 0x1000, Word::InterpreterLock),
            (&python, 0x5fff, Word::InterpreterLock),
            (&python, 0x2000, Word::OfProgram),
            (&Interpreter::Unknown, 0x1000, Word::Unknown),
            (&Interpreter::None, 0x1000, Word::Plain),
            (
                &Interpreter::Python { data: Vec::new() },
                0x1000,
                Word::Interpreted,
            ),
        ];
        for (interpreter, address, expected) in table {
            assert_eq!(interpreter.word(address), expected, "{interpreter:?}");
        }
    }
}
