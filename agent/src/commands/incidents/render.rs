//! Paragraphs, lists, tables and code as text or Markdown. What stands in them is harmless already (`words`).

use std::fmt::Write as _;

use super::words::longest_run;

/// A piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Block {
    /// The document's title.
    Title(String),
    /// A section's title.
    Section(&'static str),
    /// A paragraph.
    Text(String),
    /// A list.
    List(Vec<String>),
    /// A table with its head.
    Table(Vec<&'static str>, Vec<Vec<String>>),
    /// Lines that are shown as they are.
    Code(Vec<String>),
}

/// For a terminal.
pub(super) fn text(blocks: &[Block]) -> String {
    let mut out = String::new();
    for block in blocks {
        match block {
            Block::Title(title) => {
                let _ = writeln!(out, "{title}");
            }
            Block::Section(title) => {
                let _ = writeln!(out, "\n{title}");
            }
            Block::Text(text) => {
                let _ = writeln!(out, "  {text}");
            }
            Block::List(items) => items.iter().for_each(|item| {
                let _ = writeln!(out, "  - {item}");
            }),
            Block::Table(head, rows) => table(head, rows, &mut out),
            Block::Code(lines) => lines.iter().for_each(|line| {
                let _ = writeln!(out, "      {line}");
            }),
        }
    }
    out
}

fn table(head: &[&str], rows: &[Vec<String>], out: &mut String) {
    let last = head.len().saturating_sub(1);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..last).map(width).collect();
    for row in rows {
        let mut line = String::from(" ");
        for (column, cell) in row.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            let _ = write!(line, " {cell:<width$} ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// For a document.
pub(super) fn markdown(blocks: &[Block]) -> String {
    let mut out = String::new();
    for block in blocks {
        if !out.is_empty() {
            out.push('\n');
        }
        match block {
            Block::Title(title) => {
                let _ = writeln!(out, "# {title}");
            }
            Block::Section(title) => {
                let _ = writeln!(out, "## {title}");
            }
            Block::Text(text) => {
                let _ = writeln!(out, "{text}");
            }
            Block::List(items) => items.iter().for_each(|item| {
                let _ = writeln!(out, "- {item}");
            }),
            Block::Table(head, rows) => {
                let _ = writeln!(out, "| {} |", head.join(" | "));
                let _ = writeln!(out, "|{}", " --- |".repeat(head.len()));
                for row in rows {
                    // Also inside code a bar would end the cell, and a backslash before it could be escaped itself.
                    let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "¦")).collect();
                    let _ = writeln!(out, "| {} |", cells.join(" | "));
                }
            }
            Block::Code(lines) => {
                let longest = lines.iter().map(|line| longest_run(line)).max();
                let fence = "`".repeat(longest.unwrap_or(0).max(2) + 1);
                let _ = writeln!(out, "{fence}text\n{}\n{fence}", lines.join("\n"));
            }
        }
    }
    out
}
