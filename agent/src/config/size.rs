//! Sizes as people write them: `64MiB`, `1GB`, `512B`.

/// The units, largest first of each family, in bytes.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads a size in bytes; `None` if the text is no whole number with a unit.
pub(super) fn parse(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Writes a size in the largest unit that holds it exactly; `parse` reads it back to the same value.
pub(super) fn format(bytes: u64) -> String {
    let unit = UNITS
        .iter()
        .find(|(_, length)| bytes != 0 && bytes.is_multiple_of(*length));
    unit.map_or_else(
        || format!("{bytes}B"),
        |(name, length)| format!("{}{name}", bytes / length),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_with_a_unit_and_nothing_else() {
        for (text, bytes) in [
            ("64MiB", Some(64 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("1GB", Some(1_000_000_000)),
            ("5kB", Some(5_000)),
            ("512B", Some(512)),
            ("0B", Some(0)),
            ("64", None),
            ("MiB", None),
            ("64mib", None),
            ("-1B", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(parse(text), bytes, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in 0u64..) {
            proptest::prop_assert_eq!(parse(&format(bytes)), Some(bytes));
        }
    }
}
