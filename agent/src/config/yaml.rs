//! Writing YAML: just what a configuration needs, in one fixed style.

use std::fmt::Write as _;

use super::schema;

/// A value of the printed file.
pub(super) enum Tree {
    /// A text that may need quotes.
    Text(String),
    /// A number, a word or a span: never in need of quotes.
    Bare(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// Writes lists and mappings in block style, one level of indentation deeper than what they stand in.
pub(super) fn block(tree: &Tree, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match tree {
        Tree::Map(entries) => {
            for (key, value) in entries {
                out.push_str(&indent);
                out.push_str(&plain_key(key));
                nested(value, depth, out);
            }
        }
        Tree::List(items) => {
            for item in items {
                // "- " takes the place of one level of indentation before the item's first line.
                let mut inner = String::new();
                block(item, depth + 1, &mut inner);
                let _ = write!(out, "{indent}- {}", inner.trim_start());
            }
        }
        Tree::Text(_) | Tree::Bare(_) => {
            let _ = writeln!(out, "{indent}{}", inline(tree));
        }
    }
}

fn nested(value: &Tree, depth: usize, out: &mut String) {
    let is_empty = match value {
        Tree::List(items) => items.is_empty(),
        Tree::Map(entries) => entries.is_empty(),
        Tree::Text(_) | Tree::Bare(_) => true,
    };
    if is_empty {
        let _ = writeln!(out, ": {}", inline(value));
    } else {
        out.push_str(":\n");
        block(value, depth + 1, out);
    }
}

/// Writes anything on one line.
pub(super) fn inline(tree: &Tree) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match tree {
        Tree::Bare(word) => word.clone(),
        Tree::Text(text) => quoted(text),
        Tree::List(items) => format!("[{}]", joined(items.iter().map(inline).collect())),
        Tree::Map(entries) => {
            let entry =
                |(key, value): &(String, Tree)| format!("{}: {}", plain_key(key), inline(value));
            format!("{{{}}}", joined(entries.iter().map(entry).collect()))
        }
    }
}

fn plain_key(key: &str) -> String {
    let plain = schema::SECTIONS
        .iter()
        .any(|section| section.keys.contains(&key));
    if plain { key.to_owned() } else { quoted(key) }
}

/// A YAML double-quoted text: everything but printable ASCII and letters is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}
