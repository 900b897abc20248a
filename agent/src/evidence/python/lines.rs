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

#[cfg(test)]
mod tests {
    use super::*;

    /// A format, a table in it, and the lines of some offsets.
    type Case<'a> = (LineTable, &'a [u8], &'a [(i64, Option<u32>)]);

    /// What `co_lnotab` and `co_linetable` of four versions hold for one function, and the lines that the same version tells for its
    /// instructions.
    #[test]
    fn every_format_gives_the_interpreters_own_lines() {
        let increments = [
            0, 2, 14, 2, 2, 1, 4, 1, 2, 1, 2, 255, 4, 3, 2, 253, 4, 3, 8, 1, 12, 1,
        ];
        let ranges = [
            14, 2, 2, 2, 4, 1, 2, 1, 2, 1, 4, 255, 4, 3, 2, 252, 8, 4, 12, 1, 2, 1, 4, 255,
        ];
        let v3_11 = [
            128, 0, 240, 4, 1, 9, 15, 240, 0, 1, 9, 15, 144, 65, 240, 0, 1, 9, 15, 241, 0, 1, 9,
            15, 244, 0, 1, 9, 15, 128, 65, 240, 4, 5, 5, 14, 216, 11, 12, 240, 0, 2, 9, 23, 216,
            20, 21, 216, 20, 21, 241, 3, 1, 21, 22, 240, 6, 0, 13, 14, 136, 65, 240, 9, 2, 9, 23,
            240, 8, 0, 13, 14, 136, 65, 248, 136, 65, 136, 5, 136, 5, 136, 5, 136, 5, 221, 13, 18,
            144, 49, 137, 88, 140, 88, 240, 0, 1, 5, 13, 240, 0, 1, 5, 13, 136, 1, 216, 8, 12, 240,
            3, 1, 5, 13, 240, 0, 1, 5, 13,
        ];
        let v3_13 = [
            128, 0, 225, 20, 21, 243, 0, 1, 9, 15, 145, 65, 136, 113, 220, 12, 13, 247, 3, 0, 10,
            11, 145, 65, 128, 65, 240, 0, 1, 9, 15, 240, 4, 5, 5, 14, 222, 11, 12, 216, 20, 21,
            216, 20, 21, 241, 3, 1, 21, 22, 241, 6, 0, 13, 14, 240, 9, 0, 12, 13, 240, 8, 0, 13,
            14, 220, 13, 18, 144, 49, 142, 88, 136, 1, 217, 8, 12, 242, 3, 0, 14, 22, 249, 242, 17,
            1, 9, 15, 248, 241, 14, 0, 13, 14, 250,
        ];
        let first = [(-2, Some(3))];
        let table: [Case<'_>; 4] = [
            (
                LineTable::Increments,
                &increments,
                &[
                    (0, Some(5)),
                    (14, Some(7)),
                    (21, Some(9)),
                    (24, Some(9)),
                    (30, Some(9)),
                    (53, Some(13)),
                    (54, Some(14)),
                ],
            ),
            (
                LineTable::Ranges,
                &ranges,
                &[
                    (0, Some(5)),
                    (13, Some(5)),
                    (24, Some(9)),
                    (32, Some(8)),
                    (54, Some(14)),
                    (59, Some(13)),
                    (60, None),
                ],
            ),
            (
                LineTable::Locations,
                &v3_11,
                &[
                    (0, Some(3)),
                    (2, Some(5)),
                    (28, Some(8)),
                    (34, Some(10)),
                    (36, Some(9)),
                    (50, None),
                    (62, Some(13)),
                    (96, Some(14)),
                    (98, Some(13)),
                    (9998, None),
                ],
            ),
            (
                LineTable::Locations,
                &v3_13,
                &[
                    (2, Some(5)),
                    (20, Some(6)),
                    (54, Some(7)),
                    (72, Some(10)),
                    (82, Some(8)),
                    (114, Some(14)),
                    (124, None),
                    (128, Some(5)),
                    (136, Some(12)),
                    (140, None),
                ],
            ),
        ];
        for (kind, bytes, expected) in table {
            let first = first.iter().filter(|_| kind != LineTable::Increments);
            for (offset, line_wanted) in expected.iter().chain(first) {
                assert_eq!(
                    line(kind, bytes, 3, *offset),
                    *line_wanted,
                    "{kind:?} at {offset}"
                );
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_ends(bytes: Vec<u8>, first: i32, offset: i64) {
            for kind in [LineTable::Increments, LineTable::Ranges, LineTable::Locations] {
                let _ = line(kind, &bytes, first, offset);
            }
        }
    }
}
