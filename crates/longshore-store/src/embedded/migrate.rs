//! Brings an older file to the newest schema, after a copy was made of it. Forward only.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};
use tracing::info;

use super::open::OpenError;

/// "LNGS": tells our files from those of other applications.
pub(super) const APPLICATION_ID: u32 = 0x4c4e_4753;

/// The schema, step by step; the number of steps is its version.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../sql/0001.sql"),
    include_str!("../../sql/0002.sql"),
    include_str!("../../sql/0003.sql"),
    include_str!("../../sql/0005.sql"),
];

/// Migrates a file that is open. Nothing is done to one that is new enough.
pub(super) fn forward(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), OpenError> {
    let failed = |error| OpenError::sqlite("migrate", path, error);
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    if found == known {
        return Ok(());
    }
    let copy = keep_copy(connection, path, found)?;
    run(connection, migrations, found as usize).map_err(failed)?;
    info!(from = found, to = known, copy = %copy.display(), "store migrated");
    Ok(())
}

/// Runs all steps after the first `done` ones in one transaction.
pub(super) fn run(connection: &mut Connection, migrations: &[&str], done: usize) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in migrations.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", migrations.len() as u32)?;
    transaction.commit()
}

/// Copies the file as it is to `longshore.db.v<N>.bak`; a copy that was broken off never has that name.
fn keep_copy(connection: &Connection, path: &Path, version: u32) -> Result<PathBuf, OpenError> {
    let copy = path.with_extension(format!("db.v{version}.bak"));
    let partial = path.with_extension(format!("db.v{version}.partial"));
    let failed = |error| OpenError::io("copy before the migration", path, error);
    if partial.exists() {
        std::fs::remove_file(&partial).map_err(failed)?;
    }
    let made = connection.execute("VACUUM INTO ?1", [partial.to_string_lossy()]);
    if let Err(error) = made {
        // What is left of it must not take up the room that is missing.
        let _ = std::fs::remove_file(&partial);
        return Err(OpenError::sqlite("copy before the migration", path, error));
    }
    std::fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&partial, &copy).map_err(failed)?;
    Ok(copy)
}
