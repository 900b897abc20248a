//! From a tree of values to typed values, telling every mistake on the way.
//!
//! Each reader returns `None` after it has told what is wrong; the caller goes on with the next key.

use std::time::Duration;

use super::node::{Entry, Node, Value};
use super::problem::{Location, Problems, quote};
use super::{duration, schema};

/// A value and where it was given.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct At<T> {
    pub(super) at: Location,
    pub(super) value: T,
}

/// What is open while a file is read.
pub(super) struct Reader<'p> {
    pub(super) problems: &'p mut Problems,
}

/// A mapping that is being read, with its keys already checked.
pub(super) struct Fields<'n> {
    pub(super) at: Location,
    path: String,
    entries: &'n [Entry],
}

/// A value still to be read, and the full name of its key.
pub(super) struct Field<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

impl<'n> Fields<'n> {
    /// The full name of this mapping's key.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The value of a key. Of a repeated key the first: the repetition has been told.
    pub(super) fn field(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Field {
            node: &entry.value,
            path: join(&self.path, key),
        })
    }
}

impl Field<'_> {
    pub(super) fn at(&self) -> Location {
        self.node.at
    }
}

impl Reader<'_> {
    /// What was found at `field`, and what is allowed there.
    pub(super) fn refuse(&mut self, field: &Field<'_>, found: impl Into<String>, allowed: &str) {
        self.problems.add(
            field.at(),
            field.path.as_str(),
            found,
            format!("allowed: {allowed}"),
        );
    }

    /// A mapping with the keys of its section; unknown and repeated ones are told.
    pub(super) fn mapping<'n>(&mut self, field: &Field<'n>) -> Option<Fields<'n>> {
        let section = generic(&field.path);
        let known = schema::keys(&section);
        let Value::Map(entries) = &field.node.value else {
            self.refuse(
                field,
                field.node.describe(),
                &format!("a mapping with the keys {}", known.join(", ")),
            );
            return None;
        };
        for (index, entry) in entries.iter().enumerate() {
            let path = join(&field.path, &entry.key);
            if entries[..index]
                .iter()
                .any(|earlier| earlier.key == entry.key)
            {
                self.problems.add(
                    entry.at,
                    path,
                    "the key is there twice",
                    "remove one of them",
                );
            } else if !known.contains(&entry.key.as_str()) {
                let hint = schema::suggest(&section, &entry.key)
                    .map_or_else(String::new, |hint| format!(" ({hint})"));
                let allowed = format!("allowed: {}", known.join(", "));
                let found = format!("unknown key {}{hint}", quote(&entry.key));
                self.problems
                    .add(entry.at, field.path.as_str(), found, allowed);
            }
        }
        Some(Fields {
            at: field.at(),
            path: field.path.clone(),
            entries,
        })
    }

    /// The items of a list that may not be empty.
    pub(super) fn list<'n>(&mut self, field: &Field<'n>, of: &str) -> Option<Vec<Field<'n>>> {
        let items = self.optional_list(field, of)?;
        if items.is_empty() {
            self.refuse(
                field,
                "found an empty list",
                &format!("a list of {of}, at least one"),
            );
            return None;
        }
        Some(items)
    }

    /// The items of a list that may be empty.
    pub(super) fn optional_list<'n>(
        &mut self,
        field: &Field<'n>,
        of: &str,
    ) -> Option<Vec<Field<'n>>> {
        let Value::List(items) = &field.node.value else {
            self.refuse(field, field.node.describe(), &format!("a list of {of}"));
            return None;
        };
        let item = |(index, node)| Field {
            node,
            path: format!("{}[{index}]", field.path),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The keys and texts of a mapping whose keys are the user's own.
    pub(super) fn texts<'n>(&mut self, field: &Field<'n>) -> Option<Vec<(&'n str, &'n str)>> {
        let Value::Map(entries) = &field.node.value else {
            self.refuse(field, field.node.describe(), "a mapping of names to texts");
            return None;
        };
        let mut texts = Vec::new();
        for entry in entries {
            let value = Field {
                node: &entry.value,
                path: join(&field.path, &entry.key),
            };
            texts.push((entry.key.as_str(), self.text(&value, "a text")?));
        }
        Some(texts)
    }

    /// A text of any kind.
    pub(super) fn text<'n>(&mut self, field: &Field<'n>, allowed: &str) -> Option<&'n str> {
        if let Value::Text(text) = &field.node.value {
            return Some(text);
        }
        self.refuse(field, field.node.describe(), allowed);
        None
    }

    /// A text that `read` turns into a value; its error says what is wrong with the text.
    pub(super) fn parsed<T>(
        &mut self,
        field: &Field<'_>,
        allowed: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let text = self.text(field, allowed)?;
        match read(text) {
            Ok(value) => Some(At {
                at: field.at(),
                value,
            }),
            Err(wrong) => {
                self.refuse(field, format!("{} {wrong}", quote(text)), allowed);
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        field: &Field<'_>,
        words: &[(&str, T)],
    ) -> Option<At<T>> {
        let allowed = words
            .iter()
            .map(|(word, _)| *word)
            .collect::<Vec<_>>()
            .join(" or ");
        self.parsed(field, &allowed, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found
                .map(|(_, value)| *value)
                .ok_or_else(|| "is none of these".to_owned())
        })
    }

    /// A whole number within `range`.
    pub(super) fn number(
        &mut self,
        field: &Field<'_>,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(field, &allowed, |text| {
            let number: u64 = text.parse().map_err(|_| "is no whole number".to_owned())?;
            in_range(number, &range)
        })
    }

    /// A span of time within `range`.
    pub(super) fn span(
        &mut self,
        field: &Field<'_>,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<At<Duration>> {
        self.parsed(field, &span_range(&range), |text| read_span(text, &range))
    }

    /// A span of time within `range`, or `never`.
    pub(super) fn span_or_never(
        &mut self,
        field: &Field<'_>,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<At<Option<Duration>>> {
        let allowed = format!("never, or {}", span_range(&range));
        self.parsed(field, &allowed, |text| match text {
            "never" => Ok(None),
            text => read_span(text, &range).map(Some),
        })
    }
}

fn read_span(text: &str, range: &std::ops::RangeInclusive<Duration>) -> Result<Duration, String> {
    let span = duration::parse(text).map_err(|error| match error {
        duration::DurationError::NoUnit(_) => "has no unit".to_owned(),
        _ => "is no span of time".to_owned(),
    })?;
    in_range(span, range)
}

fn span_range(range: &std::ops::RangeInclusive<Duration>) -> String {
    let (least, most) = (
        duration::format(*range.start()),
        duration::format(*range.end()),
    );
    format!("{least} to {most}, written like 500ms, 10s, 1m30s")
}

fn in_range<T: PartialOrd>(value: T, range: &std::ops::RangeInclusive<T>) -> Result<T, String> {
    if value < *range.start() {
        return Err("is too little".to_owned());
    }
    if value > *range.end() {
        return Err("is too much".to_owned());
    }
    Ok(value)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The path with list indices left out, as the schema names it.
fn generic(path: &str) -> String {
    let mut inside = false;
    let keep = |c: &char| {
        inside = *c == '[' || (inside && *c != ']');
        !inside || *c == '['
    };
    path.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_indices() {
        assert_eq!(
            generic("targets[12].engine.match[0]"),
            "targets[].engine.match[]"
        );
        assert_eq!(generic("mode"), "mode");
    }
}
