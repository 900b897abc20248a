//! Names out of other people's files, made fit to be shown.

/// Longest name of a function; generic Rust and C++ names run to thousands of characters.
const NAME_CHARACTERS: usize = 300;
/// Longest path.
const PATH_CHARACTERS: usize = 1024;

/// A function's name.
pub(super) fn name(text: &str) -> String {
    harmless(text, NAME_CHARACTERS)
}

/// A file's path.
pub(super) fn path(text: &str) -> String {
    harmless(text, PATH_CHARACTERS)
}

/// Without characters that forge lines, move the cursor, hide or turn around what stands beside them; and bounded.
fn harmless(text: &str, limit: usize) -> String {
    let hides = |c: char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let mut kept: String = text
        .chars()
        .take(limit)
        .map(|c| {
            if c.is_control() || hides(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    if text.chars().nth(limit).is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_lose_what_makes_them_so() {
        assert_eq!(
            name("a\n\x1b[2Jb\u{202e}c"),
            "a\u{fffd}\u{fffd}[2Jb\u{fffd}c"
        );
        assert_eq!(name("core::fmt::Display"), "core::fmt::Display");
        assert_eq!(name(&"x".repeat(5000)).chars().count(), NAME_CHARACTERS + 1);
    }
}
