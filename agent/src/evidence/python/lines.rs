//! From an instruction to its line: the three formats of CPython's line tables. Pure.

use super::layout::LineTable;

/// The line of the instruction at `offset` (in bytes, negative before the first one). `None`: the table gives it no line, or ends early.
pub(super) fn line(kind: LineTable, table: &[u8], first: i32, offset: i64) -> Option<u32> {
    let line = match kind {
        LineTable::Increments => Some(increments(table, first, offset)),
        LineTable::Ranges => ranges(table, first, offset),
        LineTable::Locations => locations(table, first, offset),
    };
    line.and_then(|line| u32::try_from(line).ok())
        .filter(|line| *line > 0)
}

/// 3.8 and 3.9: pairs of increments of the offset and of the line.
fn increments(table: &[u8], first: i32, offset: i64) -> i64 {
    let mut line = i64::from(first);
    let mut at = 0;
    for pair in table.chunks_exact(2) {
        at += i64::from(pair[0]);
        if at > offset {
            break;
        }
        line += i64::from(pair[1].cast_signed());
    }
    line
}

/// 3.10: pairs of a range's length and the increment of the line at its start; -128 is a range without a line.
fn ranges(table: &[u8], first: i32, offset: i64) -> Option<i64> {
    let mut line = i64::from(first);
    let mut end = 0;
    if offset < 0 {
        return Some(line);
    }
    for pair in table.chunks_exact(2) {
        end += i64::from(pair[0]);
        let increment = pair[1].cast_signed();
        if increment != -128 {
            line += i64::from(increment);
        }
        if offset < end {
            return (increment != -128).then_some(line);
        }
    }
    None
}

/// Since 3.11: entries of a byte (code and length) and what the code asks for (`Objects/locations.md`).
fn locations(table: &[u8], first: i32, offset: i64) -> Option<i64> {
    let mut line = i64::from(first);
    let mut end = 0;
    if offset < 0 {
        return Some(line);
    }
    let mut bytes = table.iter().copied();
    while let Some(head) = bytes.next() {
        end += (i64::from(head & 7) + 1) * 2;
        let code = head >> 3 & 15;
        match code {
            15 => {}
            14 => {
                line += signed(&mut bytes)?;
                for _ in 0..3 {
                    number(&mut bytes)?;
                }
            }
            13 => line += signed(&mut bytes)?,
            10..=12 => {
                line += i64::from(code) - 10;
                bytes.nth(1)?;
            }
            _ => {
                bytes.next()?;
            }
        }
        if offset < end {
            return (code != 15).then_some(line);
        }
    }
    None
}

/// Six bits a byte, lowest first, 64 says that more follow. More than six bytes would be no line number.
fn number(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value = 0;
    for shift in 0..6 {
        let byte = bytes.next()?;
        value |= i64::from(byte & 63) << (6 * shift);
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = number(bytes)?;
    Some(if value & 1 == 1 {
        -(value >> 1)
    } else {
        value >> 1
    })
}
