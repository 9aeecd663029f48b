//! Makes a new store: whole under another name first, so that a crash never leaves half of one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::OpenError;
use crate::embedded::migrate;

pub(super) fn create(path: &Path, migrations: &[&str]) -> Result<(), OpenError> {
    let new = path.with_extension("db.new");
    let made = make(&new, path, migrations);
    if made.is_err() {
        remove(&new);
    }
    made
}

fn make(new: &Path, path: &Path, migrations: &[&str]) -> Result<(), OpenError> {
    remove(new);
    let failed = |error| OpenError::io("make", path, error);
    // SQLite gives its other files the rights of this one.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).map_err(failed)?;
    fill(new, migrations).map_err(|error| OpenError::sqlite("make", path, error))?;
    File::open(new).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(new, path).map_err(failed)?;
    sync_folder(path).map_err(failed)
}

fn fill(new: &Path, migrations: &[&str]) -> rusqlite::Result<()> {
    let mut connection = Connection::open(new)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    migrate::run(&mut connection, migrations, 0)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.close().map_err(|(_, error)| error)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Removes what an interrupted attempt left.
fn remove(new: &Path) {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let mut file = new.as_os_str().to_owned();
        file.push(suffix);
        // Not there is what is wanted.
        let _ = std::fs::remove_file(PathBuf::from(file));
    }
}
