//! Brings a schema to the newest version, by one replica at a time. Forward only.

use super::connection::Connection;
use super::fault::DbError;
use super::sql::{Names, args};

/// The schema, step by step; the number of steps is its version.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("../../sql/postgres/0001.sql")];

/// Held while migrating: "LNGS".
const LOCK: &str = "SELECT pg_advisory_xact_lock(1280263507, hashtext($1))";

const VERSION: &str = "SELECT version FROM @schema_version";
const SCHEMA_EXISTS: &str = "SELECT to_regnamespace($1) IS NOT NULL";
const EXISTS: &str = "SELECT to_regclass($1) IS NOT NULL";

/// The version of the schema; 0 where there is none.
pub(super) async fn version(connection: &Connection, names: &Names) -> Result<usize, DbError> {
    let table = format!("{}.schema_version", names.schema());
    if !connection.query_one(EXISTS, args![table]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let version: i64 = connection.query_one(VERSION, args![]).await?.try_get(0)?;
    Ok(usize::try_from(version).unwrap_or_default())
}

/// Runs the steps that are missing in one transaction; returns the version that was found and the one that is there now.
pub(super) async fn forward(connection: &Connection, names: &Names) -> Result<(usize, usize), DbError> {
    connection.begin_long().await?;
    connection.query(LOCK, args![names.schema()]).await?;
    let found = version(connection, names).await?;
    if found >= MIGRATIONS.len() {
        connection.roll_back().await;
        return Ok((found, found));
    }
    if found == 0 {
        make_schema(connection, names).await?;
    }
    connection.script(&script(names, found)).await?;
    connection.commit().await?;
    Ok((found, MIGRATIONS.len()))
}

/// Where the schema was made for us, we may not be allowed to make any: `IF NOT EXISTS` asks for that right all the same.
async fn make_schema(connection: &Connection, names: &Names) -> Result<(), DbError> {
    let exists: bool = connection.query_one(SCHEMA_EXISTS, args![names.schema()]).await?.try_get(0)?;
    if exists {
        return Ok(());
    }
    connection.script(&create_schema(names)).await
}

fn create_schema(names: &Names) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {};\n", names.schema())
}

/// All steps, as a person may run them.
pub(super) fn script_from(names: &Names, done: usize) -> String {
    let begin = if done == 0 { create_schema(names) } else { String::new() };
    begin + &script(names, done)
}

/// The steps after the first `done` ones, as they are run.
fn script(names: &Names, done: usize) -> String {
    let mut script = String::new();
    if done == 0 {
        script.push_str(&names.expand("CREATE TABLE @schema_version (one integer PRIMARY KEY CHECK (one = 1), version bigint NOT NULL);\nINSERT INTO @schema_version VALUES (1, 0);\n"));
    }
    for step in MIGRATIONS.iter().skip(done) {
        script.push_str(&names.expand(step));
        script.push('\n');
    }
    script.push_str(&names.expand(&format!("UPDATE @schema_version SET version = {};\n", MIGRATIONS.len())));
    script
}
