//! Turns what a query asks for into SQL text. No connection, no I/O.
//!
//! Values are written as quoted literals of unknown type: PostgreSQL then takes the column's own type.

use std::fmt::Write as _;

use crate::filter::condition;
use crate::graphql::{Field, Value};

/// What has to be known of a column to write SQL for it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "five independent facts, as the catalogue tells them"
)]
#[derive(Debug)]
pub struct Column {
    pub name: String,
    pub json: bool,
    pub array: bool,
    pub nullable: bool,
    pub has_default: bool,
    pub kind: Kind,
}

/// The types that need a value of their own when the client leaves a required column out.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Timestamp,
    Other,
}

/// A table or column name, quoted.
pub fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', ""))
}

/// `INSERT` of one record; required columns that the client leaves to the engine get a value here.
pub fn insert(table: &str, data: &Value, columns: &[Column], suffix: &str) -> String {
    let mut names = Vec::new();
    let mut values = Vec::new();
    for column in columns {
        let written = match lookup(data, &column.name) {
            Some(value) => literal(value, Some(column)),
            None if column.nullable || column.has_default => continue,
            None => missing(column).into(),
        };
        names.push(name(&column.name));
        values.push(written);
    }
    let (table, names, values) = (name(table), names.join(","), values.join(","));
    if names.is_empty() {
        return format!("INSERT INTO {table} DEFAULT VALUES {suffix}");
    }
    format!("INSERT INTO {table} ({names}) VALUES ({values}) {suffix}")
}

/// `UPDATE` of all records that match.
pub fn update(table: &str, data: &Value, filter: &str, columns: &[Column], suffix: &str) -> String {
    let mut sets: Vec<String> = columns
        .iter()
        .filter_map(|column| {
            let value = lookup(data, &column.name)?;
            Some(format!("{}={}", name(&column.name), changed(column, value)))
        })
        .collect();
    if let (true, Some(first)) = (sets.is_empty(), columns.first()) {
        sets.push(format!("{0}={0}", name(&first.name)));
    }
    format!(
        "UPDATE {} SET {} WHERE {filter} {suffix}",
        name(table),
        sets.join(",")
    )
}

/// `SELECT` with order, limit and offset of a find query.
pub fn select(table: &str, query: &Field, only_one: bool, columns: &[Column]) -> String {
    let nothing = Value::Null;
    let filter = condition(query.argument("where").unwrap_or(&nothing), columns);
    let mut sql = format!(
        "SELECT {} FROM {} WHERE {filter}",
        outputs(&query.selection, columns),
        name(table)
    );
    let order: Vec<String> = match query.argument("orderBy") {
        Some(Value::List(list)) => list.iter().filter_map(ordering).collect(),
        Some(one) => ordering(one).into_iter().collect(),
        None => Vec::new(),
    };
    if !order.is_empty() {
        let _ = write!(sql, " ORDER BY {}", order.join(","));
    }
    let limit = if only_one {
        Some(1)
    } else {
        number(query, "take")
    };
    if let Some(limit) = limit {
        let _ = write!(sql, " LIMIT {limit}");
    }
    if let Some(skip) = number(query, "skip") {
        let _ = write!(sql, " OFFSET {skip}");
    }
    sql
}

/// The list of columns to give back. Selected relations come back as null.
pub fn outputs(selection: &[Field], columns: &[Column]) -> String {
    let list: Vec<String> = selection
        .iter()
        .map(|field| {
            let shown = name(&field.name);
            match find(columns, &field.name) {
                Some(column) if column.json => format!("{shown}::text AS {shown}"),
                Some(_) => shown,
                None => format!("NULL AS {shown}"),
            }
        })
        .collect();
    match (list.is_empty(), columns.first()) {
        (true, Some(first)) => name(&first.name),
        (true, None) => "NULL".into(),
        (false, _) => list.join(","),
    }
}

