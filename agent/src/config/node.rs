//! YAML text → a tree of values that know their place in the file.
//!
//! The tree is what lets all mistakes of a file be told at once, each with line and column, where a serde reader stops at
//! the first. Nothing here knows a key of the configuration. The input is not trusted: size, depth and number of values
//! are bounded, and an alias counts with all that it stands for, so a "billion laughs" file ends at the bound.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::problem::{Location, Problem, Problems, quote};

/// Values in one file, aliases counted in full. The longest sensible file has some hundred.
const MAX_VALUES: usize = 20_000;
/// Depth of nesting; the configuration itself needs six.
const MAX_DEPTH: usize = 32;

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Location,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Nothing: an empty value, `~` or `null`.
    Null,
    /// Any other scalar, as written: what it means is for the key to say, so `name: 123` is a text.
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Location,
    pub(super) value: Node,
}

impl Node {
    /// How a message names what was found.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "found nothing".to_owned(),
            Value::Text(text) => format!("found {}", quote(text)),
            Value::List(_) => "found a list".to_owned(),
            Value::Map(_) => "found a mapping".to_owned(),
        }
    }

    /// Gives every value of this tree another place: a preset's values belong to the line that names the preset.
    pub(super) fn relocate(&mut self, at: Location) {
        self.at = at;
        match &mut self.value {
            Value::Null | Value::Text(_) => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.relocate(at)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| {
                entry.at = at;
                entry.value.relocate(at);
            }),
        }
    }
}

/// Reads one document. `None` means that there is no tree to go on with; the reason is among the problems.
pub(super) fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    let mut builder = Builder {
        problems,
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        values: 0,
    };
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(Problem {
                at: Some(place(error.marker().line(), error.marker().col())),
                key: String::new(),
                found: format!("no YAML: {}", error.info()),
                allowed: "correct the syntax here or in the lines before".to_owned(),
            }),
        };
        if let Err(problem) = step {
            builder.problems.push(problem);
            return None;
        }
    }
    builder.root
}

struct Builder<'p> {
    problems: &'p mut Problems,
    open: Vec<Open>,
    /// Finished anchored values and how many values each stands for.
    anchors: HashMap<usize, (Node, usize)>,
    root: Option<Node>,
    values: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    at: Location,
    anchor: usize,
    /// `Builder::values` when it began.
    values_before: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(String, Location)>,
    },
}

type Step = Result<(), Problem>;

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Step {
        let at = place(span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(stop(at, "found a second document", "one document a file"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(at, tag.as_deref());
                let null = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null {
                    Value::Null
                } else {
                    Value::Text(text.into_owned())
                };
                let node = self.count(at, 1).map(|()| Node { at, value })?;
                self.finish(node, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(at, tag.as_deref());
                self.begin(at, anchor, Kind::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(at, tag.as_deref());
                self.begin(
                    at,
                    anchor,
                    Kind::Map {
                        entries: Vec::new(),
                        key: None,
                    },
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err(stop(
                        at,
                        "an alias inside what it stands for",
                        "write the value out",
                    ));
                };
                self.count(at, size)?;
                self.finish(node, 0, size)
            }
            _ => Ok(()),
        }
    }

    fn check_tag(&mut self, at: Location, tag: Option<&Tag>) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            self.problems.add(
                at,
                "",
                format!("found the tag {}", quote(&tag.original())),
                "tags have no meaning here",
            );
        }
    }

    fn count(&mut self, at: Location, values: usize) -> Step {
        self.values += values;
        if self.values <= MAX_VALUES {
            return Ok(());
        }
        let allowed = format!("at most {MAX_VALUES} in one file, each alias counted in full");
        Err(stop(at, "too many values", &allowed))
    }

    fn begin(&mut self, at: Location, anchor: usize, kind: Kind) -> Step {
        if self.open.len() >= MAX_DEPTH {
            return Err(stop(
                at,
                "nested too deep",
                &format!("at most {MAX_DEPTH} levels"),
            ));
        }
        let values_before = self.values;
        self.count(at, 1)?;
        self.open.push(Open {
            at,
            anchor,
            values_before,
            kind,
        });
        Ok(())
    }

    fn end(&mut self, at: Location) -> Step {
        let Some(open) = self.open.pop() else {
            return Err(stop(at, "an end without a beginning", "correct the syntax"));
        };
        let value = match open.kind {
            Kind::List(items) => Value::List(items),
            Kind::Map { entries, .. } => Value::Map(entries),
        };
        let size = self.values - open.values_before;
        self.finish(Node { at: open.at, value }, open.anchor, size)
    }

    /// Hands a complete value to whatever it stands in.
    fn finish(&mut self, node: Node, anchor: usize, size: usize) -> Step {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(Kind::List(items)) => items.push(node),
            Some(Kind::Map { entries, key }) => match key.take() {
                Some((key, at)) => entries.push(Entry {
                    key,
                    at,
                    value: node,
                }),
                None => match node.value {
                    Value::Text(text) => *key = Some((text, node.at)),
                    Value::Null => *key = Some(("null".to_owned(), node.at)),
                    Value::List(_) | Value::Map(_) => {
                        return Err(stop(
                            node.at,
                            &format!("{} as a key", node.describe()),
                            "keys are plain words",
                        ));
                    }
                },
            },
        }
        Ok(())
    }
}

