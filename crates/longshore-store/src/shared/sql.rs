//! Statements with our names in them, and arguments that know their types.
//!
//! Types are known beforehand so that a statement can be sent without being prepared first: behind a pooler that gives each
//! transaction another connection, a prepared statement would be looked for where it is not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// An argument of a statement.
pub(super) trait Arg: ToSql + Sync {
    fn as_sql(&self) -> (&(dyn ToSql + Sync), Type);
}

/// A value that has a column type, alone or in an array.
trait Value: ToSql + Sync {
    const ONE: Type;
    const MANY: Type;
}

macro_rules! values {
    ($($type:ty: $one:ident, $many:ident;)*) => {
        $(impl Value for $type {
            const ONE: Type = Type::$one;
            const MANY: Type = Type::$many;
        }

        impl Arg for $type {
            fn as_sql(&self) -> (&(dyn ToSql + Sync), Type) {
                (self, Type::$one)
            }
        })*
    };
}

values! {
    i16: INT2, INT2_ARRAY;
    i32: INT4, INT4_ARRAY;
    i64: INT8, INT8_ARRAY;
    f64: FLOAT8, FLOAT8_ARRAY;
    bool: BOOL, BOOL_ARRAY;
    String: TEXT, TEXT_ARRAY;
    &str: TEXT, TEXT_ARRAY;
    Uuid: UUID, UUID_ARRAY;
    &[u8]: BYTEA, BYTEA_ARRAY;
}

impl<T: Value> Value for Option<T> {
    const ONE: Type = T::ONE;
    const MANY: Type = T::MANY;
}

impl<T: Value> Arg for Option<T> {
    fn as_sql(&self) -> (&(dyn ToSql + Sync), Type) {
        (self, T::ONE)
    }
}

impl<T: Value> Arg for Vec<T> {
    fn as_sql(&self) -> (&(dyn ToSql + Sync), Type) {
        (self, T::MANY)
    }
}

/// Arguments of a statement, in order.
pub(super) type Args<'a> = &'a [&'a dyn Arg];

/// Writes a list of arguments.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$(&$value as &dyn $crate::shared::sql::Arg),*] };
}
pub(super) use args;

/// Our schema, and the statements as they read in it.
pub(super) struct Names {
    plain: String,
    schema: String,
    known: Mutex<HashMap<&'static str, Arc<str>>>,
}

impl Names {
    pub(super) fn new(schema: &str) -> Names {
        Names { plain: schema.to_owned(), schema: quoted(schema), known: Mutex::default() }
    }

    /// The schema's name as the catalog has it.
    pub(super) fn plain(&self) -> &str {
        &self.plain
    }

    /// The schema's name as it is written in a statement.
    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// The statement with its names in our schema.
    pub(super) fn of(&self, sql: &'static str) -> Arc<str> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(sql).or_insert_with(|| self.expand(sql).into()))
    }

    /// Puts the schema before each name that is marked with `@`.
    pub(super) fn expand(&self, sql: &str) -> String {
        sql.replace('@', &format!("{}.", self.schema))
    }
}

/// A name as SQL takes it, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_into_the_schema() {
        let names = Names::new("a\"b");
        assert_eq!(&*names.of("SELECT 1 FROM @task"), "SELECT 1 FROM \"a\"\"b\".task");
    }
}
