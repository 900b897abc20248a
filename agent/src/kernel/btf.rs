//! A small reader of BTF, the kernel's type information: struct members by name, and whether a function exists.
//!
//! aya reads BTF for itself and keeps it to itself, and the reader crates are either under a licence that does not go with
//! ours or unmaintained. The format is stable and these two questions need little of it
//! (Documentation/bpf/btf.rst in the kernel's source). Malformed input gives nothing, never a panic.

/// Kinds of types that are told apart here, by the format's numbers.
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC: u32 = 12;
/// Typedef, volatile, const, restrict, type tag: another name for the type they refer to.
const TRANSPARENT: [u32; 5] = [8, 9, 10, 11, 18];
/// Types that are referred to at most; a longer chain is a ring.
const LONGEST_CHAIN: u32 = 32;

/// Parsed just far enough to find types by number.
pub(super) struct Btf {
    bytes: Vec<u8>,
    /// Where each type begins; numbers start at 1 (0 is void).
    types: Vec<usize>,
    strings: usize,
}

/// A type as the format has it; `refers` is its size or the type it refers to.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    flag: bool,
    count: usize,
    refers: u32,
}

impl Btf {
    /// Reads a whole BTF section; `None` if it is malformed.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let word = |at: usize| word(&bytes, at);
        if word(0)? & 0xffff != 0xeb9f {
            return None;
        }
        let header = to_usize(word(4)?);
        let (types_at, types_length) = (header + to_usize(word(8)?), to_usize(word(12)?));
        let strings = header + to_usize(word(16)?);
        let mut parsed = Self {
            bytes,
            types: Vec::new(),
            strings,
        };
        let mut at = types_at;
        while at < types_at + types_length {
            let found = parsed.read(at)?;
            parsed.types.push(at);
            at += 12 + found.rest()?;
        }
        Some(parsed)
    }

    fn read(&self, at: usize) -> Option<Type> {
        let info = word(&self.bytes, at + 4)?;
        Some(Type {
            at,
            name: word(&self.bytes, at)?,
            kind: info >> 24 & 31,
            flag: info >> 31 != 0,
            count: to_usize(info & 0xffff),
            refers: word(&self.bytes, at + 8)?,
        })
    }

    fn all(&self) -> impl Iterator<Item = Type> {
        self.types.iter().filter_map(|at| self.read(*at))
    }

    fn named(&self, name_at: u32, name: &str) -> bool {
        let rest = self
            .bytes
            .get(self.strings + to_usize(name_at)..)
            .unwrap_or_default();
        rest.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Whether there is a function of that name.
    pub(super) fn has_function(&self, name: &str) -> bool {
        self.all()
            .any(|found| found.kind == FUNC && self.named(found.name, name))
    }

    /// The size of a structure in bytes.
    pub(super) fn size(&self, name: &str) -> Option<u32> {
        self.structure(name).map(|found| found.refers)
    }

    /// The byte offset of a member, through named members in `path` and any anonymous structure around them.
    pub(super) fn offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let mut inside = self.structure(structure)?;
        let mut bits = 0u32;
        for (place, name) in path.iter().enumerate() {
            let (member_bits, type_number) = self.member(inside, name, 0)?;
            bits = bits.checked_add(member_bits)?;
            if place + 1 < path.len() {
                inside = self.resolve(type_number)?;
            }
        }
        Some(bits / 8)
    }

    fn structure(&self, name: &str) -> Option<Type> {
        self.all()
            .find(|found| found.kind == STRUCT && found.count > 0 && self.named(found.name, name))
    }

    /// The type of a number, without typedefs and qualifiers.
    fn resolve(&self, number: u32) -> Option<Type> {
        let mut number = number;
        for _ in 0..LONGEST_CHAIN {
            let found = self.read(*self.types.get(to_usize(number).checked_sub(1)?)?)?;
            if !TRANSPARENT.contains(&found.kind) {
                return Some(found);
            }
            number = found.refers;
        }
        None
    }

    /// Bit offset and type number of a member.
    fn member(&self, inside: Type, name: &str, depth: u32) -> Option<(u32, u32)> {
        if !matches!(inside.kind, STRUCT | UNION) || depth > LONGEST_CHAIN {
            return None;
        }
        for index in 0..inside.count {
            let at = inside.at + 12 + index * 12;
            let (name_at, number, offset) = (
                word(&self.bytes, at)?,
                word(&self.bytes, at + 4)?,
                word(&self.bytes, at + 8)?,
            );
            // With the flag, the upper byte is the width of a bit field.
            let bits = if inside.flag {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            if name_at != 0 && self.named(name_at, name) {
                return Some((bits, number));
            }
            if name_at == 0
                && let Some(anonymous) = self.resolve(number)
                && let Some((more, number)) = self.member(anonymous, name, depth + 1)
            {
                return Some((bits.checked_add(more)?, number));
            }
        }
        None
    }
}