fn stop(at: Location, found: &str, allowed: &str) -> Problem {
    Problem {
        at: Some(at),
        key: String::new(),
        found: found.to_owned(),
        allowed: allowed.to_owned(),
    }
}

/// The parser counts columns from 0.
fn place(line: usize, column: usize) -> Location {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Location {
        line: number(line.max(1)),
        column: number(column.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> String {
        let mut problems = Problems::default();
        assert!(
            parse(text, &mut problems).is_none() || !problems.is_empty(),
            "{text:?} was read"
        );
        problems.into_error("f").to_string()
    }

    #[test]
    fn hostile_documents_end_at_a_bound() {
        let mut lines = vec!["a0: &a0 [x]".to_owned()];
        for level in 1..30 {
            let items = format!("*a{},", level - 1).repeat(10);
            lines.push(format!("a{level}: &a{level} [{items}]"));
        }
        assert!(
            failure(&lines.join("\n")).contains("too many values"),
            "{}",
            failure(&lines.join("\n"))
        );
        assert_eq!(
            failure(&("[".repeat(40) + &"]".repeat(40))),
            "f:1:33: nested too deep; at most 32 levels"
        );
        // The parser has a bound of its own for this one.
        assert!(failure(&"[".repeat(100_000)).starts_with("f:1:"));
        assert!(failure(&"- x\n".repeat(30_000)).contains("too many values"));
        assert_eq!(
            failure("a: &a [*a]"),
            "f:1:8: an alias inside what it stands for; write the value out"
        );
        assert!(failure("a: *nobody").contains("no YAML"));
    }

    #[test]
    fn what_has_no_place_in_a_configuration_is_told() {
        for (text, message) in [
            (
                "a: 1\n---\nb: 2\n",
                "f:2:1: found a second document; one document a file",
            ),
            (
                "? [a]\n: b\n",
                "f:1:3: found a list as a key; keys are plain words",
            ),
            (
                "a: !secret x\n",
                "f:1:12: found the tag \"!secret\"; tags have no meaning here",
            ),
        ] {
            assert_eq!(failure(text), message, "{text}");
        }
        assert!(
            failure("a: [1\nb: 2\n").starts_with("f:2:"),
            "{}",
            failure("a: [1\nb: 2\n")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-a\\[\\]{}:,&*!|>'\"%@#? \n\t0\u{e9}]{0,60}") {
            let _ = parse(&text, &mut Problems::default());
        }
    }
}