/// One JSON text a row, in the names that the statement gives its columns.
pub fn as_json_rows(statement: &str) -> String {
    format!("WITH standin AS ({statement}) SELECT row_to_json(standin)::text FROM standin")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A value for a column; without one, PostgreSQL finds out the type by itself.
pub fn literal(value: &Value, column: Option<&Column>) -> String {
    match value {
        Value::Null => "NULL".into(),
        // Prisma's columns hold UTC without saying so.
        Value::Text(text) if column.is_some_and(|column| column.kind == Kind::Timestamp) => {
            format!("{}::timestamptz AT TIME ZONE 'UTC'", quoted(text))
        }
        Value::Text(text) | Value::Atom(text) => quoted(text),
        Value::List(list) if list.is_empty() => "'{}'".into(),
        Value::List(list) => format!("ARRAY[{}]", literals(list, None)),
        Value::Object(_) => lookup(value, "set").map_or("NULL".into(), |set| literal(set, column)),
    }
}

/// The same for a list, separated by commas.
pub fn literals(list: &[Value], column: Option<&Column>) -> String {
    let all: Vec<String> = list.iter().map(|value| literal(value, column)).collect();
    all.join(",")
}

fn missing(column: &Column) -> &'static str {
    match column.kind {
        _ if column.array || column.json => "'{}'",
        Kind::Text => "gen_random_uuid()::text",
        Kind::Timestamp => "now() AT TIME ZONE 'UTC'",
        Kind::Other => "'0'",
    }
}

fn changed(column: &Column, value: &Value) -> String {
    let own = name(&column.name);
    let operation = match value {
        Value::Object(operations) => operations.first(),
        _ => None,
    };
    match operation.map(|(operator, operand)| (operator.as_str(), literal(operand, None))) {
        Some(("increment", by)) => format!("{own}+{by}"),
        Some(("decrement", by)) => format!("{own}-{by}"),
        Some(("push", what)) => format!("{own}||{what}"),
        _ => literal(value, Some(column)),
    }
}

fn ordering(entry: &Value) -> Option<String> {
    let Value::Object(entry) = entry else {
        return None;
    };
    let (column, direction) = entry.first()?;
    let descending = matches!(direction, Value::Atom(word) if word == "desc");
    Some(format!(
        "{}{}",
        name(column),
        if descending { " DESC" } else { " ASC" }
    ))
}

fn number(query: &Field, argument: &str) -> Option<u64> {
    match query.argument(argument)? {
        Value::Atom(digits) => digits.parse().ok(),
        _ => None,
    }
}

/// The column of that name.
pub fn find<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    columns.iter().find(|column| column.name == name)
}

fn lookup<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    match object {
        Value::Object(entries) => entries
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graphql;

    fn columns() -> Vec<Column> {
        let column = |name: &str, kind| Column {
            name: name.into(),
            json: false,
            array: false,
            nullable: false,
            has_default: false,
            kind,
        };
        vec![
            column("id", Kind::Text),
            column("spend", Kind::Other),
            column("at", Kind::Timestamp),
        ]
    }

    fn query(text: &str) -> Field {
        graphql::parse(text).unwrap().remove(0)
    }

    #[test]
    fn a_find_becomes_a_select() {
        let query = query(
            "{ x(where: {id: \"a'b\", OR: [{spend: {gt: 1}}, {spend: null}]}, orderBy: [{at: desc}], take: 5, skip: 2) { id other } }",
        );
        assert_eq!(
            select("T", &query, false, &columns()),
            "SELECT \"id\",NULL AS \"other\" FROM \"T\" WHERE \"id\" = 'a''b' AND (\"spend\" > '1' OR \"spend\" IS NULL) \
             ORDER BY \"at\" DESC LIMIT 5 OFFSET 2"
        );
    }

    #[test]
    fn an_insert_fills_what_the_engine_owes() {
        let query = query("{ x(data: {spend: 2}) { id } }");
        assert_eq!(
            insert("T", query.argument("data").unwrap(), &columns(), ""),
            "INSERT INTO \"T\" (\"id\",\"spend\",\"at\") VALUES (gen_random_uuid()::text,'2',now() AT TIME ZONE 'UTC') "
        );
    }

    #[test]
    fn an_update_knows_increments() {
        let query = query("{ x(data: {spend: {increment: 2}, id: {set: \"z\"}}) { id } }");
        assert_eq!(
            update("T", query.argument("data").unwrap(), "true", &columns(), ""),
            "UPDATE \"T\" SET \"id\"='z',\"spend\"=\"spend\"+'2' WHERE true "
        );
    }
}
