//! Reads the GraphQL text that prisma-client-py's query builder writes; no more of the language than that.

use serde_json::Value as Json;

/// How deep objects and lists may nest: the builder stays below ten.
const MAX_DEPTH: usize = 64;

/// An argument's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Text(String),
    /// A number, boolean or enum name, as written.
    Atom(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// A field with its arguments and what is selected below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub alias: String,
    pub name: String,
    pub arguments: Vec<(String, Value)>,
    pub selection: Vec<Field>,
}

impl Field {
    pub fn argument(&self, name: &str) -> Option<&Value> {
        self.arguments
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// A text argument; empty when absent.
    pub fn text(&self, name: &str) -> &str {
        match self.argument(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }
}

/// The top fields of `query { … }` or `mutation { … }`.
pub fn parse(text: &str) -> Result<Vec<Field>, String> {
    let mut parser = Parser {
        text: text.as_bytes(),
        at: 0,
        depth: 0,
    };
    if parser.peek() != b'{' {
        parser.word()?;
    }
    parser.selection()
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    /// The next byte that is no white space (commas are white space in GraphQL); 0 at the end.
    fn peek(&mut self) -> u8 {
        while let Some(byte) = self.text.get(self.at) {
            if !byte.is_ascii_whitespace() && *byte != b',' {
                return *byte;
            }
            self.at += 1;
        }
        0
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.peek() != byte {
            return Err(format!("expected {:?} at byte {}", byte as char, self.at));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads `open item… close`.
    fn between<T>(
        &mut self,
        open: u8,
        close: u8,
        item: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        self.expect(open)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(
                "nested deeper than {MAX_DEPTH} at byte {}",
                self.at
            ));
        }
        let mut items = Vec::new();
        while self.peek() != close {
            items.push(item(self)?);
        }
        self.at += 1;
        self.depth -= 1;
        Ok(items)
    }

    fn word(&mut self) -> Result<String, String> {
        self.peek();
        let rest = &self.text[self.at..];
        let length = rest
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(byte))
            .count();
        if length == 0 {
            return Err(format!("expected a word at byte {}", self.at));
        }
        self.at += length;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn string(&mut self) -> Result<String, String> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            match self.text.get(self.at) {
                None => return Err(format!("string from byte {start} does not end")),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        // The builder escapes as JSON does, but leaves line breaks and tabs as they are.
        let raw = String::from_utf8_lossy(&self.text[start..self.at])
            .replace('\n', "\\n")
            .replace('\r', "\\r")
            .replace('\t', "\\t");
        match serde_json::from_str(&raw) {
            Ok(Json::String(text)) => Ok(text),
            other => Err(format!("bad string at byte {start}: {other:?}")),
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        Ok(match self.peek() {
            b'"' => Value::Text(self.string()?),
            b'[' => Value::List(self.between(b'[', b']', Self::value)?),
            b'{' => Value::Object(self.between(b'{', b'}', Self::pair)?),
            _ => match self.word()?.as_str() {
                "null" => Value::Null,
                word => Value::Atom(word.to_owned()),
            },
        })
    }

    fn pair(&mut self) -> Result<(String, Value), String> {
        let key = if self.peek() == b'"' {
            self.string()?
        } else {
            self.word()?
        };
        self.expect(b':')?;
        Ok((key, self.value()?))
    }

    fn field(&mut self) -> Result<Field, String> {
        let alias = self.word()?;
        let name = if self.peek() == b':' {
            self.at += 1;
            self.word()?
        } else {
            alias.clone()
        };
        let arguments = if self.peek() == b'(' {
            self.between(b'(', b')', Self::pair)?
        } else {
            Vec::new()
        };
        let selection = if self.peek() == b'{' {
            self.selection()?
        } else {
            Vec::new()
        };
        Ok(Field {
            alias,
            name,
            arguments,
            selection,
        })
    }

    fn selection(&mut self) -> Result<Vec<Field>, String> {
        self.between(b'{', b'}', Self::field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_of_the_builder_is_read() {
        let fields = parse(
            "query {\n  result: findManyLiteLLM_Config\n  (\n    take: 1\n    where: { name: \"a\\\"b\", n: { in: [1, null,] } }\n  )\n  {\n    id\n    name\n  }\n}",
        )
        .unwrap();
        assert_eq!(fields.len(), 1);
        let field = &fields[0];
        assert_eq!(field.alias, "result");
        assert_eq!(field.name, "findManyLiteLLM_Config");
        assert_eq!(field.argument("take"), Some(&Value::Atom("1".into())));
        let list = Value::List(vec![Value::Atom("1".into()), Value::Null]);
        assert_eq!(
            field.argument("where"),
            Some(&Value::Object(vec![
                ("name".into(), Value::Text("a\"b".into())),
                ("n".into(), Value::Object(vec![("in".into(), list)])),
            ]))
        );
        assert_eq!(field.selection.len(), 2);
    }

    #[test]
    fn text_that_ends_early_or_nests_without_end_is_an_error() {
        for bad in [
            "",
            "query {",
            "query { a(b: \"",
            "query { a(b: \"\\",
            "query { a(b: ",
            "query { a b",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&format!("{{ a(b: {}", "[".repeat(100_000))).is_err());
    }
}
