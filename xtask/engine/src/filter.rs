//! Turns the filter of a query into the condition of a `WHERE`. No connection, no I/O.

use crate::graphql::Value;
use crate::sql::{Column, find, literal, literals, name};

/// A `WHERE` condition; `true` when nothing is asked. Filters on relations are dropped: LiteLLM needs none of them here.
pub fn condition(filter: &Value, columns: &[Column]) -> String {
    let Value::Object(entries) = filter else {
        return "true".into();
    };
    let parts: Vec<String> = entries
        .iter()
        .filter_map(|(key, value)| match key.as_str() {
            "AND" => joined(value, columns, " AND "),
            "OR" => joined(value, columns, " OR "),
            "NOT" => joined(value, columns, " AND ").map(|all| format!("NOT {all}")),
            _ => match find(columns, key) {
                Some(column) => Some(comparisons(column, value)),
                // A compound key names its columns one level down.
                None => matches!(value, Value::Object(_)).then(|| condition(value, columns)),
            },
        })
        .collect();
    if parts.is_empty() {
        "true".into()
    } else {
        parts.join(" AND ")
    }
}

fn joined(filters: &Value, columns: &[Column], word: &str) -> Option<String> {
    let parts: Vec<String> = match filters {
        Value::List(list) => list.iter().map(|one| condition(one, columns)).collect(),
        one => vec![condition(one, columns)],
    };
    (!parts.is_empty()).then(|| format!("({})", parts.join(word)))
}

fn comparisons(column: &Column, value: &Value) -> String {
    let Value::Object(operators) = value else {
        return equals(column, value);
    };
    let all: Vec<String> = operators
        .iter()
        .map(|(operator, operand)| comparison(column, operator, operand))
        .collect();
    if all.is_empty() {
        "true".into()
    } else {
        all.join(" AND ")
    }
}

fn equals(column: &Column, value: &Value) -> String {
    let left = name(&column.name);
    match value {
        Value::Null => format!("{left} IS NULL"),
        value => format!("{left} = {}", literal(value, Some(column))),
    }
}

fn comparison(column: &Column, operator: &str, operand: &Value) -> String {
    let left = name(&column.name);
    let right = literal(operand, Some(column));
    match (operator, operand) {
        ("equals", operand) => equals(column, operand),
        ("not", Value::Null) => format!("{left} IS NOT NULL"),
        ("not", Value::Object(_)) => format!("NOT ({})", comparisons(column, operand)),
        ("not", _) => format!("{left} <> {right}"),
        ("gt", _) => format!("{left} > {right}"),
        ("gte", _) => format!("{left} >= {right}"),
        ("lt", _) => format!("{left} < {right}"),
        ("lte", _) => format!("{left} <= {right}"),
        ("in", Value::List(list)) if list.is_empty() => "false".into(),
        ("in", Value::List(list)) => format!("{left} IN ({})", literals(list, Some(column))),
        ("notIn", Value::List(list)) if list.is_empty() => "true".into(),
        ("notIn", Value::List(list)) => format!("{left} NOT IN ({})", literals(list, Some(column))),
        ("contains", _) => format!("{left} ILIKE '%'||{right}||'%'"),
        ("startsWith", _) => format!("{left} LIKE {right}||'%'"),
        ("endsWith", _) => format!("{left} LIKE '%'||{right}"),
        ("has", _) => format!("{right} = ANY({left})"),
        // `mode` and its like change how an operator beside them works; none of LiteLLM's own queries depends on it.
        _ => "true".into(),
    }
}
