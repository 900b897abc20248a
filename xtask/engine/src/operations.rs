//! One operation of the client, such as `findManyLiteLLM_Config`, carried out on the database.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};
use tokio_postgres::types::Type;

use crate::database::{Database, Failure, TextParameter, failure};
use crate::filter;
use crate::graphql::{Field, Value};
use crate::sql::{self, Column};

/// Longest first where one name begins another.
const OPERATIONS: [&str; 13] = [
    "findMany",
    "findUnique",
    "findFirst",
    "createOne",
    "createMany",
    "updateOne",
    "updateMany",
    "upsertOne",
    "deleteOne",
    "deleteMany",
    "aggregate",
    "groupBy",
    "count",
];

const NOTHING: &Value = &Value::Null;

/// Runs one top-level field of a request.
pub async fn run(database: &Database, query: &Field) -> Result<Json, Failure> {
    match query.name.as_str() {
        "queryRaw" => return query_raw(database, query).await,
        "executeRaw" => {
            let parameters = parameters(query.text("parameters"));
            return Ok(json!(
                database.execute(query.text("query"), &parameters).await?
            ));
        }
        _ => {}
    }
    let (operation, table) = OPERATIONS
        .iter()
        .find_map(|operation| Some((*operation, query.name.strip_prefix(operation)?)))
        .ok_or_else(|| {
            failure(
                "P2009",
                format!("this stand-in does not know the operation {}", query.name),
            )
        })?;
    let table = table.trim_end_matches("OrThrow");
    let columns = database.columns(table).await?;
    on_table(database, query, operation, table, &columns).await
}

async fn on_table(
    database: &Database,
    query: &Field,
    operation: &str,
    table: &str,
    columns: &[Column],
) -> Result<Json, Failure> {
    let filter = filter::condition(query.argument("where").unwrap_or(NOTHING), columns);
    let data = query.argument("data").unwrap_or(NOTHING);
    let returning = format!("RETURNING {}", sql::outputs(&query.selection, columns));
    let update = |data, suffix| sql::update(table, data, &filter, columns, suffix);
    let insert = |data, suffix| sql::insert(table, data, columns, suffix);
    let delete = format!("DELETE FROM {} WHERE {filter}", sql::name(table));
    Ok(match operation {
        "findMany" => {
            Json::Array(rows(database, &sql::select(table, query, false, columns)).await?)
        }
        "findUnique" | "findFirst" => {
            first(rows(database, &sql::select(table, query, true, columns)).await?)
        }
        "createOne" => first(rows(database, &insert(data, &returning)).await?),
        "updateOne" => first(rows(database, &update(data, &returning)).await?),
        "deleteOne" => first(rows(database, &format!("{delete} {returning}")).await?),
        "upsertOne" => {
            let changes = query.argument("update").unwrap_or(NOTHING);
            let found = rows(database, &update(changes, &returning)).await?;
            if found.is_empty() {
                let new = query.argument("create").unwrap_or(NOTHING);
                first(rows(database, &insert(new, &returning)).await?)
            } else {
                first(found)
            }
        }
        "createMany" => {
            let records = match data {
                Value::List(records) => records.as_slice(),
                one => std::slice::from_ref(one),
            };
            let mut count = 0;
            for record in records {
                count += database
                    .execute(&insert(record, "ON CONFLICT DO NOTHING"), &[])
                    .await?;
            }
            json!({ "count": count })
        }
        "updateMany" => json!({ "count": database.execute(&update(data, ""), &[]).await? }),
        "deleteMany" => json!({ "count": database.execute(&delete, &[]).await? }),
        "aggregate" => first(database.json_rows(&count_all(table, &filter), &[]).await?),
        // Usage reports only; the proxy asks for none of them here.
        _ => json!([]),
    })
}

async fn rows(database: &Database, statement: &str) -> Result<Vec<Json>, Failure> {
    database.json_rows(&sql::as_json_rows(statement), &[]).await
}

fn count_all(table: &str, filter: &str) -> String {
    format!(
        "SELECT json_build_object('_count', json_build_object('_all', count(*)))::text FROM {} WHERE {filter}",
        sql::name(table)
    )
}

fn first(rows: Vec<Json>) -> Json {
    rows.into_iter().next().unwrap_or(Json::Null)
}

async fn query_raw(database: &Database, query: &Field) -> Result<Json, Failure> {
    let statement = query.text("query").trim().trim_end_matches(';');
    let parameters = parameters(query.text("parameters"));
    let prepared = database.prepare(statement).await?;
    if prepared.columns().is_empty() {
        database.execute(statement, &parameters).await?;
        return Ok(json!([]));
    }
    let types: HashMap<&str, &str> = prepared
        .columns()
        .iter()
        .map(|column| (column.name(), type_name(column.type_())))
        .collect();
    let rows = database
        .json_rows(&sql::as_json_rows(statement), &parameters)
        .await?;
    Ok(rows.into_iter().map(|row| typed_row(row, &types)).collect())
}

/// Raw rows carry each value with the name of its type.
fn typed_row(row: Json, types: &HashMap<&str, &str>) -> Json {
    let Json::Object(row) = row else {
        return row;
    };
    let row: Map<String, Json> = row
        .into_iter()
        .map(|(name, value)| {
            let kind = if value.is_null() {
                "null"
            } else {
                types.get(name.as_str()).copied().unwrap_or("string")
            };
            let value = match (kind, value) {
                ("bigint" | "decimal", Json::Number(number)) => json!(number.to_string()),
                (_, value) => value,
            };
            (
                name,
                json!({ "prisma__type": kind, "prisma__value": value }),
            )
        })
        .collect();
    Json::Object(row)
}

fn parameters(list: &str) -> Vec<TextParameter> {
    let list: Vec<Json> = serde_json::from_str(list).unwrap_or_default();
    list.into_iter()
        .map(|value| TextParameter(as_text(value)))
        .collect()
}

fn as_text(value: Json) -> Option<String> {
    match value {
        Json::Null => None,
        Json::String(text) => Some(text),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(Json::to_string).collect();
            Some(format!("{{{}}}", items.join(",")))
        }
        // Dates and their like come as {"prisma__type": …, "prisma__value": …}.
        Json::Object(object) => match object.get("prisma__value") {
            Some(Json::String(text)) => Some(text.clone()),
            _ => Some(Json::Object(object).to_string()),
        },
        other => Some(other.to_string()),
    }
}

fn type_name(type_: &Type) -> &'static str {
    match *type_ {
        Type::INT2 | Type::INT4 | Type::OID => "int",
        Type::INT8 => "bigint",
        Type::FLOAT4 => "float",
        Type::FLOAT8 => "double",
        Type::NUMERIC => "decimal",
        Type::BOOL => "bool",
        Type::JSON | Type::JSONB => "json",
        Type::TIMESTAMP | Type::TIMESTAMPTZ => "datetime",
        Type::DATE => "date",
        Type::UUID => "uuid",
        _ => "string",
    }
}
