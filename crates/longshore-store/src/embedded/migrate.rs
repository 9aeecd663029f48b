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
    include_str!("../../sql/0006.sql"),
    include_str!("../../sql/0008.sql"),
    include_str!("../../sql/0005.sql"),
    include_str!("../../sql/0004.sql"),
    include_str!("../../sql/0007.sql"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_queued_before_there_were_tenants_is_counted_and_claimed_as_before() {
        let mut file = Connection::open_in_memory().expect("memory");
        run(&mut file, &MIGRATIONS[..3], 0).expect("the schema before");
        let task = |ord: i64, state: &str, hold: &str| {
            format!(
                "INSERT INTO task (ord, id, fleet, state, hold, priority, timeout_ms, max_attempts, on_interrupt,
                    backoff_base_ms, backoff_cap_ms, labels, publish_input, created_at)
                 VALUES ({ord}, randomblob(16), 'a', '{state}', {hold}, 0, 1, 1, 'resume', 1, 1, '{{}}', 0, 1);"
            )
        };
        let rows = [
            task(1, "queued", "'ready'"),
            task(2, "queued", "'ready'"),
            task(3, "running", "NULL"),
            "INSERT INTO runnable (fleet, rank, ord, alone, since) VALUES ('a', 0, 1, 0, 7), ('a', 0, 2, 1, 8);".into(),
            "INSERT INTO fleet_count VALUES ('a', 2, 0, 0, 1, 0, 0, 0, 0);".into(),
        ];
        file.execute_batch(&rows.concat()).expect("rows of then");
        run(&mut file, MIGRATIONS, 3).expect("the schema of now");
        let lane = "SELECT tenant, runnable, suspects, running, pass FROM lane";
        let lane: (String, i64, i64, i64, i64) = file
            .query_row(lane, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .expect("one lane");
        assert_eq!(lane, ("default".into(), 2, 1, 1, 0));
        let queued = "SELECT group_concat(tenant || ord || since) FROM runnable";
        let queued: String = file.query_row(queued, [], |row| row.get(0)).expect("both");
        assert_eq!(queued, "default17,default28");
    }
}
