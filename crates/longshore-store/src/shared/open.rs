//! Connects to the shared store, or says why not.

use std::path::PathBuf;
use std::sync::Arc;

use longshore_core::time::Timestamp;
use tracing::info;

use super::address;
use super::companion::RedisOptions;
use super::connection::Connection;
use super::core::Core;
use super::fault::DbError;
use super::pool::{self, Way};
use super::sql::{Names, args};
use super::{Shared, migrate, partition};
use crate::redis::options::OptionsError;

/// How to connect to a shared store.
#[derive(Clone)]
pub struct ConnectOptions {
    /// `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=FILE`
    pub database: String,
    /// Replaces the password of the address.
    pub password: Option<String>,
    /// Read anew for each connection, since it may be rotated; replaces both.
    pub password_file: Option<PathBuf>,
    /// Made if it is not there.
    pub schema: String,
    /// The most connections of this replica.
    pub connections: usize,
    /// Behind a pooler that gives each transaction another connection, such as PgBouncer in transaction mode.
    pub pooled: bool,
    pub migrate: Migrate,
    /// Without one, replicas look for themselves, and histories come from the database.
    pub redis: Option<RedisOptions>,
}

/// What to do with a schema that is not the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrate {
    Auto,
    /// Refuse to start.
    Check,
}

impl ConnectOptions {
    pub fn new(database: impl Into<String>) -> ConnectOptions {
        ConnectOptions {
            database: database.into(),
            password: None,
            password_file: None,
            schema: "longshore".into(),
            connections: 16,
            pooled: false,
            migrate: Migrate::Auto,
            redis: None,
        }
    }
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address may hold a password.
        f.debug_struct("ConnectOptions").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Why a shared store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the database's address is not valid: {0}")]
    Address(String),
    #[error("{0}")]
    Redis(String),
    #[error("the database cannot be used: {0}")]
    Unreachable(String),
    #[error("the database runs with `{setting} = {value}`, and would lose tasks that it has acknowledged")]
    Unsafe { setting: &'static str, value: String },
    #[error("the database is PostgreSQL {found}; longshore needs 13 or newer")]
    TooOld { found: String },
    #[error(
        "schema `{schema}` was written by a newer longshore (version {found}, this one knows up to {known})"
    )]
    Newer { schema: String, found: usize, known: usize },
    #[error("schema `{schema}` is at version {found} and this longshore needs {known}")]
    Behind { schema: String, found: usize, known: usize },
}

impl From<OptionsError> for ConnectError {
    fn from(error: OptionsError) -> Self {
        ConnectError::Redis(error.to_string())
    }
}

impl From<DbError> for ConnectError {
    fn from(error: DbError) -> Self {
        ConnectError::Unreachable(super::fault::words(&error))
    }
}

impl Shared {
    pub(crate) async fn connect(options: &ConnectOptions, now: Timestamp) -> Result<Shared, ConnectError> {
        let core = connect(options)?;
        let connection = core.connection().await?;
        check(&connection).await?;
        prepare(&connection, &core.names, options).await?;
        partition::ensure(&connection, &core.names, now).await?;
        drop(connection);
        Ok(Shared::new(core))
    }
}

fn connect(options: &ConnectOptions) -> Result<Core, ConnectError> {
    let address = address::read(&options.database).map_err(ConnectError::Address)?;
    let mut config = address.config;
    if let Some(password) = &options.password {
        config.password(password);
    }
    let way = Way {
        config,
        password_file: options.password_file.clone(),
        ca_file: address.ca_file,
        pooled: options.pooled,
    };
    let names = Arc::new(Names::new(&options.schema));
    let pool = pool::pool(way, Arc::clone(&names), options.connections)?;
    Ok(Core::new(pool, names, options.redis.as_ref())?)
}

/// Refuses a database that does not keep what it acknowledges.
async fn check(connection: &Connection) -> Result<(), ConnectError> {
    let settings = "SELECT current_setting('fsync'), current_setting('synchronous_commit'),
        current_setting('server_version_num')::bigint, current_setting('server_version')";
    let row = connection.query_one(settings, args![]).await?;
    let text = |at: usize| row.try_get::<_, String>(at).map_err(DbError::from);
    let version: i64 = row.try_get(2).map_err(DbError::from)?;
    if version < 130_000 {
        return Err(ConnectError::TooOld { found: text(3)? });
    }
    for (setting, value) in [("fsync", text(0)?), ("synchronous_commit", text(1)?)] {
        if value == "off" {
            return Err(ConnectError::Unsafe { setting, value });
        }
    }
    Ok(())
}

async fn prepare(
    connection: &Connection,
    names: &Names,
    options: &ConnectOptions,
) -> Result<(), ConnectError> {
    let (schema, known) = (options.schema.clone(), migrate::MIGRATIONS.len());
    let found = migrate::version(connection, names).await?;
    match options.migrate {
        _ if found > known => return Err(ConnectError::Newer { schema, found, known }),
        Migrate::Check if found < known => return Err(ConnectError::Behind { schema, found, known }),
        _ if found == known => return Ok(()),
        _ => {}
    }
    let (from, to) = migrate::forward(connection, names).await?;
    if to > from {
        info!(from, to, schema = options.schema, "store migrated");
    }
    Ok(())
}

/// The statements that bring a schema of this name from a version (0: nothing) to the newest; `None`: there is no such
/// version.
pub fn migration_script(schema: &str, from: usize) -> Option<String> {
    (from <= migrate::MIGRATIONS.len()).then(|| migrate::script_from(&Names::new(schema), from))
}

/// Brings the schema to the newest version, whatever the options say about that; returns the version that was found and the
/// one that is there now.
pub async fn migrate_now(options: &ConnectOptions) -> Result<(usize, usize), ConnectError> {
    let core = connect(options)?;
    let connection = core.connection().await?;
    check(&connection).await?;
    let (found, known) = (migrate::version(&connection, &core.names).await?, migrate::MIGRATIONS.len());
    if found > known {
        return Err(ConnectError::Newer { schema: options.schema.clone(), found, known });
    }
    Ok(migrate::forward(&connection, &core.names).await?)
}
