//! Pieces of styled text, and how they are put into lines. Pure.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

pub(super) const PLAIN: Style = Style::new();
pub(super) const STRONG: Style = Style::new().bold();
pub(super) const FAINT: Style = Style::new().dimmed();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const FAIR: Style = AnsiColor::Yellow.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
pub(super) const GUARD: Style = AnsiColor::Cyan.on_default().bold();

/// A piece of text in one style.
pub(super) type Span = (Style, String);
/// A line of text.
pub(super) type Line = Vec<Span>;

/// A piece of text and the column where it belongs.
pub(super) type Mark = (usize, Span);

/// Characters of the same style put together.
pub(super) fn runs(cells: impl IntoIterator<Item = (Style, char)>) -> Line {
    let mut line = Line::new();
    for (style, glyph) in cells {
        match line.last_mut() {
            Some((last, text)) if *last == style => text.push(glyph),
            _ => line.push((style, glyph.to_string())),
        }
    }
    line
}

/// Puts marks at their columns, moved to the right where one would cover another, cut at the edge.
pub(super) fn place(marks: &[Mark], width: usize) -> Line {
    let mut line = Line::new();
    let mut used = 0;
    for (column, (style, text)) in marks {
        // Words need a gap, single signs do not.
        let gap = usize::from(used > 0 && text.chars().count() > 1);
        let start = (*column).max(used + gap);
        if start >= width {
            break;
        }
        let text: String = text.chars().take(width - start).collect();
        line.push((PLAIN, " ".repeat(start - used)));
        used = start + text.chars().count();
        line.push((*style, text));
    }
    line
}

/// A line without its styles, and without blanks at its end.
pub(super) fn plain(line: &[Span]) -> String {
    line.iter()
        .map(|(_, text)| text.as_str())
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// A line with its styles as escape sequences.
pub(super) fn coloured(line: &[Span]) -> String {
    let mut text = String::new();
    for (style, part) in line {
        let _ = write!(text, "{style}{part}{style:#}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_never_cover_each_other_or_leave_the_row() {
        let mark = |column: usize, text: &str| (column, (PLAIN, text.to_owned()));
        for (marks, expected) in [
            (vec![mark(0, "x"), mark(0, "SIGTERM")], "x SIGTERM"),
            (vec![mark(2, "x"), mark(3, "x"), mark(3, "x")], "  xxx"),
            (vec![mark(8, "SIGTERM")], "        SIGT"),
            (vec![mark(40, "x")], ""),
        ] {
            assert_eq!(plain(&place(&marks, 12)), expected);
        }
    }

    #[test]
    fn colours_are_closed_again() {
        assert_eq!(coloured(&[(BAD, "x".into())]), "\x1b[31mx\x1b[0m");
        assert_eq!(coloured(&[(PLAIN, "x".into())]), "x");
    }
}