impl Type {
    /// Bytes that follow the common part.
    fn rest(self) -> Option<usize> {
        let each = match self.kind {
            1 | 14 | 17 => return Some(4),
            3 => return Some(12),
            STRUCT | UNION | 15 | 19 => 12,
            6 | 13 => 8,
            2 | 7..=12 | 16 | 18 => 0,
            // A kind this reader does not know has an unknown length: nothing after it could be found.
            _ => return None,
        };
        Some(self.count * each)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Never fails on the machines this is built for, where a pointer has 64 bits.
fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; union { int b; const inner_t c; }; }`, `typedef struct inner inner_t`,
    /// `struct inner { int x; int y; }`, and a function.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0c\0inner_t\0inner\0x\0y\0sys_call\0";
        let name = |text: &str| {
            let text = format!("\0{text}\0");
            let found = strings
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            u32::try_from(found.unwrap() + 1).unwrap()
        };
        let info = |kind: u32, count: u32| kind << 24 | count;
        let types = [
            [name("int"), info(1, 0), 4, 32].to_vec(),
            vec![
                name("outer"),
                info(STRUCT, 2),
                12,
                name("a"),
                1,
                0,
                0,
                3,
                32,
            ],
            vec![0, info(UNION, 2), 8, name("b"), 1, 0, name("c"), 4, 0],
            vec![0, info(10, 0), 5],
            vec![name("inner_t"), info(8, 0), 6],
            vec![
                name("inner"),
                info(STRUCT, 2),
                8,
                name("x"),
                1,
                0,
                name("y"),
                1,
                32,
            ],
            vec![name("sys_call"), info(FUNC, 0), 0],
        ]
        .concat();
        let types_length = u32::try_from(types.len() * 4).unwrap();
        let header = [
            0x0001_eb9f,
            24,
            0,
            types_length,
            types_length,
            u32::try_from(strings.len()).unwrap(),
        ];
        let words = header
            .iter()
            .chain(&types)
            .flat_map(|word| word.to_ne_bytes());
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn members_are_found_through_anonymous_and_renamed_types() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", &["a"]), Some(0));
        assert_eq!(btf.offset("outer", &["b"]), Some(4));
        assert_eq!(btf.offset("outer", &["c", "y"]), Some(8));
        assert_eq!(btf.offset("outer", &["y"]), None);
        assert_eq!(btf.offset("nobody", &["a"]), None);
        assert_eq!(btf.size("inner"), Some(8));
        assert!(
            btf.has_function("sys_call")
                && !btf.has_function("sys_cal")
                && !btf.has_function("int")
        );
    }

    #[test]
    fn malformed_input_gives_nothing_and_never_panics() {
        let whole = sample();
        for length in 0..whole.len() {
            if let Some(btf) = Btf::parse(whole[..length].to_vec()) {
                let _ = btf.offset("outer", &["c", "y"]);
            }
        }
        for place in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] = value;
                if let Some(btf) = Btf::parse(bytes) {
                    let _ = (
                        btf.offset("outer", &["c", "y"]),
                        btf.has_function("sys_call"),
                    );
                }
            }
        }
    }
}
