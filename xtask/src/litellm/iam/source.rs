//! What the proxy's own source says: which line waits.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The call that blocks, in the one place that has it.
const CALL: &str = "future.result(timeout=30)";

/// Where `PrismaWrapper.__getattr__` waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) line: usize,
}

impl Source {
    /// Finds it in the installed proxy.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let line = only_line(&text).with_context(|| {
            format!(
                "{} does not have {CALL} exactly once: is it another version?",
                file.display()
            )
        })?;
        Ok(Self {
            file: file.to_owned(),
            line,
        })
    }
}

fn only_line(text: &str) -> Option<usize> {
    let mut found = numbered(text).filter(|(_, line)| line.contains(CALL));
    let (number, _) = found.next()?;
    found.next().is_none().then_some(number)
}

/// The text of a line of a file, and the function that it belongs to.
pub(super) fn line_of(file: &Path, number: usize) -> Option<(String, String)> {
    within(&fs::read_to_string(file).ok()?, number)
}

fn within(text: &str, number: usize) -> Option<(String, String)> {
    let (_, line) = numbered(text).find(|(at, _)| *at == number)?;
    let indent = |line: &str| line.len() - line.trim_start().len();
    let outside =
        |above: &str| above.trim_start().starts_with("def ") && indent(above) < indent(line);
    let (_, head) = numbered(text)
        .take(number)
        .filter(|(_, above)| outside(above))
        .last()?;
    let name = head.trim_start().strip_prefix("def ")?.split('(').next()?;
    Some((line.trim().to_owned(), name.to_owned()))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "class A:\n    def one(self):\n        pass\n\n    def two(self):\n        future.result(timeout=30)\n";

    #[test]
    fn the_call_is_found_where_it_is_the_only_one() {
        assert_eq!(only_line(TEXT), Some(6));
        assert_eq!(only_line(&format!("{TEXT}{TEXT}")), None);
        assert_eq!(only_line("x"), None);
    }

    #[test]
    fn a_line_belongs_to_the_function_above_it() {
        let named = |text: &str, name: &str| Some((text.to_owned(), name.to_owned()));
        assert_eq!(within(TEXT, 6), named(CALL, "two"));
        assert_eq!(within(TEXT, 3), named("pass", "one"));
        assert_eq!(within(TEXT, 1), None);
        assert_eq!(within(TEXT, 99), None);
    }
}
